"""Fits to data drawn from the model itself: where among its draws does the truth lie?

A parameter drawn from the prior, data drawn given it, and a draw from the exact posterior of those
data: the first and the last are exchangeable given the data. So the rank of the true value of any
quantity among L independent posterior draws is uniform on 0..L (Cook, Gelman and Rubin 2006,
Journal of Computational and Graphical Statistics 15; Talts et al. 2018, arXiv:1804.06788).
"""

import math
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from models.contract import Fault, Refused, Stopped

from ..core import machine
from ..core.jobs import each
from ..core.problem import Context, Fit
from ..core.seeds import SIMULATED, seeded, spawn
from ..core.signals import listening
from ..program.graphs import Recordings
from ..program.prepare import observed_keys
from ..program.program import Program
from ..program.sampling import over_draws
from ..results import diagnostics, groups, psis

# Draws among which the truth is ranked: of chains few enough to be nearly independent, where at
# least 400 are effective (the bound of their verdict).
_RANKED = {"chains": 99, "independent": 999, "prior": 999}
# Scalars that are ranked, of models with many latents.
_MOST_CELLS = 1000
LOG_LIKELIHOOD = "log likelihood"
# Fits after which a study ends of which none came to a result.
_HOPELESS = 20
# Streams of random numbers of a fit.
_TRUTH, _METHOD, _REPLICATES, _TIES = range(4)


class Simulated:
    """A method fitted to data sets drawn from a model; `fit(i)` depends on (seed, i) alone.

    The data lie in the same memory for all fits, so that what the method records of the first
    serves them all.

    Args:
        design: the model with covariates and number of rows; what is observed is replaced.
        method: `method(program, seed=, context=, **settings)`.
        settings: of the method.
        seed: of all fits.
        given: the program of simulated data, where more than its tensors depends on them (the
            exact truth); it may refuse them.

    Raises:
        Refused: the model has no joint distribution that can be drawn from, or no latents.
    """

    def __init__(
        self,
        design: Program,
        method: Callable[..., Fit],
        settings: Mapping[str, Any],
        seed: int,
        given: Callable[[Program], Program] = lambda program: program,
    ):
        self.method, self.settings, self.seed, self.given = method, settings, seed, given
        self.dtype = str(torch.get_default_dtype()).removeprefix("torch.")
        self.keys = _replaceable(design)
        fresh = {key: design.tensors[key].clone() for key in self.keys.values()}
        self.program = design.changed(tensors={**design.tensors, **fresh}, test=None)
        if self.program.undrawn:
            raise Refused(
                f"the distribution of {self.program.undrawn[0]} has no sample(), so no data can "
                "be simulated; write one"
            )
        self.graphs = Recordings(list(fresh.values()))
        self._check_joint()

    def _check_joint(self) -> None:
        """What is observed must not be read but by its own density.

        Raises:
            Refused: the same random numbers give other values for other data.
        """
        first = self._joint(0)
        self._replace(first)
        second = self._joint(0)
        if not all(torch.equal(first[name], second[name]) for name in first):
            names = ", ".join(self.keys.values())
            raise Refused(
                f"the model reads {names} also where it does not observe it, so it simulates no "
                "data; let no prior depend on what is observed"
            )

    def _joint(self, i: int) -> dict[str, Tensor]:
        """A draw of all latents and observations from the prior."""
        with seeded(self.seed, SIMULATED, i, _TRUTH):
            return {name: value.detach() for name, value in self.program.prior().items()}

    def _replace(self, truth: Mapping[str, Tensor]) -> None:
        """Write simulated observations into the data, in the memory that recorded graphs read."""
        for site, key in self.keys.items():
            self.program.tensors[key].copy_(truth[site])

    def fit(self, i: int) -> dict[str, Any] | int:
        """The i-th data set, fitted: plain values; the signal if one cut the fit short.

        Returns:
            `i`, `seconds` and, of a fit: `draws` (L), `rank` (quantity to rank of the truth),
            `error` (parameter to (truth - mean) / sd), `status` and `findings` (level, what) of
            the fit's own verdict; of one that is missing: `missing` (`refused` or `failed`) and
            `reason`.
        """
        began = time.perf_counter()
        with machine.numbers(self.dtype):
            truth = self._joint(i)
            self._replace(truth)
            try:
                result = self._ranked(i, truth, self._fitted(i))
            except KeyboardInterrupt as stop:
                return getattr(stop, "signal", signal.SIGINT)
            except Fault as fault:
                how = "refused" if isinstance(fault, Refused) else "failed"
                result = {"missing": how, "reason": str(fault)}
            except Exception as error:
                first = str(error).partition("\n")[0]
                result = {"missing": "failed", "reason": f"{type(error).__name__}: {first}"}
        return {"i": i, "seconds": round(time.perf_counter() - began, 3), **result}

    def _fitted(self, i: int) -> Fit:
        """The method's fit to the data as they are now.

        Raises:
            Stopped: a signal cut it short. Fault: it has no draws, or the method's own.
        """
        seed = int(spawn(self.seed, SIMULATED, i, _METHOD).generate_state(1)[0])
        context = Context(apart=False, graphs=self.graphs)
        program = self.given(self.program.changed())  # of the data as they are now
        fit = self.method(program, seed=seed, context=context, **self.settings)
        if fit.signal is not None:
            raise Stopped(fit.signal)
        if fit.kind == "point":
            raise Fault("a point estimate has no draws among which the truth could be ranked")
        return fit

    def _ranked(self, i: int, truth: Mapping[str, Tensor], fit: Fit) -> dict[str, Any]:
        """The ranks of the truth among the draws of a fit, and its verdict (see `fit`).

        Raises:
            Fault: draws that are not finite.
        """
        latents = [site.name for site in self.program.of("latent", "discrete")]
        draws = {name: fit.draws[name].flatten(0, 1).to(truth[name].dtype) for name in latents}
        bad = [name for name, value in draws.items() if not value.isfinite().all()]
        if bad:
            raise Fault(f"draws of {', '.join(bad)} are not finite")
        some = spread_out(draws, _RANKED[fit.kind])
        both = {name: torch.cat([truth[name][None], some[name]]) for name in latents}
        idata = groups.draws_alone(self.program, fit)
        verdict = diagnostics.verdict(fit, idata, psis.metrics(fit, idata))
        table = self._cells(both) | self._of_data(both, i)
        true = self._cells({name: truth[name][None] for name in latents})
        ties = np.random.default_rng(spawn(self.seed, SIMULATED, i, _TIES))
        return {
            "draws": len(some[latents[0]]),
            "rank": {name: rank(column, ties) for name, column in table.items()},
            "error": _errors(true, self._cells(draws)),
            "status": verdict.status,
            "findings": [[finding.level, finding.what] for finding in verdict.findings],
        }

    def _cells(self, values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Name of each scalar, as in a summary, to its values (S,)."""
        cells: dict[str, np.ndarray] = {}
        for site, value in values.items():
            columns = value.flatten(1).numpy() if value.ndim > 1 else value[:, None].numpy()
            names = groups.cell_names(self.program, site)
            cells |= dict(zip(names, columns.T[: _MOST_CELLS - len(cells)]))
        return cells

    def _of_data(self, values: Mapping[str, Tensor], i: int) -> dict[str, np.ndarray]:
        """Quantities that depend on the data too; without them posterior = prior would pass.

        Modrak et al. (2023), Bayesian Analysis, arXiv:2211.02383.
        """
        observed, elements = self.program.of("observed"), self.program.elements
        if not observed:
            return {}
        scores = over_draws(self.program.log_likelihood, values, elements)
        total = sum(score.reshape(len(score), -1).sum(1) for score in scores.values())
        name = observed[0].name
        with seeded(self.seed, SIMULATED, i, _REPLICATES):
            new = over_draws(self.program.predictive, values, elements)[name]
        mean = new.to(torch.float64).reshape(len(new), -1).mean(1)
        return {LOG_LIKELIHOOD: total.numpy(), f"mean of new {name}": mean.numpy()}


def _replaceable(program: Program) -> dict[str, str]:
    """Observed site to the data key in whose place simulated values can be put.

    Raises:
        Refused: the joint distribution cannot be drawn from, or an observed site is no data key.
    """
    if program.improper():
        names = ", ".join(program.improper())
        raise Refused(f"the prior of {names} is improper and cannot be sampled; give a proper one")
    if program.unfitted or program.problem.params:
        names = ", ".join([*program.unfitted, *program.problem.params])
        raise Refused(f"the model's own parameters ({names}) have no prior; give them one")
    if program.has_factor:
        raise Refused("the model has a pyro.factor, from which no data can be simulated")
    if not program.of("latent", "discrete"):
        raise Refused("the model has no latents, so there is nothing to calibrate")
    keys = observed_keys(program.sites, program.problem.tensors)
    for site in program.of("observed"):
        tensor = program.problem.tensors[keys[site.name]] if site.name in keys else None
        if tensor is None or tuple(tensor.shape) != site.shape:
            raise Refused(
                f"'{site.name}' is observed, but is no data key as it stands, so that simulated "
                "values have no place; give it one of its own (obs=key)"
            )
    return keys


def spread_out(draws: Mapping[str, Tensor], most: int) -> dict[str, Tensor]:
    """At most so many draws, evenly spread over all of them (S, *shape)."""
    n = len(next(iter(draws.values())))
    if n <= most:
        return dict(draws)
    at = (torch.arange(most) + 0.5) * n / most
    return {name: value[at.long()] for name, value in draws.items()}


def rank(column: np.ndarray, rng: np.random.Generator) -> int:
    """How many draws lie below the truth, the first of the column; among equals at random.

    Values equal up to rounding count as equal.
    """
    truth, draws = column[0], column[1:]
    with np.errstate(invalid="ignore"):
        equal = np.isclose(draws, truth, rtol=1e-12, atol=0)
    below = int(((draws < truth) & ~equal).sum())
    return below + int(rng.integers(equal.sum() + 1))


def _errors(truth: Mapping[str, np.ndarray], draws: Mapping[str, np.ndarray]) -> dict[str, float]:
    """(truth - mean) / sd of each scalar that the posterior leaves open."""
    errors = {}
    for name, values in draws.items():
        sd = values.std(ddof=1)
        if sd > 0:
            errors[name] = float((truth[name][0] - values.mean()) / sd)
    return {name: error for name, error in errors.items() if math.isfinite(error)}


# -- many fits --------------------------------------------------------------------------------


def run(
    fit: Callable[[int], dict[str, Any] | int],
    n: int,
    *,
    earlier: Mapping[int, dict[str, Any]] | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda fit: None,
    workers: int = 1,
    progress: bool = False,
) -> tuple[list[dict[str, Any]], int]:
    """The fits 0..n-1 by number, and the signal that kept some from being made (0 if none did).

    A first signal to stop ends the study with the fits that are done.

    Args:
        fit: gives the i-th fit; sent to other processes where there are several workers.
        n: how many fits.
        earlier: number to fit of those that were made before.
        keep: called here with each new fit, as it is done.
        workers: fits at once.
        progress: whether to show a bar.

    Raises:
        Fault: a process died twice of one fit.
    """
    done = {i: fit for i, fit in (earlier or {}).items() if i < n}
    waiting = [i for i in range(n) if i not in done]
    bar = tqdm(total=n, initial=len(done), desc="fits", disable=not progress, mininterval=0.2)
    with bar, listening() as heard:
        for _, result in each(fit, waiting, workers if workers > 1 else 0, heard, tries=2):
            if isinstance(result, int):
                heard.signal = heard.signal or result
            elif not isinstance(result, Exception):
                done[result["i"]] = result
                keep(result)
                bar.update()
            elif not heard.stopped:
                raise Fault(f"{result}; what was done is kept, go on with it") from result
            if len(done) == _HOPELESS and not any("rank" in fit for fit in done.values()):
                break  # none of so many: the method is not for this model
    return [done[i] for i in sorted(done)], heard.signal or 0
