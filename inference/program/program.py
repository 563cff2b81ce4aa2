"""The log density of a model, discrete latents summed out, and what is computed at its draws."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from models.contract import Fault, Refused

from . import labels
from .discrete import Summed
from .handlers import Batch, condition, factors, freed, run, sum_of_factors, without_density
from .kinks import value_and_grad
from .sampling import over_draws, vectorises
from .sites import Tensors, Values
from .supports import violation
from .traced import TracedModel

# How far out a start is looked for where the usual ones have no density, and by how many searches.
_FURTHER, _SEARCHES = (4.0, 8.0, 16.0), 4
# Scalars of draws that are made to see a tail better.
_MOST_HELD = 100_000_000


class Program(TracedModel):
    """The log density of a problem and what can be computed at its draws.

    Arguments and attributes are those of `TracedModel`. Densities are in the user's units.
    """

    @property
    def elements(self) -> int:
        """What one evaluation holds in memory: scalars of all sites, at all joint labels."""
        return self.elements_of_run * (1 if self.summed is None else self.summed.cells)

    @cached_property
    def summed(self) -> Summed | None:
        """The discrete latents summed out, in a way that is proved right; None without any."""
        return labels.summed(self)

    def start(self, tries: int = 100) -> Tensor:
        """A random unconstrained vector (d,) at which density and gradient are finite.

        First those uniform in (-2, 2); where none of these will do, draws from the prior, points
        further out, and ends of a search for latents that the observations do not exclude.

        Args:
            tries: points of the first kind; of the others a quarter as many.

        Raises:
            Refused: an observation is outside of its support at every point that was tried.
            Fault: no point had a finite log density, for another reason.
        """
        if not self.size:
            return torch.zeros(0)
        for u in self._starts(tries):
            value, gradient = self.density_and_gradient(u)
            if value.isfinite() and gradient.isfinite().all():
                return u
        excluded = self.excluded(self.constrain(u))
        if excluded is not None:
            raise Refused(
                f"{excluded} at every starting point that was tried; correct the data, or the "
                "priors of the latents that bound them"
            )
        raise Fault(
            f"none of {tries} random starting points has a finite log density; "
            "check the supports of the priors against the data"
        )

    def _starts(self, tries: int) -> Iterator[Tensor]:
        """The points that are tried, in their order, (d,) each."""
        for _ in range(tries):
            yield self.random_start()
        for _ in range(0 if self.improper() else tries // 4):
            yield self.drawn_start()
        for scale in _FURTHER:
            for _ in range(tries // 4):
                yield (torch.rand(self.size) * 2 - 1) * scale
        for _ in range(_SEARCHES if self.edges else 0):
            yield self._search(self.random_start())

    def _search(self, u: Tensor) -> Tensor:
        """Where a descent from `u` (d,) ends that brings observations inside of their supports.

        By L-BFGS-B on the sum of squares by which they are outside.
        """

        def outwards(u: Tensor) -> Tensor:
            with torch.random.fork_rng(devices=[]):  # the same labels each time
                torch.manual_seed(0)
                nodes = run(self.plain, self.tensors, self.assign(self.parts(u))).nodes
            sites = [nodes[name] for name in self.edges]
            return sum((violation(n["fn"], n["value"]) for n in sites), 0 * u.sum())

        from scipy import optimize

        def negative(x: Any) -> tuple[float, Any]:
            value, slope = value_and_grad(outwards, torch.as_tensor(x).to(u))
            return value.item(), slope.numpy(force=True).astype(float)

        end = optimize.minimize(negative, u.numpy(force=True), jac=True, method="L-BFGS-B")
        return torch.as_tensor(end.x).to(u)

    def log_density(self, u: Tensor, *, jacobian: bool = True, prior: bool = True) -> Tensor:
        """Log density at the unconstrained vector `u` (d,), nats, discrete latents summed out.

        Args:
            u: unconstrained vector, shape (d,).
            jacobian: with log |dT/du|, the density of u; without, that of the constrained values.
            prior: without, the priors of the continuous latents are dropped (the likelihood).
        """
        return self._log_density(self.parts(u), jacobian, prior)

    def density_and_gradient(
        self, u: Tensor, *, jacobian: bool = True, prior: bool = True
    ) -> tuple[Tensor, Tensor]:
        """`log_density` and its gradient (d,), both detached; arguments as there."""
        # Leaves of their own: the gradient of a slice is a vector of zeros with a slice in it.
        leaves = {k: part.detach().requires_grad_() for k, part in self.parts(u).items()}
        value = self._log_density(leaves, jacobian, prior)
        slopes = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        return value.detach(), torch.cat([slope.flatten() for slope in slopes])

    def _log_density(self, parts: Values, jacobian: bool, prior: bool) -> Tensor:
        """`log_density` of the parts of an unconstrained vector."""
        assign = self.assign(parts)
        handlers = [assign] if prior else [assign, without_density(self.layout)]
        total = self._log_prob(*handlers)
        return total + assign.log_jacobian if jacobian else total

    def log_joint(
        self, values: Values, batch: Batch | None = None, *, prior: bool = True
    ) -> Tensor:
        """Log joint density of the data and the continuous latents, discrete ones summed out.

        Args:
            values: the latents; those of the rows for the rows of the batch.
            batch: rows that stand for all; None takes all.
            prior: without, the priors of the continuous latents are dropped.

        Returns:
            A scalar, nats, in the user's units.
        """
        handlers = [condition(self.continuous(values))]
        handlers += [] if prior else [without_density(self.layout)]
        return self._log_prob(*handlers, batch=batch)

    def _log_prob(self, *handlers: Any, batch: Batch | None = None) -> Tensor:
        """Log density of all sites under handlers, discrete latents summed out, nats."""
        batch = batch or Batch(self.tensors)
        if self.summed is not None:
            return self.summed.log_prob(batch, *handlers) - self._log_units
        return sum_of_factors(run(self.model, batch.tensors, *handlers), batch) - self._log_units

    @cached_property
    def _log_units(self) -> float:
        """log |d user's value / d model's value| of all observations, nats."""
        observed = {site.name: site.value.numel() for site in self.of("observed")}
        return sum(observed[k] * log for k, log in self.problem.log_units.items() if k in observed)

    @cached_property
    def log_units_of_row(self) -> float:
        """The same for the observations of one row."""
        return self._log_units / self.n if self.problem.log_units else 0.0

    def complete(self, draws: Values) -> dict[str, Tensor]:
        """All draws from those of the continuous latents, site to tensor (S, *shape).

        Discrete latents are drawn from their exact posterior given the continuous ones, and what
        was not seen from its distribution, from torch's current random state.
        """
        draws, summed = dict(draws), self.summed
        if summed is not None:

            def recover(values: Values) -> Values:
                return summed.sample(self.tensors, self.continuous(values))

            draws |= over_draws(recover, draws, self.elements)
        if self.of("deterministic", "unseen"):
            draws |= over_draws(self.deterministics, draws, self.elements)
        return {name: draws[name] for name in self.sites if name in draws}

    def deterministics(self, values: Values) -> dict[str, Tensor]:
        """The deterministic sites at one draw of all latents, and what was not seen, drawn."""
        nodes = self.plain_at(values).nodes
        return {s.name: nodes[s.name]["value"] for s in self.of("deterministic", "unseen")}

    def log_likelihood(self, values: Values, tensors: Tensors | None = None) -> dict[str, Tensor]:
        """Log likelihood of each observation, observed site to tensor (plates), nats.

        Discrete latents of the rows are summed out, others are taken at their drawn values.

        Args:
            values: latents, the discrete ones too where they are not summed out.
            tensors: other data in the place of the problem's.
        """
        tensors = self.tensors if tensors is None else tensors
        observed, units = self.of("observed"), self.problem.log_units
        if self.summed is not None and self.sums_rows:
            names = [site.name for site in observed]
            values = self.continuous(values)
            scores = self.summed.parallel.log_likelihood(tensors, values, names)
            log_units = sum(units.get(name, 0.0) for name in names)
            return {name: score - log_units for name, score in scores.items()}
        scored = factors(run(self.model, tensors, condition(values)))
        log_probs = {s.name: scored[s.name]["log_prob"].expand(s.batch_shape) for s in observed}
        return {name: score - units.get(name, 0.0) for name, score in log_probs.items()}

    @property
    def sums_rows(self) -> bool:
        """Whether discrete latents of the rows are summed out where a row is scored."""
        return self.summed is not None and self.summed.by_row(self.of("observed"))

    def log_chances(self, values: Values, labels: Tensor) -> Tensor:
        """Log probability that a row's one observation is each of the labels (C,), (C, rows).

        The discrete latents of the rows are summed out.

        Raises:
            ValueError: there are none (see `sums_rows`).
        """
        (site,) = self.of("observed")
        if self.summed is None:
            raise ValueError("no discrete latents are summed out")
        values = self.continuous(values)
        return self.summed.parallel.log_chances(self.tensors, values, site.name, labels)

    def predictive(self, values: Values, *, new_rows: bool = False) -> dict[str, Tensor]:
        """New observations given one draw of the latents.

        Labels of rows are drawn afresh; with `new_rows` so is every latent of the row plate.

        Args:
            values: the latents, discrete ones too.
            new_rows: whether they are those of rows not seen.

        Returns:
            Observed site to its value (*shape), of those that can be drawn.
        """
        old = {name: values[name] for name in values if not self._fresh(name, new_rows)}
        trace = run(freed(self._drawn)(self.model), self.tensors, condition(old))
        return {name: trace.nodes[name]["value"] for name in self._drawn}

    def _fresh(self, name: str, new_rows: bool) -> bool:
        """Whether a site is drawn anew (or recomputed) for new observations."""
        site = self.sites[name]
        if site.role in ("deterministic", "observed", "unseen"):
            return True
        return site.is_in(self.plate) and (new_rows or site.role == "discrete")

    def prior(self, _: Any = None) -> dict[str, Tensor]:
        """One joint draw of all latents, deterministics and observations from the prior."""
        trace = run(freed(self._drawn)(self.plain), self.tensors)
        return {k: trace.nodes[k]["value"] for k in self.sites if k not in self.undrawn}

    @cached_property
    def undrawn(self) -> list[str]:
        """The observed sites whose distribution has no `sample`: a density needs none."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return [site.name for site in self.of("observed") if not _can_be_drawn(site.fn)]

    @cached_property
    def _drawn(self) -> tuple[str, ...]:
        """The observed sites that can be drawn."""
        return tuple(s.name for s in self.of("observed") if s.name not in self.undrawn)


def _can_be_drawn(fn: Any) -> bool:
    """Whether a distribution has a `sample`."""
    try:
        fn.sample()
    except (NotImplementedError, AttributeError, TypeError):
        return False
    return True


def further_draws(program: Program, function: Callable, draws: Values) -> int:
    """How many draws k-hat is estimated from: 100,000 where `function` is quick to evaluate.

    That is, where it vectorises over the few `draws` given and the model's data are small. Of very
    many scalars no more than are given.

    Args:
        program: of which the draws are.
        function: of one draw.
        draws: name to draws (S, *shape).
    """
    draws_given = len(next(iter(draws.values())))
    if not vectorises(function, {name: value[:2] for name, value in draws.items()}):
        return draws_given
    size = max(program.elements, 1)
    return max(draws_given, min(4000, _MOST_HELD // size), min(100_000, 10_000_000 // size))
