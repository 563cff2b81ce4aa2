"""Dropout and its relatives: objectives against NumPy, draws as they say, what is removed."""

from __future__ import annotations

from itertools import islice, product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import NETWORK_GUIDES, problem_of
from pyro.distributions import constraints
from scipy import integrate, special, stats
from test_weights import (
    RNG,
    SHAPES,
    X,
    Y,
    _site,
    apart,
    begin,
    climbed,
    drawn,
    estimate,
    program_of,
    put,
    steps,
)

from inference.methods.guides import resolve
from inference.methods.training import store
from inference.networks import dropout, weights
from inference.program.program import Program
from models.contract import Refused
from models.parts.distributions import LogUniform

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
    guide = dropout.Dropout(program, begin(), rate, by)
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
    guide = dropout.Dropout(program, begin(), rate, by)
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
    guide = dropout.Dropout(program, begin(5.0), rate, by)
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
    guide = dropout.Dropout(program, begin(), 0.5, "unit")
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
        dropout.Dropout(program, begin(), 0.2, "unit")
    assert dropout.Dropout(program, begin(), 0.2, "weight").noisy == ["net.0.weight"]


@pytest.mark.parametrize("by", ["unit", "weight"])
def test_gaussian_dropout_has_the_mean_and_variance_that_alpha_says(by):
    program = program_of()
    guide = dropout.GaussianDropout(program, begin(), 0.2, by)
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
    guide = dropout.GaussianDropout(program, begin(), 0.3, "weight")
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
    guide = dropout.GaussianDropout(program, begin(), 0.2, by)
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
    found = dropout.log_uniform_kl(torch.as_tensor(at)).numpy()
    gap = found - exact
    assert np.abs(gap).max() < 0.01  # measured: 0.0094, at log alpha = -3.5
    assert np.ptp(gap) / 2 < 0.007  # up to one constant
    assert (np.diff(found) < 0).all()


def sparse_of(begin=begin):
    program = program_of(prior=LogUniform())
    return program, dropout.Sparse(program, begin())


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
        dropout.Sparse(program_of(), begin())
    # The density counts, not the name: 1/|w| written by hand.
    flat = dist.ImproperUniform(constraints.real, (), ())

    class Reciprocal(dist.ImproperUniform):
        def expand(self, batch_shape, _instance=None):
            return Reciprocal(constraints.real, torch.Size(batch_shape), ())

        def log_prob(self, value):
            return -value.abs().log()

    dropout.Sparse(program_of(prior=Reciprocal(constraints.real, (), ())), begin())
    with pytest.raises(Refused, match="needs a log-uniform prior"):
        dropout.Sparse(program_of(prior=flat), begin())


def test_a_log_uniform_latent_that_has_no_noise_is_refused():
    def model(x, y):
        w, b = _site("w", (2, 2), LogUniform()), _site("c", (2,), LogUniform())
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(logits=x @ w + b), obs=y)

    with pytest.raises(Refused, match="the log-uniform prior of c is infinite at zero"):
        dropout.Sparse(program_of(model), begin()).guide()


# -- as they are asked for ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coin", "linear"])
@pytest.mark.parametrize("guide", NETWORK_GUIDES)
def test_guides_of_networks_refuse_what_is_bounded(name, guide):
    with pytest.raises(Refused, match=r"for the weights of a network.*use the guide normal"):
        resolve(guide, Program(problem_of(name)))
