"""What every model of the zoo keeps, by name: data, guides, densities, methods, seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from conftest import NETWORK_GUIDES, QUIET
from conftest import problem_of as problem_of_options

import inference
import models
import zoo
from inference.core.settings import declared
from inference.methods.draws import draw
from inference.methods.guides import resolve
from inference.program.handlers import run
from inference.program.kinks import value_and_grad
from inference.program.program import Program
from inference.program.sampling import over_draws
from inference.workflow import listing
from inference.workflow.plan import homes
from models.contract import BadSetting, Refused

# Values by which a method is quick, of the settings that it has.
QUICK = {"chains": 1, "draws": 5, "warmup": 10, "steps": 5, "particles": 2}

# Networks are looked at where they are small.
SMALL = {
    "bnn": {"data": "moons", "hidden": "4"},
    "heteroscedastic": {"n": 60, "hidden": "4"},
    "stochastic_layer": {"data": "moons", "n": 20, "hidden": "4", "width": 3},
    "resnet": {"data": "moons", "n": 20, "layers": 2, "width": 3},
    "vae": {"n": 20, "hidden": "8", "latent": 2},
    "ssvae": {"n": 20, "labels": 10, "hidden": "8", "latent": 2},
}
OF_NETWORKS = {"steps": 5, "batch_size": 50}


def problem_of(name):
    """The problem of a model, a network of few weights."""
    options = dict(SMALL.get(name, {}))
    return problem_of_options(name, options.pop("data", None), **options)


def fitted(name):
    """The same; parameters of the model's own are as a short fit leaves them."""
    problem = problem_of(name)
    if not Program(problem).unfitted:
        return problem
    guide = next(iter(problem.guides))
    settings = {"guide": guide, "steps": 5, "draws": 2}
    fit = inference.method("svi")(Program(problem), seed=0, context=QUIET, **settings)
    return replace(problem, params=fit.params)


def short(name, method):
    """Settings by which a method is quick on a model."""
    known = declared(inference.method(method))
    quick = {k: v for k, v in QUICK.items() if k in known and not known[k].of_networks}
    network = not models.load(name).identified and "batch_size" in known
    return quick | OF_NETWORKS if network else quick


def refused_by(name):
    """Method to the reason why a model refuses it."""
    return {method: reason for method, reason in listing.methods_of(name).items() if reason}


def methods_of(name):
    """The methods that a model does not refuse, those with draws first."""
    refused = refused_by(name)
    return [m for m in ("laplace", "nuts", "svi", "map", "mle") if m not in refused]


def run_of(name, method, **settings):
    return zoo.run(name, method=method, **SMALL.get(name, {}), **short(name, method), **settings)


every_model = pytest.mark.parametrize("name", models.names())
every_method = pytest.mark.parametrize("method", inference.METHODS)


@every_model
def test_data_are_deterministic_and_do_not_depend_on_the_seed(name):
    entry = models.load(name)
    first, second = entry.data(), entry.data()
    assert first.sha256 == second.sha256
    assert first.tensors.keys() == second.tensors.keys()


@every_model
def test_data_keys_are_those_of_the_model_and_observed_sites_bear_their_names(name):
    entry = models.load(name)
    keys = set(models.data_keys(entry.model))
    assert set(entry.data().tensors) <= keys
    assert {site.name for site in Program(problem_of(name)).of("observed")} <= keys


@every_model
def test_no_name_is_declared_in_two_homes(name):
    entry = models.load(name)
    for method in inference.METHODS:
        known = homes(entry, inference.method(method))
        names = [key for home in known.values() for key in home]
        assert len(names) == len(set(names)), f"{method}: {names}"


@every_model
def test_guides_have_the_sites_and_shapes_of_the_latents(name):
    program = Program(problem_of(name))
    for guide in [*program.problem.guides, *inference.GUIDES]:
        if guide in NETWORK_GUIDES:
            continue
        values, log_q = draws_of(program, guide)
        assert {k: tuple(v.shape[1:]) for k, v in values.items()} == shapes(program)
        assert log_q.shape == (3,)
        assert log_q.isfinite().all()


# Latents that are unbounded and in no plate may be weights; those of a product are a layer.
REFUSED = {
    "coin": NETWORK_GUIDES,
    "gaussian": ("local", "lastlayer", "dropout", "dropconnect", "sparse"),
    "linear": NETWORK_GUIDES,
    "logistic": ("dropout", "sparse"),
    "bnn": ("sparse",),
    "heteroscedastic": ("sparse",),
    "stochastic_layer": NETWORK_GUIDES,  # its latents are activations
    "vae": NETWORK_GUIDES,  # its latents are codes
    "ssvae": NETWORK_GUIDES,
    "resnet": [guide for guide in NETWORK_GUIDES if guide != "ensemble"],
}


@every_model
@pytest.mark.parametrize("guide", NETWORK_GUIDES)
def test_guides_of_networks_draw_weights_or_refuse_the_model(name, guide):
    program = Program(problem_of(name))
    if guide in REFUSED.get(name, ()):
        with pytest.raises(Refused):
            resolve(guide, program)
        return
    try:
        values, log_q = draws_of(program, guide)
    except Refused:
        assert name not in REFUSED
        return
    assert {k: tuple(v.shape[1:]) for k, v in values.items()} == shapes(program)
    assert all(value.isfinite().all() for value in values.values())
    assert log_q.isfinite().all() or not resolve(guide, program).density


def draws_of(program, guide):
    """Three draws of a guide and their log density."""
    with pyro.get_param_store().scope():
        pyro.clear_param_store()
        chosen = resolve(guide, program).guide
        run(chosen, program.problem.tensors)  # shared guides make their parameters now
        return draw(program, chosen, 3)


def shapes(program):
    return {site.name: site.shape for site in program.of("latent")}


@every_model
def test_density_and_gradient_are_finite_and_right_at_prior_draws(name):
    program = Program(fitted(name))
    torch.manual_seed(0)
    for _ in range(5):
        u = program.start()
        value, gradient = value_and_grad(program.log_density, u)
        assert value.isfinite()
        step = 1e-5 * torch.eye(program.size)
        central = torch.stack(
            [program.log_density(u + s) - program.log_density(u - s) for s in step]
        )
        np.testing.assert_allclose(gradient, central / 2e-5, rtol=1e-6, atol=1e-7)


@every_model
def test_the_joint_at_prior_draws_is_finite(name):
    program = Program(fitted(name))
    draws = over_draws(program.prior, {"draw": torch.arange(20)})
    assert over_draws(program.log_joint, draws).isfinite().all()


# The model's own first guide has its weights at a point.
POINTS = {("resnet", "svi")}


@every_model
@every_method
def test_every_method_runs_or_refuses_as_the_entry_says(name, method):
    if method in refused_by(name):
        with pytest.raises(Refused):
            run_of(name, method)
        return
    done = run_of(name, method)
    kind = inference.METHODS[method].result
    group = "prior" if kind == "prior" else "posterior"
    one = kind == "point" or (name, method) in POINTS
    assert done.idata[group].sizes["draw"] == (1 if one else 5)
    assert all(np.isfinite(v).all() for v in done.idata[group].data_vars.values())
    assert done.verdict.status in ("pass", "warn", "fail")


@every_model
def test_predictions_have_the_shape_of_the_data(name):
    program = Program(problem_of(name))
    done = run_of(name, methods_of(name)[0])
    for site in program.of("observed"):
        predicted = done.idata["posterior_predictive"][site.name]
        assert predicted.shape == (1, 5, *site.shape)


@every_model
@pytest.mark.parametrize("method", ["nuts", "svi", "laplace"])
def test_same_seed_same_draws_other_seed_other_draws(name, method):
    if method not in methods_of(name):
        pytest.skip(refused_by(name)[method])
    problem = problem_of(name)
    fits = [
        inference.method(method)(Program(problem), seed=seed, context=QUIET, **short(name, method))
        for seed in (3, 3, 4)
    ]
    for site in fits[0].draws:
        assert torch.equal(fits[0].draws[site], fits[1].draws[site])
        assert not torch.equal(fits[0].draws[site], fits[2].draws[site])


@every_model
def test_a_fit_leaves_nothing_behind(name):
    pyro.clear_param_store()
    state = torch.get_rng_state()
    run_of(name, "svi", guide="normal")
    assert len(pyro.get_param_store()) == 0
    assert torch.equal(state, torch.get_rng_state())


@every_model
def test_an_unknown_setting_is_an_error_naming_the_nearest(name):
    with pytest.raises(BadSetting, match="did you mean 'draws'"):
        zoo.run(name, method="nuts", drwas=5)


@every_model
def test_what_is_not_identified_is_judged_by_its_predictions(name):
    entry = models.load(name)
    done = run_of(name, "svi", guide="normal")
    assert ("predictions" in done.idata.groups()) == (not entry.identified)
    if entry.identified:
        return
    assert isinstance(entry.model, type)
    assert entry.inference.start is not None or Program(problem_of(name)).unfitted
    assert done.idata["predictions"].sizes["draw"] == 5
    with pytest.raises(BadSetting, match="there is no setting 'steps'"):
        zoo.run("coin", method="map", **OF_NETWORKS)


@every_model
def test_the_card_teaches(name):
    card = models.card(name)
    for word in ("Data:", "Priors:", "Exact:", "Known failure:", "References:", "~"):
        assert word in card


@every_method
def test_methods_declare_a_range_for_every_number(method):
    for setting in declared(inference.method(method)).values():
        numeric = isinstance(setting.default, int | float)
        assert setting.bounds or not numeric, setting.name
