"""SVI: closed-form optima, objectives, guides of the user's own, faults of guide and optimiser."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from, problem_of
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from pyro.nn import PyroModule
from zuko.flows import NSF

import zoo
from inference.core.problem import Guide
from inference.methods.ascent import AscentSettings
from inference.methods.batches import batch_of
from inference.methods.objective import gradient_of, is_reparameterised
from inference.methods.resolve import resolve
from inference.methods.svi import svi
from inference.program.graphs import Recorded
from inference.program.handlers import run
from inference.program.program import Program
from models.contract import Fault, Refused

RNG = np.random.default_rng(0)
X = RNG.normal(size=(25, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
Y = X @ [1.0, -1.0] + 0.5 * RNG.normal(size=25)
DATA = {"x": torch.as_tensor(X), "y": torch.as_tensor(Y)}
PRECISION = X.T @ X / 0.25 + np.eye(2) / 4
MEAN = np.linalg.solve(PRECISION, X.T @ Y / 0.25)
SPLINE = NSF(2, transforms=1, hidden_features=[8]).double()


def regression(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def test_mean_field_scales_are_those_of_the_precision_diagonal():
    fit = svi(Program(problem_from(regression, DATA)), seed=0, context=QUIET, guide="normal")
    scales = 1 / np.sqrt(np.diag(PRECISION))
    np.testing.assert_allclose(fit.params["AutoNormal.scales.w"], scales, rtol=0.05)
    np.testing.assert_allclose(fit.params["AutoNormal.locs.w"], MEAN, atol=0.1 * scales.max())
    assert fit.findings == []


def test_the_elbo_is_below_the_evidence():
    problem = problem_from(regression, DATA)
    from inference.methods.laplace import laplace

    evidence = laplace(Program(problem), seed=0, context=QUIET).metrics["log_evidence"]
    fits = {g: svi(Program(problem), seed=0, context=QUIET, guide=g) for g in ("normal", "mvn")}
    gaps = {g: evidence - fit.log_ratios.mean().item() for g, fit in fits.items()}
    correlation = PRECISION / np.sqrt(np.outer(np.diag(PRECISION), np.diag(PRECISION)))
    exact_gap = -0.5 * np.log(np.linalg.det(correlation))
    assert gaps["normal"] == pytest.approx(exact_gap, abs=0.03)
    assert 0 <= gaps["mvn"] < 0.01


def test_an_objective_of_the_guide_replaces_the_elbo():
    def point(x, y):
        loc = pyro.param("loc", torch.zeros(2))
        pyro.sample("w", dist.Delta(loc).to_event(1))

    def log_joint(model, guide, batch):
        trace = pyro.poutine.trace(guide).get_trace(**batch)
        return (
            pyro.poutine.trace(pyro.poutine.replay(model, trace)).get_trace(**batch).log_prob_sum()
        )

    fit = svi(
        Program(problem_from(regression, DATA)),
        seed=0,
        context=QUIET,
        guide=Guide(point, log_joint),
    )
    np.testing.assert_allclose(fit.params["loc"], MEAN, atol=1e-3)
    assert fit.kind == "point" and fit.draws["w"].shape == (1, 1, 2)


def test_a_guide_without_reparameterisation_is_trained_by_its_score():
    class Fixed(dist.Normal):
        has_rsample = False

        def rsample(self, sample_shape=()):
            raise NotImplementedError

    def model():
        pyro.sample("z", dist.Normal(2.0, 1.0))

    def guide():
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("z", Fixed(loc, 1.0))

    fit = svi(Program(problem_from(model)), seed=0, context=QUIET, guide=guide, window=20)
    assert fit.params["loc"].item() == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (lambda x, y: pyro.param("a", torch.zeros(1)) and None, "no site 'w'"),
        (
            lambda x, y: pyro.sample("w", dist.Normal(pyro.param("a", torch.zeros(3)), 1.0)),
            r"has shape \(3,\), the model's \(2,\)",
        ),
        (
            lambda x, y: pyro.sample("w", dist.Normal(torch.zeros(2), 1.0)),
            "no parameters to learn",
        ),
    ],
)
def test_a_guide_that_does_not_fit_the_model_is_told(guide, message):
    with pytest.raises(Refused, match=message):
        svi(Program(problem_from(regression, DATA)), seed=0, context=QUIET, guide=guide)


def test_too_few_steps_are_a_failure_and_a_wild_rate_is_told_with_its_step():
    fit = svi(Program(problem_from(regression, DATA)), seed=0, context=QUIET, steps=50, draws=10)
    assert [f.level for f in fit.findings] == ["fail"]
    with pytest.raises(Fault, match=r"not finite in step \d+"):
        svi(Program(problem_from(regression, DATA)), seed=0, context=QUIET, lr=1e6)


def test_a_rate_that_wrecks_the_first_steps_is_named_as_the_cause():
    fit = svi(Program(problem_of("linear")), seed=0, context=QUIET, lr=10.0, draws=50)
    assert any("the learning rate of 10 is too large" in f.what for f in fit.findings)
    assert {f.level for f in fit.findings} == {"fail"}


def test_a_fit_that_breaks_off_keeps_the_last_good_state():
    def guide(y):
        scale = pyro.param("scale", torch.tensor(1.0))
        pyro.sample("mu", dist.Normal(0.0, scale))

    def falling(model, guide, batch):
        scale = pyro.param("scale")
        return -scale + 0 * scale.log()  # no number once the scale is negative

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    chosen = {"guide": Guide(guide, objective=falling), "lr": 0.004, "draws": 50}
    fit = svi(Program(problem_from(model, {"y": DATA["y"]})), seed=0, context=QUIET, **chosen)
    assert fit.status == "failed"
    (finding,) = fit.findings
    assert (
        "not finite in step 2" in finding.what and "kept is the state after step" in finding.what
    )
    assert fit.params["scale"].item() == pytest.approx(0.2, abs=0.01)
    assert fit.draws["mu"].isfinite().all()


def test_the_models_own_parameters_are_fitted_too():
    def model(y):
        loc = pyro.param("loc", torch.tensor(0.0))
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    fit = svi(Program(problem_from(model, {"y": DATA["y"]})), seed=0, context=QUIET)
    # The evidence is largest where the prior mean is the data's.
    assert fit.params["loc"].item() == pytest.approx(Y.mean(), abs=0.1)


def test_parameters_with_constraints_stay_inside():
    def guide(x, y):
        scale = pyro.param("scale", torch.ones(2), constraints.positive)
        pyro.sample("w", dist.Normal(torch.zeros(2), scale).to_event(1))

    fit = svi(
        Program(problem_from(regression, DATA)), seed=0, context=QUIET, guide=guide, draws=10
    )
    assert (fit.params["scale"] > 0).all()


def test_a_guide_that_is_a_module_is_in_training_only_while_it_is_trained():
    class Dropped(PyroModule):
        def __init__(self):
            super().__init__()
            self.modes = []

        def forward(self, x, y):
            self.modes.append(self.training)
            loc = pyro.param("loc", torch.zeros(2))
            pyro.sample("w", dist.Normal(loc, 0.1).to_event(1))

    guide = Dropped()
    svi(
        Program(problem_from(regression, DATA)),
        seed=0,
        context=QUIET,
        guide=guide,
        steps=200,
        draws=10,
    )
    trained = guide.modes.index(False)
    assert trained > 0 and not any(guide.modes[trained:])
    assert guide.training  # as it was given


def test_fitted_parameters_stay_in_force_for_all_that_follows():
    import zoo

    def model(y):
        scale = pyro.param("scale", torch.tensor(1.0), constraints.positive)
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(m, scale), obs=y)

    y = 4.5 * np.random.default_rng(0).normal(size=60)
    run = zoo.run(model, method="svi", data={"y": y})
    assert run.params["scale"].item() == pytest.approx(y.std(), rel=0.05)
    predicted = run.idata["posterior_predictive"]["y"].values
    assert predicted.std() == pytest.approx(y.std(), rel=0.1)
    assert run.metrics["elpd_loo"] == pytest.approx(run.metrics["elbo"], abs=8)
    assert run.predict(rows=3)["sd"].to_numpy() == pytest.approx(y.std(), rel=0.1)
    with pytest.raises(Refused, match=r"parameters of its own \(scale\), which laplace"):
        zoo.run(model, method="laplace", data={"y": y})
    assert len(pyro.get_param_store()) == 0


def test_a_guide_with_plates_is_welcome_and_one_with_a_summed_latent_is_not():
    def model(y):
        with pyro.plate("row", len(y)):
            m = pyro.sample("m", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    def guide(y):
        loc = pyro.param("loc", torch.zeros(len(y)))
        with pyro.plate("row", len(y)):
            pyro.sample("m", dist.Normal(loc, 0.7))

    y = torch.tensor([1.0, -2.0])
    fit = svi(Program(problem_from(model, {"y": y})), seed=0, context=QUIET, guide=guide, draws=50)
    assert fit.params["loc"].tolist() == pytest.approx([0.5, -1.0], abs=0.05)

    def labelled(y):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m + z, 1.0), obs=y)

    def both(y):
        pyro.sample("z", dist.Bernoulli(pyro.param("p", torch.tensor(0.5))))
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    problem = problem_from(labelled, {"y": torch.tensor(1.0)})
    with pytest.raises(Refused, match="'z' is discrete and summed out"):
        svi(Program(problem), seed=0, context=QUIET, guide=both)


def mixture(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(loc[label.long()], 1.0), obs=y)


@pytest.mark.parametrize("model", [regression, mixture])
def test_batches_stand_for_all_rows_on_average(model):
    problem = problem_from(model, DATA if model is regression else {"y": DATA["y"]})
    program = Program(problem)
    values = {site.name: torch.ones(site.shape) for site in program.of("latent")}
    rows = [problem.tensors[key] for key in problem.rows[1]]
    parts = [batch_of(problem, [t[i : i + 5] for t in rows]) for i in range(0, 25, 5)]
    mean = torch.stack([program.log_joint(values, part) for part in parts]).mean()
    assert mean.item() == pytest.approx(program.log_joint(values).item(), rel=1e-12)


def test_a_fit_on_batches_finds_the_posterior():
    problem = problem_from(regression, DATA)
    fit = svi(Program(problem), seed=0, context=QUIET, guide="mvn", batch_size=5)
    sd = np.sqrt(np.diag(np.linalg.inv(PRECISION)))
    assert np.abs(fit.draws["w"][0].mean(0).numpy() - MEAN).max() < 0.3 * sd.max()
    np.testing.assert_allclose(fit.draws["w"][0].std(0), sd, rtol=0.2)


def test_latents_of_the_rows_need_an_encoder_for_batches():
    def model(y):
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def encoder(y):
        slope = pyro.param("slope", torch.tensor(0.1))
        scale = pyro.param("scale", torch.tensor(1.0), constraints.positive)
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Normal(slope * y, scale))

    problem = problem_from(model, {"y": DATA["y"]})
    with pytest.raises(Refused, match="latent of each row"):
        svi(Program(problem), seed=0, context=QUIET, batch_size=5)
    fit = svi(Program(problem), seed=0, context=QUIET, guide=encoder, batch_size=5)
    assert fit.params["slope"].item() == pytest.approx(0.5, abs=0.02)
    assert fit.params["scale"].item() == pytest.approx(0.5**0.5, rel=0.03)


def test_a_batch_of_all_rows_or_more_is_all_rows():
    problem = problem_from(regression, DATA)
    short = {"steps": 20, "draws": 5, "seed": 0, "context": QUIET}
    fits = [svi(Program(problem), batch_size=size, **short) for size in (None, 25, 26, 10**6)]
    for fit in fits[1:]:
        assert torch.equal(fit.trace, fits[0].trace)
        assert torch.equal(fit.draws["w"], fits[0].draws["w"])


def test_where_a_guide_begins_is_a_matter_of_the_seed_alone():
    def begun(seed):
        problem = problem_of("bnn", "moons", hidden="3")
        short = {"guide": "local", "steps": 1, "lr": 1e-9, "draws": 2}
        return svi(Program(problem), seed=seed, context=QUIET, **short).params["net.0.weight.loc"]

    first = begun(0)
    torch.manual_seed(99)
    assert torch.equal(begun(0), first)
    assert not torch.equal(begun(1), first)


def test_a_plate_in_a_guide_does_not_make_it_score():
    def guide(y):
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Normal(y, 1.0))

    assert is_reparameterised(run(guide, {"y": DATA["y"]}))


def flow(x, y):
    """A spline flow of zuko's."""
    pyro.module("flow", SPLINE)
    pyro.sample("w", ZukoToPyro(SPLINE()))


@pytest.mark.parametrize("guide", ["normal", "mvn", "flow"])
def test_a_step_is_traced_and_is_pyros(guide):
    guide = Guide(flow) if guide == "flow" else guide
    program = Program(problem_from(regression, DATA))
    steps = {}
    for how in ("plain", "traced"):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            chosen = resolve(guide, program)
            gradient, _ = gradient_of(
                program, chosen, AscentSettings(1, particles=8, compile=how), [[]]
            )
            assert isinstance(gradient, Recorded) == (how == "traced")
            torch.manual_seed(1)
            steps[how] = gradient()
    for ours, theirs in zip(steps["traced"], steps["plain"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_an_interrupted_fit_keeps_its_last_state():
    threading.Timer(2, os.kill, [os.getpid(), signal.SIGINT]).start()
    problem = problem_from(regression, DATA)
    fit = svi(Program(problem), seed=0, context=QUIET, steps=10**6, window=10**5)
    assert fit.status == "interrupted"
    assert fit.signal == signal.SIGINT
    assert "interrupted after" in fit.findings[0].what
    assert fit.draws["w"].isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_on_the_gpu_the_fit_is_that_of_the_processor():
    settings = {"guide": "mvn", "seed": 0, "draws": 4000}
    fits = {d: zoo.run("linear", device=d, **settings) for d in ("cpu", "cuda")}
    tables = {d: fit.summary() for d, fit in fits.items()}
    gap = (tables["cuda"]["mean"] - tables["cpu"]["mean"]).abs() / tables["cpu"]["sd"]
    assert gap.max() < 0.2
