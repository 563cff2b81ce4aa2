"""The variational autoencoder: densities by NumPy, guides, uses, caveats, a saved decoder."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import QUIET, problem_of
from scipy import special, stats

import zoo
from inference.methods.ascent import AscentSettings
from inference.methods.draws import draw_one
from inference.methods.guides import resolve
from inference.methods.svi import svi
from inference.methods.training import gradient_of, store, trained_guide
from inference.program.handlers import Batch, run
from inference.program.program import Program
from inference.program.sampling import over_draws
from models import vae
from models.contract import BadInput, Refused, View

SMALL = {"n": 60, "latent": 2, "hidden": "8"}
SHORT = {"steps": 100, "draws": 50, "rows": 10}


def parameters(latent=2, seed=0):
    """Of decoder and encoder, 64 pixels and 8 hidden units."""
    rng = np.random.default_rng(seed)
    shapes = {"decoder.0": (8, latent), "decoder.x": (64, 8), "encoder.0": (8, 64)}
    shapes |= {"encoder.loc": (latent, 8), "encoder.log_scale": (latent, 8)}
    shapes |= {"encoder.below": (latent**2, 8)}
    params = {}
    for name, shape in shapes.items():
        params[f"{name}.weight"] = torch.as_tensor(rng.normal(size=shape) / shape[1] ** 0.5)
        params[f"{name}.bias"] = torch.as_tensor(rng.normal(size=shape[0]))
    return params


def of_encoder(x, name):
    p = {k: v.numpy() for k, v in parameters().items()}
    h = np.tanh(x @ p["encoder.0.weight"].T + p["encoder.0.bias"])
    return h @ p[f"encoder.{name}.weight"].T + p[f"encoder.{name}.bias"]


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli"])
def test_the_joint_density_against_numpy(likelihood):
    binarise = "none" if likelihood == "continuous_bernoulli" else "dynamic"
    problem = problem_of("vae", **SMALL, likelihood=likelihood, binarise=binarise)
    program = Program(replace(problem, params=parameters()))
    x, z = problem.tensors["x"].numpy(), np.random.default_rng(1).normal(size=(3, 60, 2))
    p = {k: v.numpy() for k, v in parameters().items()}
    h = np.tanh(z @ p["decoder.0.weight"].T + p["decoder.0.bias"])
    logits = h @ p["decoder.x.weight"].T + p["decoder.x.bias"]
    each = x * logits + special.log_expit(-logits)
    if likelihood == "continuous_bernoulli":  # its constant: Loaiza-Ganem and Cunningham, eq. 8
        chance = special.expit(logits)
        each = each + np.log(2 * np.arctanh(1 - 2 * chance) / (1 - 2 * chance))
    truth = each.sum((1, 2)) + stats.norm.logpdf(z).sum((1, 2))
    found = over_draws(program.log_joint, {"z": torch.as_tensor(z)})
    np.testing.assert_allclose(found, truth, rtol=1e-9)


@pytest.mark.parametrize("guide", ["own", "full"])
def test_the_density_of_a_guide_against_numpy(guide):
    problem = replace(problem_of("vae", **SMALL), params=parameters())
    program = Program(problem)
    with trained_guide(program, guide) as trained:
        torch.manual_seed(0)
        values, log_q = draw_one(program, trained, Batch(problem.tensors))
    x, z = problem.tensors["x"].numpy(), values["z"].detach().numpy()
    loc, scale = of_encoder(x, "loc"), np.exp(of_encoder(x, "log_scale"))
    total = 0.0
    for i in range(len(x)):
        below = of_encoder(x[i : i + 1], "below")[0, 2] if guide == "full" else 0.0
        tril = scale[i][:, None] * np.array([[1.0, 0.0], [below, 1.0]])
        total += stats.multivariate_normal(loc[i], tril @ tril.T).logpdf(z[i])
    np.testing.assert_allclose(log_q.detach(), total, rtol=1e-9)


def test_the_flow_begins_as_the_independent_normals():
    problem = problem_of("vae", **SMALL)
    found = []
    for guide in ("own", "flow"):
        with store():
            program = Program(problem)
            chosen = resolve(guide, program).guide
            torch.manual_seed(0)
            run(chosen, problem.tensors)
            torch.manual_seed(1)
            found.append(run(chosen, problem.tensors).nodes["z"])
    assert torch.allclose(found[0]["value"], found[1]["value"])
    logs = [node["fn"].log_prob(node["value"]) for node in found]
    assert torch.allclose(*logs)


@pytest.mark.slow
def test_the_flow_has_a_density_that_integrates_to_one():
    problem = problem_of("vae", **SMALL | {"n": 2})
    fit = svi(Program(problem), seed=0, context=QUIET, guide="flow", steps=150, lr=0.02, draws=2)
    fitted = Program(replace(problem, params=fit.params))
    with trained_guide(fitted, "flow") as guide, torch.no_grad():
        fn = run(guide, problem.tensors).nodes["z"]["fn"]
        middle, side = fn.sample((4000,)).mean(0)[0], torch.linspace(-6, 6, 201)
        plane = torch.cartesian_prod(side, side)[:, None].expand(-1, 2, 2)
        mass = fn.log_prob(middle + plane)[:, 0].exp().sum() * 0.06**2
    assert abs(mass - 1) < 1e-3


def test_dynamic_pixels_are_what_a_step_sees():
    """Of grey images the objective of a step changes with the pixels, of static ones not."""
    spread = {}
    for binarise in ("dynamic", "static"):
        problem = problem_of("vae", **SMALL, binarise=binarise)
        examples = [[], []]
        with store():
            program = Program(problem)
            settings = AscentSettings(steps=10, particles=400)
            chosen = resolve("own", program)
            gradient, _ = gradient_of(program, chosen, settings, examples)
            spread[binarise] = torch.stack([gradient()[0] for _ in range(20)]).std()
    assert spread["dynamic"] > 3 * spread["static"]


def test_a_run_tells_what_its_code_is_worth(tmp_path):
    done = zoo.run("vae", **SMALL, **SHORT, out=tmp_path)
    kept = ("nll", "nll_mcse", "elbo_test", "elbo_train", "active_units", "knn", "probe_pixels")
    assert set(kept) <= set(done.metrics)
    assert done.idata["posterior"]["z"].shape == (1, 50, 10, 2)
    assert "log_likelihood" not in done.idata.groups()
    assert "elpd_loo" not in done.metrics
    for kind in ("samples", "reconstructions", "manifold", "interpolation"):
        assert (done.path / "figures" / f"{kind}.png").is_file()
    loaded = zoo.load(done.path)
    assert loaded.plot("samples").axes
    assert loaded.predict(rows=2).shape[0] == 128


def test_caveats():
    sound = {"active_units": 3, "elbo_test": -20.0, "elbo_train": -19.5}
    view = View(data=vae.ENTRY.data(n=20), draws={}, options={"latent": 4}, metrics=sound)
    assert vae.caveats(view) == []
    ((reason, fix),) = vae.caveats(replace(view, options={"latent": 3}))
    assert "every number of the code (3) is in use" in reason
    assert "latent=6" in fix
    ((reason, _),) = vae.caveats(replace(view, metrics=sound | {"elbo_train": -15.0}))
    assert "5.0 nats above those held out" in reason


def test_a_code_of_one_number_is_too_short():
    done = zoo.run("vae", n=300, latent=1, hidden="20", steps=500, draws=50, rows=5)
    assert done.verdict.status != "pass"
    assert any("every number of the code (1) is in use" in r for r in done.verdict.reasons)


@pytest.mark.parametrize("options", [{"binarise": "none"}, {"likelihood": "continuous_bernoulli"}])
def test_pixels_that_the_likelihood_cannot_give_are_refused(options):
    with pytest.raises(Refused, match="pixels; use"):
        zoo.run("vae", **options)


# -- a saved decoder ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A run with a decoder, saved."""
    out = tmp_path_factory.mktemp("decoder")
    return zoo.run("vae", **SMALL, steps=300, draws=20, rows=5, out=out)


@pytest.mark.slow
def test_codes_under_a_saved_decoder_by_every_method(decoder):
    asked = {"init": decoder.path, "part": "test", "n": 3}
    truth = zoo.run("vae", method="nuts", **asked, chains=2, warmup=500, draws=1000)
    assert truth.metrics.keys() == set()
    loc = truth.idata["posterior"]["z"].mean(("chain", "draw"))
    for method, settings in (
        ("laplace", {}),
        ("svi", {"guide": "mvn", "steps": 4000, "lr": 0.02, "schedule": "linear"}),
        ("map", {}),
    ):
        more = {"rows": None, "draws": 2000} if method == "svi" else {}
        done = zoo.run("vae", method=method, **asked, **settings, **more)
        away = abs(done.idata["posterior"]["z"].mean(("chain", "draw")) - loc)
        assert away.max() < 0.5
        for name in Program(problem_of("vae", **SMALL)).own:
            assert torch.equal(torch.as_tensor(done.params[name]), decoder.params[name])


def test_a_run_under_a_saved_decoder_stands_alone(decoder, tmp_path):
    done = zoo.run("vae", method="map", init=decoder, part="test", n=4, out=tmp_path)
    assert done.record["init"]["run"] == str(decoder.path)
    assert done.record["options"]["hidden"] == "8"
    assert zoo.load(done.path).predict(rows=1).shape == (64, 4)
    assert zoo.resume(done.path).verdict.status == done.verdict.status


def test_methods_are_compared_under_a_saved_decoder(decoder):
    under = {"init": decoder, "part": "test", "n": 3}
    table = zoo.compare("vae", methods="map,svi:normal", **under, steps=50, draws=50)
    assert list(table.index) == ["map", "svi:normal"]
    assert all(done.record["init"]["sha256"] for done in table.runs.values())
    with pytest.raises(zoo.UsageError, match="init would have no effect"):
        zoo.compare(*table.runs.values(), init=decoder)


def test_what_does_not_fit_a_saved_decoder_is_told(decoder):
    with pytest.raises(zoo.UsageError, match="latent=3, but the run of --init has latent=2"):
        zoo.run("vae", method="map", init=decoder, latent=3)
    with pytest.raises(Refused, match="no parameters of its own for --init"):
        zoo.run("coin", method="map", init=zoo.run("coin", method="map"))
    with pytest.raises(Exception, match="the model changed since the run"):
        zoo.run("coin", method="map", init=decoder)


def test_a_guide_keeps_its_own_parameters_under_a_saved_decoder(decoder):
    done = zoo.run("vae", guide="own", init=decoder, part="test", n=20, steps=20, rows=None)
    name = "decoder.0.weight"
    assert torch.equal(torch.as_tensor(done.params[name]), decoder.params[name])
    assert not torch.equal(
        torch.as_tensor(done.params["encoder.0.weight"]), decoder.params["encoder.0.weight"]
    )


def test_a_guide_begins_with_the_encoder_of_the_run_it_is_under(decoder):
    asked = {"init": decoder, "steps": 1, "lr": 1e-9, "draws": 20}
    for guide in ("full", "flow"):
        done = zoo.run("vae", guide=guide, **asked)
        same = [k for k in done.params if k in decoder.params]
        assert {"encoder.0.weight", "encoder.loc.weight"} <= set(same)
        for name in same:
            assert np.allclose(done.params[name], decoder.params[name], atol=1e-6)
    assert done.metrics["elbo_test"] == pytest.approx(decoder.metrics["elbo_test"], abs=0.3)


def test_parameters_of_other_images_are_no_beginning(decoder):
    asked = {"guide": "normal", "part": "test", "steps": 1, "draws": 20}
    few = zoo.run("vae", init=decoder, n=3, **asked)
    assert zoo.run("vae", init=few, n=5, **asked).params["AutoNormal.locs.z"].shape[0] == 5


def test_without_zuko_all_but_the_flow_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    assert zoo.run("vae", **SMALL, **SHORT, progress=False).record["status"] == "done"
    with pytest.raises(BadInput, match=r'guide flow needs zuko; pip install "bayeszoo\[flows\]"'):
        zoo.run("vae", guide="flow", **SMALL, **SHORT, progress=False)
    checked = zoo.check("vae", **SMALL)
    told = [check for check in checked.checks if "zuko" in check.what]
    assert [check.ok for check in told] == [None]
