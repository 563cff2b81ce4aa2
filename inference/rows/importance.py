"""log p(x) of rows, each by itself: importance sampling from an encoder, and annealed.

The encoder gives draws of a row's latents, weighed by p(x, z) / q(z): see
`program/row_latents.py`. Annealed importance sampling needs no encoder: chains walk from the prior
of a row's latents to their posterior over the densities

    p_t(z) ~ p(z) p(x | z)^b_t,   0 = b_0 < b_1 < ... < b_T = 1,

each step a Hamiltonian one that leaves p_t as it is; the mean over chains of
exp(sum_t (b_t - b_{t-1}) log p(x | z_t-1)) is an unbiased estimate of p(x): Neal (2001),
Annealed importance sampling, doi:10.1023/A:1008923215028; for decoders Wu, Burda, Salakhutdinov
and Grosse (2017), arXiv:1611.04273, whose temperatures (sigmoid, delta 4) these are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import RawArray
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.contract import Fault, Refused, Stopped

from ..core.jobs import each
from ..core.machine import cores
from ..core.seeds import PREDICTIVE, seeded
from ..core.signals import listening
from ..program.graphs import compiled
from ..program.handlers import Batch
from ..program.program import Program
from ..program.row_latents import has_weights, log_prior_and_likelihood, weighted
from ..program.sampling import over_draws
from ..program.supports import elementwise
from ..results.psis import psis
from ..results.scores import Scored, auroc

# Draws for each row, rows of the test set and beside it, and rows for training that are encoded.
_DRAWS, _ROWS, _CODED, _FOR_CODE = 1000, 1000, 5000, 20
# Draws below which the tail of the weights is not known.
_FOR_TAILS = 100
# Rows, and draws of each, at once; of 5, 10, 20 and 50 draws (784 pixels) 20 were fastest.
_BATCH, _AT_ONCE = 100, 20
# Leapfrog steps of a move; acceptance that step sizes are led to, and how fast (Wu et al.: 0.65).
_LEAPS, _ACCEPTED, _LEARN = 10, 0.65, 0.02
# Step size at the prior, whose scale is one.
_STEP = 0.5


class Evidence(NamedTuple):
    """What importance sampling tells of rows, (rows,) each, nats.

    Attributes:
        log_p: estimate of log p(x): log of the mean weight.
        error: its standard error, by the delta method; its bias is about -error^2 / 2.
        elbo: the mean log weight.
        khat: of the weights; where it is high, they miss a part of p, and log_p is too low. NaN
            of few draws.
        means: latent to its mean over the guide's draws (rows, *shape).
    """

    log_p: np.ndarray
    error: np.ndarray
    elbo: np.ndarray
    khat: np.ndarray
    means: dict[str, np.ndarray]

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """All numbers of the rows, by name."""
        return {name: getattr(self, name) for name in self._fields[:-1]}

    def group(self, name: str) -> dict[str, Any]:
        """All that is known of the rows, variable to (dims, values)."""
        return _group(name, {**self.columns, **self.means})

    @property
    def metrics(self) -> dict[str, float]:
        """The mean over rows of -log p(x), its Monte Carlo error and bias, and of the ELBO."""
        n = len(self.log_p)
        return {
            "nll": float(-self.log_p.mean()),
            "nll_mcse": float(np.sqrt((self.error**2).sum()) / n),
            "nll_bias": float((self.error**2).mean() / 2),
            "elbo_test": float(self.elbo.mean()),
        }


def evidence(
    program: Program,
    guide: Callable,
    rows: Mapping[str, Tensor],
    draws: int,
    *,
    seed: int,
    report: Callable[[int], Any] = lambda _: None,
) -> Evidence:
    """log p(x) of rows by importance sampling from a guide with an encoder, on all cores.

    Args:
        program: the model, its own parameters fitted.
        guide: of the row keys.
        rows: the row keys of the rows; others are the problem's.
        draws: of each row.
        seed: of the draws; they depend on it and on the row's place alone.
        report: called with the number of rows that are done.

    Raises:
        Stopped: at SIGINT or SIGTERM.
        Fault: a process died.
    """
    keys = program.problem.rows[1]
    split = zip(*(rows[key].split(_BATCH) for key in keys))
    batches = [tuple(_filled(part) for part in parts) for parts in split]
    n, calls = len(rows[keys[0]]), -(-draws // _AT_ONCE)  # of the sampler, for a batch
    sample = _sampler(program, guide, batches[0])
    workers = min(cores(), len(batches))
    apart = workers > 1 and not batches[0][0].is_cuda
    counts, fields = RawArray("q", len(batches)), {}

    def of_batch(i: int, counts: Any) -> list[np.ndarray]:
        parts = []
        with seeded(seed, PREDICTIVE, i), torch.no_grad():
            while len(parts) < calls and not heard.stopped:
                parts.append(sample(*batches[i]))
                counts[i] += 1
        return _summed_up(parts, draws)

    def show() -> None:
        report(min(sum(counts) * _BATCH // calls, n))

    with listening() as heard:
        how = {"shared": [counts], "fork": True, "patience": 0, "meanwhile": show}
        for i, result in each(of_batch, range(len(batches)), workers * apart, heard, **how):
            if isinstance(result, Exception) and not heard.stopped:
                raise Fault(f"log p(x) of the rows was not found: {result}") from result
            fields[i] = result
    if heard.stopped:
        raise Stopped(heard.signal)
    parts = zip(*(fields[i] for i in range(len(batches))))
    log_p, error, elbo, khat, *means = (np.concatenate(part)[:n] for part in parts)
    return Evidence(log_p, error, elbo, khat, dict(zip(program.layout, means)))


def _filled(part: Tensor) -> Tensor:
    """As many rows in each batch: a recorded graph has one shape."""
    return part[torch.arange(_BATCH).clamp(max=len(part) - 1)]


def _sampler(program: Program, guide: Callable, example: Sequence[Tensor]) -> Callable:
    """Of a batch's rows: log weights (draws, rows) of a few draws, and the latents' means."""
    problem = program.problem

    def sample(*tensors: Tensor) -> tuple[Tensor, ...]:
        batch = Batch({**problem.tensors, **dict(zip(problem.rows[1], tensors))})

        def at_draw(_: Mapping[str, Tensor]) -> dict[str, Tensor]:
            weights, values = weighted(program, guide, batch)
            return {**values, "": weights}

        draws = over_draws(at_draw, {"draw": torch.arange(_AT_ONCE)})
        return draws.pop(""), *(draws[name].mean(0) for name in program.layout)

    return compiled(sample, [example])


def _summed_up(parts: Sequence[tuple[Tensor, ...]], draws: int) -> list[np.ndarray]:
    """The fields of `Evidence` of a batch, then the mean of each latent."""
    weights, *means = ([part[i] for part in parts] for i in range(len(parts[0])))
    weights = torch.cat(weights)[:draws].double()
    log_p, relative = log_mean(weights)
    error = (relative / draws).sqrt()
    tails = torch.full_like(log_p, math.nan)
    if draws >= _FOR_TAILS:
        tails = torch.as_tensor(psis(weights.T.cpu().numpy())[1])
    fields = [log_p, error, weights.mean(0), tails, *(torch.stack(m).mean(0) for m in means)]
    return [value.double().cpu().numpy() for value in fields]


def log_mean(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the mean weight, and the variance of a weight over its mean squared, (rows,).

    Args:
        log_weights: of independent draws, (draws, rows).
    """
    count = len(log_weights)
    log_p = log_weights.logsumexp(0) - math.log(count)
    relative = (2 * (log_weights - log_p)).logsumexp(0).exp() / count - 1
    return log_p, relative.clamp(min=0)


def _group(name: str, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays (rows, ...) with names of their dimensions."""
    row = f"row_{name}"
    return {k: ((row, *(f"{k}_{i}" for i in range(1, v.ndim))), v) for k, v in values.items()}


def scored(program: Program, guide: Callable, seed: int) -> Scored:
    """log p(x) and the codes of rows held out, and of those beside them; codes of the first rows.

    Metrics: `elbo_train` and `elbo_test`, means over rows (nats); `nll`, the mean of -log p(x)
    over the rows held out, with its Monte Carlo error and bias; for each kind of rows beside them
    `nll[name]`, and the chance that one of these has a lower log p(x) (ELBO) than one held out,
    `auroc_log_p[name]` (`auroc_elbo[name]`). Groups: `held_out_rows` and `beside_rows_<name>` with
    the fields of `Evidence`, `coded_rows` with the codes.
    """
    problem = program.problem
    trained = _of_first(program, guide, problem.tensors, _CODED, _FOR_CODE, seed)
    metrics = {"elbo_train": float(trained.elbo.mean())}
    groups = {"coded_rows": _group("coded_rows", trained.means)}
    if problem.test is None:
        return Scored(metrics, groups)
    test = _of_first(program, guide, problem.test, _ROWS, _DRAWS, seed)
    groups["held_out_rows"] = test.group("held_out_rows")
    metrics |= test.metrics
    for name, rows in problem.beside.items():
        other = _of_first(program, guide, rows, _ROWS, _DRAWS, seed)
        groups[f"beside_rows_{name}"] = other.group(f"beside_rows_{name}")
        metrics[f"nll[{name}]"] = other.metrics["nll"]
        for score in ("log_p", "elbo"):
            inside, outside = -getattr(test, score), -getattr(other, score)
            metrics[f"auroc_{score}[{name}]"] = auroc(inside, outside)
    return Scored(metrics, groups)


def _of_first(
    program: Program, guide: Callable, rows: Mapping[str, Any], count: int, draws: int, seed: int
) -> Evidence:
    """The evidence of the first so many of these rows."""
    some = {key: rows[key][:count] for key in program.problem.rows[1]}
    return evidence(program, guide, some, draws, seed=seed)


# -- annealed ----------------------------------------------------------------------------------


class Annealed(NamedTuple):
    """log p(x) of rows by annealing, (rows,) each, nats.

    Attributes:
        log_p: log of the mean weight of the chains; on average a little too low.
        error: its standard error over the chains, by the delta method.
    """

    log_p: np.ndarray
    error: np.ndarray


def annealed(
    program: Program, temperatures: int, chains: int, report: Callable[[int], Any] = lambda _: None
) -> Annealed:
    """log p(x) of the program's rows, from torch's current random state.

    Step sizes follow the acceptance of each row's moves, all along the way, as Wu et al. have it;
    so the moves are not quite those of a fixed kernel.

    Args:
        program: the model and the rows, its own parameters fitted.
        temperatures: number of moves.
        chains: of each row.
        report: called with the number of moves made.

    Raises:
        Refused: latents that are not of the rows, or not on the whole real line.
    """
    _check(program)
    path = _Path(program, chains)
    z = path.start()
    total = torch.zeros(chains, path.rows)
    sizes = torch.full((path.rows,), _STEP)
    at = temperatures_of(temperatures)
    for t in range(1, len(at)):
        _, likelihood, *_ = path.terms(z)
        total += (at[t] - at[t - 1]) * likelihood
        z, accepted = _moved(path, z, float(at[t]), sizes)
        sizes = sizes * torch.exp(_LEARN * torch.sign(accepted.mean(0) - _ACCEPTED))
        report(t)
    log_p, relative = log_mean(total.double())
    error = (relative / max(chains - 1, 1)).sqrt()
    return Annealed(log_p.numpy(), error.numpy())


def temperatures_of(moves: int, delta: float = 4.0) -> Tensor:
    """b_0 = 0 to b_T = 1, (moves + 1,): slow at both ends."""
    s = torch.sigmoid(delta * torch.linspace(-1, 1, moves + 1, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


def _check(program: Program) -> None:
    """Refuse latents that Hamiltonian moves of each row by itself cannot walk."""
    if not has_weights(program):
        raise Refused("annealing is of rows that have latents of their own, and no others")
    for site in program.of("latent"):
        if elementwise(site.support) is not torch.distributions.constraints.real:
            raise Refused(
                f"annealing is of latents on the whole real line, and '{site.name}' is not"
            )


class _Path:
    """Log prior and log likelihood of each row, and their gradients, at many latents at once.

    The latents of a row are a vector z, shape (chains, rows, d).
    """

    def __init__(self, program: Program, chains: int):
        self.program, self.chains, self.rows = program, chains, program.problem.n
        self.sites = [(site.name, site.shape[1:]) for site in program.of("latent")]
        self.terms = compiled(self._terms, [[self.start()]])

    def start(self) -> Tensor:
        """Draws from the prior."""
        drawn = over_draws(self.program.prior, {"draw": torch.arange(self.chains)})
        shape = self.chains, self.rows, -1
        return torch.cat([drawn[name].reshape(shape) for name, _ in self.sites], -1)

    def _values(self, z: Tensor) -> dict[str, Tensor]:
        """The latents (rows, *shape) in the vectors of one chain (rows, d)."""
        parts = z.split([math.prod(shape) for _, shape in self.sites], -1)
        sites = zip(self.sites, parts)
        return {name: part.reshape(self.rows, *shape) for (name, shape), part in sites}

    def _terms(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log p(z), log p(x | z), nats (chains, rows), and their gradients (chains, rows, d)."""
        z = z.detach().requires_grad_()

        def of_chain(z: Tensor) -> tuple[Tensor, Tensor]:
            return log_prior_and_likelihood(self.program, self._values(z))

        prior, likelihood = torch.func.vmap(of_chain)(z)
        (of_prior,) = torch.autograd.grad(prior.sum(), z, retain_graph=True)
        (of_likelihood,) = torch.autograd.grad(likelihood.sum(), z)
        return prior.detach(), likelihood.detach(), of_prior, of_likelihood


def _moved(path: _Path, z: Tensor, b: float, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """One Hamiltonian move under p(z) p(x | z)^b (Neal 2011, arXiv:1206.1901, section 3).

    Args:
        path: the densities.
        z: latents, (chains, rows, d).
        b: inverse temperature.
        sizes: of a leapfrog step, (rows,).

    Returns:
        The latents, and 1 where a chain's move was accepted, else 0, (chains, rows).
    """
    prior, likelihood, of_prior, of_likelihood = path.terms(z)
    momentum, step = torch.randn_like(z), sizes[:, None]
    before = prior + b * likelihood - momentum.square().sum(-1) / 2
    new, p = z, momentum + step / 2 * (of_prior + b * of_likelihood)
    for leap in range(_LEAPS):
        new = new + step * p
        prior, likelihood, of_prior, of_likelihood = path.terms(new)
        p = p + (step if leap < _LEAPS - 1 else step / 2) * (of_prior + b * of_likelihood)
    after = prior + b * likelihood - p.square().sum(-1) / 2
    accepted = torch.rand_like(before).log() < after - before  # not where it is not a number
    return torch.where(accepted[..., None], new, z), accepted.to(z.dtype)
