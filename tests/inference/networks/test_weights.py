"""Guides of weights: objectives against closed forms, NumPy and quadrature; draws as they say."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, perceptron, problem_from, problem_of
from pyro import poutine
from scipy import integrate, stats
from torch.distributions import kl_divergence

from inference.core.problem import Guide
from inference.methods.ascent import AscentSettings
from inference.methods.draws import draw
from inference.methods.guides import resolve
from inference.methods.svi import svi
from inference.methods.training import batch_of, gradient_of, store, train
from inference.networks import dropout, weights
from inference.program.handlers import Batch, Weighted, run
from inference.program.program import Program
from models.contract import Refused
from models.parts.distributions import LogUniform, ScaleMixture

RNG = np.random.default_rng(0)
X = torch.as_tensor(RNG.normal(size=(8, 2)))
Y = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
DATA = {"x": X, "y": Y}
SHAPES = {"w0": (2, 3), "b0": (3,), "w1": (3, 2)}
PRIOR = dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.5)


def network(x, y, *, prior=PRIOR):
    """A network 2-3-2, its output without a bias."""
    sites = {name: _site(name, shape, prior) for name, shape in SHAPES.items()}
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(logits=perceptron(x, **sites)), obs=y)


def _site(name, shape, prior):
    base = PRIOR if name.startswith("b") else prior
    return pyro.sample(name, base.expand(shape).to_event(len(shape)))


def program_of(model=network, data=DATA, **options):
    return Program(problem_from(model, data, **options))


def begin(shift=0.0):
    """Starting values, the same each time; a function of the site, as a guide wants it."""
    drawn = torch.Generator().manual_seed(3)

    def init(site):
        shape = tuple(site["fn"].shape())
        return torch.randn(shape, generator=drawn, dtype=torch.float64) + shift

    return init


def put(**values):
    """Give parameters of the guide these values, whatever they are constrained to."""
    for name, value in values.items():
        pyro.get_param_store()[name.replace("__", ".")] = torch.as_tensor(value)


def estimate(program, guide, batch=None):
    """One estimate of the guide's objective, as a step makes it."""
    batch = batch or Batch(program.problem.tensors)
    return guide.objective(Weighted(batch)(program.model), guide, batch.tensors)


def steps(program, chosen, count, seed=0, rows=()):
    """Many estimates of an objective (S,) and of its gradient (S, d), recorded once."""
    torch.manual_seed(seed)
    gradient, _ = gradient_of(program, chosen, AscentSettings(steps=1), [list(rows), list(rows)])
    found = [gradient(*rows) for _ in range(count)]
    values, slopes = (torch.stack(column) for column in zip(*found))
    return values.clone(), slopes.clone()


def drawn(program, guide, count, seed=0):
    """Draws (S, *shape) from a guide, whose parameters are made first, and their log density."""
    run(guide, program.problem.tensors)
    torch.manual_seed(seed)
    return draw(program, guide, count)


def apart(one, other):
    """Differences of means of two samples (S, ...) in their standard errors."""
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    return (one.mean(0) - other.mean(0)).abs() / error.clamp_min(1e-12)


def unbiased(program, guide, count=1500):
    """The ELBO by local noise, against the plain one of the same guide and parameters."""
    local = steps(program, guide.guide(), count)
    plain = steps(program, Guide(guide), count, seed=1)
    assert apart(local[0], plain[0]) < 4
    assert apart(local[1], plain[1]).max() < 4.5
    return local, plain


# -- points ------------------------------------------------------------------------------------


def test_points_climb_the_joint_density_and_the_likelihood_without_priors():
    program = program_of()
    points = {prior: weights.Points(program, begin(), prior=prior) for prior in (True, False)}
    values = points[True].locs()
    found = estimate(program, points[True]).item()
    assert found == pytest.approx(program.log_joint(values).item(), rel=1e-12)
    likelihood = program.log_likelihood(values)["y"].sum().item()
    assert estimate(program, points[False]).item() == pytest.approx(likelihood, rel=1e-12)
    assert {k: tuple(v.shape) for k, v in points[True].all().items()} == {
        name: (1, *shape) for name, shape in SHAPES.items()
    }


def test_rows_of_a_batch_weigh_more_and_the_prior_does_not():
    program = program_of()
    points = weights.Points(program, begin())
    batch = batch_of(program.problem, [X[:2], Y[:2]])
    expected = program.log_joint(points.locs(), batch).item()
    assert estimate(program, points, batch).item() == pytest.approx(expected, rel=1e-12)
    likelihood = program.log_likelihood(points.locs())["y"]
    prior = program.log_joint(points.locs()) - likelihood.sum()
    assert expected - 4 * likelihood[:2].sum().item() == pytest.approx(prior.item(), rel=1e-9)


@pytest.mark.parametrize("kind", [weights.Points, weights.MeanField])
def test_what_is_bounded_or_in_a_plate_is_no_weight(kind):
    def scaled(x, y):
        s = pyro.sample("s", dist.HalfNormal(1.0))
        w = _site("w", (2,), PRIOR)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, s), obs=y.double())

    def each(x, y):
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y.double())

    with pytest.raises(Refused, match="s is bounded or in a plate; use the guide normal"):
        kind(program_of(scaled), begin())
    with pytest.raises(Refused, match="z is bounded or in a plate"):
        kind(program_of(each), begin())


# -- ensembles ---------------------------------------------------------------------------------


def climbed(program, chosen, steps=300):
    settings = AscentSettings(steps=steps, lr=0.01, schedule="linear")
    ended = train(program, chosen, settings, 0, QUIET)
    return {k: v.detach().clone() for k, v in pyro.get_param_store().items()}, ended


def test_the_members_of_an_ensemble_climb_as_if_each_were_alone():
    program = program_of()
    torch.manual_seed(0)
    ensemble = weights.Ensemble(program, program.start_of, 3)
    starts = {name: start.clone() for name, start in ensemble.start.items()}
    assert not torch.equal(starts["w0"][0], starts["w0"][1])
    with store():
        together, _ = climbed(program, ensemble.guide())
        assert {k: tuple(v.shape) for k, v in ensemble.all().items()} == {
            name: (3, *shape) for name, shape in SHAPES.items()
        }
    for member in range(3):
        points = weights.Points(program, lambda site, m=member: starts[site["name"]][m])
        with store():
            alone, _ = climbed(program, points.guide())
        for name, values in alone.items():
            # Adam knows no scale, but for its epsilon.
            torch.testing.assert_close(together[name][member], values, rtol=1e-4, atol=1e-5)


def test_an_ensembles_objective_is_the_mean_and_its_draws_are_members():
    program = program_of()
    torch.manual_seed(0)
    ensemble = weights.Ensemble(program, program.start_of, 4)
    locs = ensemble.locs()
    joint = [program.log_joint({k: v[i] for k, v in locs.items()}).item() for i in range(4)]
    assert estimate(program, ensemble).item() == pytest.approx(np.mean(joint), rel=1e-12)
    drawn = torch.stack([ensemble.draw()["w0"] for _ in range(400)]).detach()
    member = (drawn[:, None] == locs["w0"]).all(-1).all(-1)  # (draws, members)
    assert (member.sum(1) == 1).all()
    assert member.double().mean(0).numpy() == pytest.approx(0.25, abs=0.1)
    # One draw takes all latents from the same member.
    one = ensemble.draw()
    which = [int((one[k] == locs[k]).flatten(1).all(1).nonzero()) for k in one]
    assert len(set(which)) == 1


# -- mean field --------------------------------------------------------------------------------


def test_local_noise_leaves_the_elbo_and_its_gradient_as_they_are():
    program = program_of()
    guide = weights.MeanField(program, begin())
    put(w0__scale=torch.full((2, 3), 0.5), w1__scale=torch.full((3, 2), 0.7))
    unbiased(program, guide)


def test_a_bias_inside_a_layer_has_its_noise_too():
    program = Program(problem_of("bnn", "moons", hidden="3"))
    guide = weights.MeanField(program, begin())
    assert guide.outside == []
    for name in guide.start:
        put(**{f"{name}.scale": torch.full_like(guide.start[name], 0.6)})
    unbiased(program, guide)


class _Narrow(weights.MeanField):
    """A planted error: noise at the outputs of 0.8 its size."""

    def use(self, name, call):
        return weights.with_noise(call, 0.64 * self.scale(name) ** 2, None)


class _WithoutEntropy(weights.MeanField):
    """A planted error: the entropy is left out."""

    def prior_and_entropy(self, priors):
        entropies = [weights.entropy(self.scale(name)) for name in priors]
        return super().prior_and_entropy(priors) - sum(entropies)


@pytest.mark.parametrize("kind", [_Narrow, _WithoutEntropy])
def test_a_planted_error_in_the_objective_is_seen(kind):
    program = program_of()
    guide = kind(program, begin())
    put(w0__scale=torch.full((2, 3), 0.5), w1__scale=torch.full((3, 2), 0.7))
    with pytest.raises(AssertionError):
        unbiased(program, guide)


def test_local_noise_is_less_on_a_batch():
    program = Program(problem_of("bnn", "moons", hidden="8"))
    guide = weights.MeanField(program, begin())
    for name in guide.start:
        put(**{f"{name}.scale": torch.full_like(guide.start[name], 0.3)})
    rows = [program.problem.tensors[key][:50] for key in ("x", "y")]
    local, plain = (
        steps(program, chosen, 500, rows=rows)[1].var(0).sum()
        for chosen in (guide.guide(), Guide(guide))
    )
    assert local < 0.5 * plain


def test_the_expected_likelihood_of_a_linear_layer_is_its_closed_form():
    y = X @ torch.tensor([1.0, -2.0], dtype=torch.float64)

    def linear(x, y):
        w = _site("w", (2,), PRIOR)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)

    program = program_of(linear, {"x": X, "y": y})
    guide = weights.MeanField(program, begin())
    put(w__loc=torch.tensor([0.3, -0.2]), w__scale=torch.tensor([0.4, 1.1]))
    values, _ = steps(program, guide.guide(), 2000)
    mean, scale = np.array([0.3, -0.2]), np.array([0.4, 1.1])
    x = X.numpy()
    fit = stats.norm.logpdf(y.numpy(), x @ mean, 0.5).sum()
    fit -= 0.5 * (x**2 @ scale**2).sum() / 0.5**2
    kl = (np.log(1.5 / scale) + (scale**2 + mean**2) / (2 * 1.5**2) - 0.5).sum()
    error = values.std().item() / len(values) ** 0.5
    assert abs(values.mean().item() - (fit - kl)) < 4 * error
    assert error < 0.02 * abs(fit - kl)
    # And the best of it has the scales 1 / sqrt(precision diagonal) around the exact mean.
    fit = svi(Program(program.problem), seed=0, context=QUIET, guide="local", steps=4000, lr=0.02)
    precision = x.T @ x / 0.25 + np.eye(2) / 1.5**2
    exact = np.linalg.solve(precision, x.T @ y.numpy() / 0.25)
    np.testing.assert_allclose(fit.params["w.scale"], np.diag(precision) ** -0.5, rtol=0.02)
    np.testing.assert_allclose(fit.params["w.loc"], exact, atol=0.02)


def test_the_divergence_from_a_normal_prior_is_exact():
    program = program_of()
    guide = weights.MeanField(program, begin())
    put(w0__scale=torch.rand(2, 3) + 0.1, b0__scale=torch.rand(3) + 0.1)
    priors = {site.name: site.fn for site in program.of("latent")}
    found = -guide.prior_and_entropy(priors).item()
    pairs = [(dist.Normal(guide.loc(k), guide.scale(k)), PRIOR) for k in priors]
    expected = sum(kl_divergence(*pair).sum().item() for pair in pairs)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "prior", [dist.Laplace(torch.tensor(0.0), 0.7), ScaleMixture(1.0, 0.1, 0.3), LogUniform()]
)
def test_the_expected_log_prior_is_unbiased(prior):
    torch.manual_seed(0)
    loc, scale = torch.tensor([0.4, -1.5]), torch.tensor([0.3, 0.8])
    drawn = torch.stack(
        [weights.expected_log_prior(prior.expand((1,)), loc, scale) for _ in range(20_000)]
    )

    def log_prior(w):
        return prior.expand(()).log_prob(torch.as_tensor(w)).item()

    expected = sum(
        integrate.quad(
            lambda w, m=m, s=s: log_prior(w) * stats.norm.pdf(w, m, s), m - 9 * s, m + 9 * s,
            points=[0.0], limit=200,
        )[0]
        for m, s in zip(loc.tolist(), scale.tolist())
    )  # fmt: skip
    error = drawn.std().item() / len(drawn) ** 0.5
    assert abs(drawn.mean().item() - expected) < 4 * error
    assert error < 0.03


def test_a_mean_field_begins_narrow():
    program = Program(problem_of("bnn", "moons", hidden="50"))
    guide = weights.MeanField(program, program.start_of)
    spread = guide.start["net.0.weight"].std()
    torch.testing.assert_close(guide.scale("net.0.weight")[0, 0], 0.1 * spread)
    # Biases begin at zero, without a spread of their own.
    torch.testing.assert_close(guide.scale("net.0.bias"), torch.full((50,), 0.01))


# -- the last layer ----------------------------------------------------------------------------


def last_layer(program):
    guide = weights.LastLayer(program, begin())
    for name in guide.start:
        put(**{f"{name}.scale": torch.full_like(guide.start[name], 0.4)})
    guide.joint()
    torch.manual_seed(2)
    root = torch.eye(guide.size) + torch.randn(guide.size, guide.size).tril(-1) * 0.7
    put(last__tril=root)
    return guide


def test_the_last_layer_has_the_covariance_of_its_root_and_the_rest_has_none():
    program = Program(problem_of("bnn", "moons", hidden="2"))
    guide = last_layer(program)
    assert guide.last == ["net.2.weight", "net.2.bias"] and guide.size == 6
    values, log_q = drawn(program, guide, 20_000)
    flat = torch.cat([values[name].flatten(1) for name in guide.last], 1)
    loc, root = (part.detach() for part in guide.joint())
    covariance = root @ root.T
    scale = covariance.diagonal().sqrt()
    error = (flat.T.cov() - covariance) / scale[:, None] / scale
    assert error.abs().max() < 0.06
    assert ((flat.mean(0) - loc).abs() / scale).max() < 0.04
    inside = values["net.0.weight"].flatten(1).T.corrcoef() - torch.eye(4)
    assert inside.abs().max() < 0.04
    expected = dist.MultivariateNormal(loc, scale_tril=root).log_prob(flat)
    for name in ("net.0.weight", "net.0.bias"):
        normal = dist.Normal(guide.loc(name), guide.scale(name))
        expected = expected + normal.log_prob(values[name]).flatten(1).sum(1)
    torch.testing.assert_close(log_q, expected.detach())
    assert log_q.isfinite().all()


def test_the_last_layers_divergence_is_exact_and_its_objective_unbiased():
    program = Program(problem_of("bnn", "moons", hidden="2"))
    guide = last_layer(program)
    priors = {site.name: site.fn for site in program.of("latent")}
    loc, root = guide.joint()
    wide = torch.cat(
        [priors[k].base_dist.scale.expand(guide.start[k].shape).flatten() for k in guide.last]
    )
    whole = dist.MultivariateNormal(loc, scale_tril=root)
    prior = dist.MultivariateNormal(torch.zeros(6), scale_tril=wide.diag())
    expected = kl_divergence(whole, prior).item()
    for name in ("net.0.weight", "net.0.bias"):
        pair = dist.Normal(guide.loc(name), guide.scale(name)), priors[name].base_dist
        expected += kl_divergence(*pair).sum().item()
    assert -guide.prior_and_entropy(priors).item() == pytest.approx(expected, rel=1e-10)
    unbiased(program, guide)


# -- what they refuse --------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["ensemble", "dropout", "dropconnect", "dropout:learned"])
def test_guides_of_points_refuse_the_log_uniform_prior(guide):
    program = program_of(prior=LogUniform())
    with pytest.raises(Refused, match="of w0, w1 is infinite at zero, where a latent without"):
        resolve(guide, program)
    resolve("local", program)  # whose noise keeps from zero
    resolve("dropconnect:learned", program)


@pytest.mark.parametrize(
    "make",
    [
        weights.MeanField,
        weights.LastLayer,
        dropout.Sparse,
        lambda *a: dropout.Dropout(*a, 0.2, "unit"),
        lambda *a: dropout.GaussianDropout(*a, 0.2, "weight"),
    ],
)
def test_guides_of_layers_refuse_a_model_without_any(make):
    def model(x, y):
        w = _site("w", (2,), PRIOR)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=(x * w).sum(1)), obs=y.double())

    with pytest.raises(Refused, match="no latent to a linear layer"):
        make(program_of(model), begin())


def test_a_guides_draw_is_conditioned_on_by_its_own_sites():
    program = program_of()
    for guide in (weights.Points(program, begin()), weights.MeanField(program, begin())):
        trace = poutine.trace(guide).get_trace(**DATA)
        assert {n for n, node in trace.nodes.items() if node["type"] == "sample"} == set(SHAPES)
