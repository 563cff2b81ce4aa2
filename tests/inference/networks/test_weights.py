"""Guides of weights: objectives against closed forms, NumPy and quadrature; draws as they say."""

from __future__ import annotations

from itertools import islice, product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, perceptron, problem_from, problem_of
from pyro import poutine
from pyro.distributions import constraints
from scipy import integrate, special, stats
from torch.distributions import kl_divergence

from inference.core.problem import Guide
from inference.methods.ascent import AscentSettings
from inference.methods.batches import batch_of
from inference.methods.guide_draws import draw
from inference.methods.objective import gradient_of
from inference.methods.parameters import store
from inference.methods.resolve import resolve
from inference.methods.svi import svi
from inference.methods.training import train
from inference.networks import weights
from inference.program.program import Batch, Program, Weighted, run
from models._priors import LogUniform, ScaleMixture
from models.contract import Refused

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
        return weights._with_noise(call, 0.64 * self.scale(name) ** 2, None)


class _WithoutEntropy(weights.MeanField):
    """A planted error: the entropy is left out."""

    def prior_and_entropy(self, priors):
        entropies = [weights._entropy(self.scale(name)) for name in priors]
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
    drawn = torch.stack([weights._expected(prior.expand((1,)), loc, scale) for _ in range(20_000)])

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


# -- dropout -----------------------------------------------------------------------------------


def numpy_likelihood(values, x, y):
    """Log likelihood of the rows of `network` at weights, by NumPy."""
    logits = np.tanh(x @ values["w0"] + values["b0"]) @ values["w1"]
    return special.log_softmax(logits, 1)[np.arange(len(y)), y].sum()


def log_priors(values, scale=1.5):
    return sum(stats.norm.logpdf(value, 0, scale).sum() for value in values.values())


def under(mask, rate, by, locs):
    """Weights under a mask of units (3,), or of all weights (12,)."""
    on = mask / (1 - rate)
    if by == "unit":
        return locs | {"w1": locs["w1"] * on[:, None]}
    return locs | {
        "w0": locs["w0"] * on[:6].reshape(2, 3),
        "w1": locs["w1"] * on[6:].reshape(3, 2),
    }


def masks(rate, by):
    """All masks of units (3,), or of weights (12,), with their probabilities."""
    for mask in product([0, 1], repeat=3 if by == "unit" else 12):
        yield np.array(mask), np.prod(np.where(mask, 1 - rate, rate))


@pytest.mark.parametrize("by", ["unit", "weight"])
def test_dropouts_objective_under_each_mask_and_its_prior_over_all_are_those_of_numpy(by):
    rate, program = 0.3, program_of()
    guide = weights.Dropout(program, begin(), rate, by)
    locs = {name: value.detach().numpy() for name, value in guide.locs().items()}
    prior = guide.prior_and_entropy({site.name: site.fn for site in program.of("latent")}).item()
    expected = sum(chance * log_priors(under(m, rate, by, locs)) for m, chance in masks(rate, by))
    assert prior == pytest.approx(expected, rel=1e-10)
    for mask, _ in islice(masks(rate, by), 0, None, 1 if by == "unit" else 100):
        on = torch.as_tensor(mask) / (1 - rate)
        parts = {"w1": on} if by == "unit" else {"w0": on[:6].view(2, 3), "w1": on[6:].view(3, 2)}
        guide.noise = lambda name, *_, parts=parts: parts[name]
        likelihood = numpy_likelihood(under(mask, rate, by, locs), X.numpy(), Y.numpy())
        assert estimate(program, guide).item() == pytest.approx(likelihood + prior, rel=1e-10)


@pytest.mark.parametrize("by", ["unit", "weight"])
def test_dropouts_estimates_are_around_the_mean_over_all_masks(by):
    rate, program = 0.3, program_of()
    guide = weights.Dropout(program, begin(), rate, by)
    values, _ = steps(program, guide.guide(), 2000)
    locs = {name: value.detach().numpy() for name, value in guide.locs().items()}
    expected = 0.0
    for mask, chance in masks(rate, by):
        at = under(mask, rate, by, locs)
        expected += chance * (numpy_likelihood(at, X.numpy(), Y.numpy()) + log_priors(at))
    assert abs(values.mean().item() - expected) < 4 * values.std().item() / 2000**0.5


@pytest.mark.parametrize("rate", [0.2, 0.7])
@pytest.mark.parametrize("by", ["unit", "weight"])
def test_draws_of_dropout_have_the_zeros_that_the_rate_says(by, rate):
    program = Program(problem_of("bnn", "moons", hidden="6,5"))
    guide = weights.Dropout(program, begin(5.0), rate, by)
    values, _ = drawn(program, guide, 4000)
    names = ["net.0.weight", "net.2.weight", "net.4.weight"]
    for name in names[1:] if by == "unit" else names:
        off = values[name] == 0  # (draws, outputs, inputs)
        own = off.shape[2] if by == "unit" else off[0].numel()
        error = (rate * (1 - rate) / 4000 / own) ** 0.5
        assert abs(off.double().mean().item() - rate) < 4 * error
        whole = (off == off[:, :1]).all()  # a unit is off for all that it leads to
        assert bool(whole) == (by == "unit")
        loc = guide.loc(name).detach()
        noise = loc.abs() * (rate / (1 - rate) / 4000) ** 0.5
        assert ((values[name].mean(0) - loc).abs() / noise).max() < 4.5
        kept = (values[name] / loc)[~off]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)))
    for name in [names[0], *(n for n in values if "bias" in n)] if by == "unit" else []:
        assert (values[name] == guide.loc(name)).all()


def test_rows_have_masks_of_their_own_for_units():
    program = program_of()
    guide = weights.Dropout(program, begin(), 0.5, "unit")
    shapes, noise = [], guide.noise

    def seen(name, shape, like):
        shapes.append((name, shape))
        return noise(name, shape, like)

    guide.noise = seen
    estimate(program, guide)
    assert shapes == [("w1", (8, 3))]


def test_a_network_without_hidden_units_has_none_to_drop():
    program = Program(problem_of("bnn", "moons", hidden=""))
    with pytest.raises(Refused, match=r"dropout needs a hidden layer.*use dropconnect"):
        weights.Dropout(program, begin(), 0.2, "unit")
    assert weights.Dropout(program, begin(), 0.2, "weight").noisy == ["net.0.weight"]


@pytest.mark.parametrize("by", ["unit", "weight"])
def test_gaussian_dropout_has_the_mean_and_variance_that_alpha_says(by):
    program = program_of()
    guide = weights.GaussianDropout(program, begin(), 0.2, by)
    assert guide.alpha("w1").item() == pytest.approx(0.25)
    put(w1__alpha=torch.tensor(0.6))
    values, _ = drawn(program, guide, 20_000)
    loc = guide.loc("w1").detach()
    ratio = values["w1"] / loc  # (draws, 3, 2)
    assert ratio.mean(0).numpy() == pytest.approx(np.ones((3, 2)), abs=4 * (0.6 / 20_000) ** 0.5)
    assert ratio.var(0).numpy() == pytest.approx(np.full((3, 2), 0.6), rel=0.05)
    together = np.corrcoef(ratio[:, 0].T)[0, 1]  # two weights of one unit
    assert together == pytest.approx(1.0 if by == "unit" else 0.0, abs=0.03)
    assert (values["w0"] == guide.loc("w0")).all() == (by == "unit")


def test_gaussian_dropout_by_weights_is_a_mean_field_with_its_elbo():
    program = program_of()
    guide = weights.GaussianDropout(program, begin(), 0.3, "weight")
    field = weights.MeanField(program, begin())
    for name in ("w0", "w1"):
        spread = guide.alpha(name).sqrt() * guide.loc(name).abs()
        put(**{f"{name}.scale": spread.detach()})
    put(b0__scale=torch.full((3,), 1e-7))
    priors = {site.name: site.fn for site in program.of("latent")}
    ours, theirs = (
        one.prior_and_entropy({k: v for k, v in priors.items() if k != "b0"}).item()
        for one in (guide, field)
    )
    assert ours == pytest.approx(theirs, rel=1e-8)
    values = [steps(program, one.guide(), 1500, seed=i)[0] for i, one in enumerate((guide, field))]
    biases = [one.prior_and_entropy({"b0": priors["b0"]}).item() for one in (guide, field)]
    assert apart(values[0] - biases[0], values[1] - biases[1]) < 4


@pytest.mark.parametrize("by", ["unit", "weight"])
def test_a_learned_alpha_is_positive_and_moves(by):
    program = program_of()
    guide = weights.GaussianDropout(program, begin(), 0.2, by)
    with store():
        params, _ = climbed(program, guide.guide())
    alphas = [value.item() for name, value in params.items() if name.endswith("alpha")]
    assert len(alphas) == len(guide.noisy) == (1 if by == "unit" else 2)
    assert all(alpha > 0 and abs(alpha - 0.25) > 1e-3 for alpha in alphas)


# -- sparse ------------------------------------------------------------------------------------


def true_divergence(log_alpha):
    """KL(Normal(m, alpha m^2) || 1/|w|) by quadrature, 0 in the limit of large alpha, nats."""
    far = np.exp(-0.5 * log_alpha)  # the mean of w / s, whose density is that of Normal(far, 1)

    def log_times_density(t):
        return np.log(t) * (stats.norm.pdf(t, far) + stats.norm.pdf(-t, far))

    low, _ = integrate.quad(log_times_density, 0, max(far - 10, 0.1), limit=200)
    high, _ = integrate.quad(log_times_density, max(far - 10, 0.1), far + 10, limit=200)
    return low + high + 0.5 * (np.euler_gamma + np.log(2))


def test_the_fit_to_the_divergence_from_the_log_uniform_prior_is_good_to_a_hundredth():
    at = np.linspace(-8, 8, 33)
    exact = np.array([true_divergence(a) for a in at])
    # At alpha = 1 by a series too: E log of a chi-square variable that is not central.
    series = sum(stats.poisson.pmf(j, 0.5) * special.digamma(j + 0.5) for j in range(60))
    assert exact[16] == pytest.approx(0.5 * (series + np.euler_gamma) + np.log(2), abs=1e-8)
    found = weights.log_uniform_kl(torch.as_tensor(at)).numpy()
    gap = found - exact
    assert np.abs(gap).max() < 0.01  # measured: 0.0094, at log alpha = -3.5
    assert np.ptp(gap) / 2 < 0.007  # up to one constant
    assert (np.diff(found) < 0).all()


def sparse_of(begin=begin):
    program = program_of(prior=LogUniform())
    return program, weights.Sparse(program, begin())


def test_log_alpha_is_the_relative_variance_within_its_bounds():
    _, guide = sparse_of()
    guide.log_variance("w0")
    put(w0__loc=torch.tensor([[1.0, 2.0, 0.0], [1e-6, 5.0, -3.0]]))
    put(w0__log_variance=torch.tensor([[0.0, -1.0, -4.0], [0.0, -20.0, 2.0]]))
    expected = [[0.0, -1 - 2 * np.log(2), 8.0], [8.0, -8.0, 2 - 2 * np.log(3)]]
    np.testing.assert_allclose(guide.log_alpha("w0").detach(), expected, rtol=1e-10)


def test_the_noise_begins_at_a_twentieth_of_the_weights_variance():
    _, guide = sparse_of()
    with pyro.get_param_store().scope():
        for name in guide.layers:
            variance = guide.log_variance(name).exp()
            expected = np.exp(-3) * guide.start[name].square().mean()
            torch.testing.assert_close(variance, expected.expand_as(variance))


def test_the_divergence_warms_up():
    _, guide = sparse_of()
    ((weight, at),) = guide.guide().live
    assert weight is guide.weight
    shares = [0, 0.005, 0.01, 0.02, 1]
    assert [at(share) for share in shares] == pytest.approx([0, 0.25, 0.5, 1, 1])


def test_the_sparse_objective_is_that_of_numpy():
    program, guide = sparse_of()
    guide.log_variance("w0"), guide.log_variance("w1")
    put(w0__log_variance=torch.full((2, 3), -2.0), w1__log_variance=torch.full((3, 2), 0.5))
    guide.weight.fill_(0.4)
    locs = {name: value.detach().numpy() for name, value in guide.locs().items()}
    biases = stats.norm.logpdf(locs["b0"], 0, 1.5).sum()
    divergence = 0.0
    for name, log_variance in (("w0", -2.0), ("w1", 0.5)):
        log_alpha = np.clip(log_variance - np.log(locs[name] ** 2), -8, 8)
        divergence += (
            0.63576 * (1 - special.expit(1.8732 + 1.48695 * log_alpha))
            + 0.5 * np.log1p(np.exp(-log_alpha))
        ).sum()
    priors = {site.name: site.fn for site in program.of("latent")}
    found = guide.prior_and_entropy(priors).item()
    assert found == pytest.approx(biases - 0.4 * divergence, rel=1e-10)
    values, _ = steps(program, guide.guide(), 2000)
    likelihoods = []
    for _ in range(2000):
        at = locs | {k: locs[k] + RNG.normal(size=SHAPES[k]) * np.exp(0.5 * v)
                     for k, v in (("w0", -2.0), ("w1", 0.5))}  # fmt: skip
        likelihoods.append(numpy_likelihood(at, X.numpy(), Y.numpy()))
    assert apart(values - found, torch.tensor(likelihoods)) < 4


def test_the_weights_that_are_noise_are_removed_and_no_others():
    program, guide = sparse_of()
    params = {"w0.loc": torch.ones(2, 3), "w0.log_variance": torch.full((2, 3), 2.99)}
    params |= {"w1.loc": torch.ones(3, 2), "w1.log_variance": torch.full((3, 2), -3.0)}
    params["w0.log_variance"][0, 1] = 3.01
    params["w1.log_variance"][2] = 5.0
    guide.locs(), guide.log_variance("w0"), guide.log_variance("w1")
    put(**params)
    before = guide.draw()
    assert (before["w1"] != 0).all()
    metrics, (finding,) = guide.remove()
    assert metrics == {"weights": 12.0, "weights_kept": 9.0, "compression": pytest.approx(4 / 3)}
    assert finding.level == "note"
    assert "9 of 12 weights are left (83.33% of w0, 66.67% of w1)" in finding.what
    after = guide.draw()
    assert (after["w0"] == 0).nonzero().tolist() == [[0, 1]]
    assert (after["w1"] == 0).nonzero().tolist() == [[2, 0], [2, 1]]
    values, _ = drawn(program, guide, 5)
    assert (values["w1"][:, 2] == 0).all() and (values["w1"][:, :2] != 0).all()
    learned = {name: value.detach() for name, value in pyro.get_param_store().items()}
    packed = guide.packed(learned)
    sizes = {name: tuple(value.shape) for name, value in packed.items()}
    assert sizes == {
        "w0.loc": (5,), "w0.log_variance": (5,), "w0.index": (5,),
        "w1.loc": (4,), "w1.log_variance": (4,), "w1.index": (4,), "b0.loc": (3,),
    }  # fmt: skip
    assert packed["w0.index"].tolist() == [0, 2, 3, 4, 5]
    assert packed["w1.index"].tolist() == [0, 1, 2, 3]


def test_sparse_takes_the_log_uniform_prior_alone():
    with pytest.raises(Refused, match="needs a log-uniform prior, that of w0 is another"):
        weights.Sparse(program_of(), begin())
    # The density counts, not the name: 1/|w| written by hand.
    flat = dist.ImproperUniform(constraints.real, (), ())

    class Reciprocal(dist.ImproperUniform):
        def expand(self, batch_shape, _instance=None):
            return Reciprocal(constraints.real, torch.Size(batch_shape), ())

        def log_prob(self, value):
            return -value.abs().log()

    weights.Sparse(program_of(prior=Reciprocal(constraints.real, (), ())), begin())
    with pytest.raises(Refused, match="needs a log-uniform prior"):
        weights.Sparse(program_of(prior=flat), begin())


def test_a_log_uniform_latent_that_has_no_noise_is_refused():
    def model(x, y):
        w, b = _site("w", (2, 2), LogUniform()), _site("c", (2,), LogUniform())
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(logits=x @ w + b), obs=y)

    with pytest.raises(Refused, match="the log-uniform prior of c is infinite at zero"):
        weights.Sparse(program_of(model), begin()).guide()


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
        weights.Sparse,
        lambda *a: weights.Dropout(*a, 0.2, "unit"),
        lambda *a: weights.GaussianDropout(*a, 0.2, "weight"),
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
