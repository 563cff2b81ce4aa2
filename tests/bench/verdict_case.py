"""A case of the benchmark of the verdict: a model, its data, and its rows and priors in NumPy.

What a case says of its rows and priors is written a second time, with SciPy, and shares nothing
with the code under test: truths and predictive distributions are computed from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy.special import logsumexp

Draws = Mapping[str, np.ndarray]  # site to draws (S, *shape)
Kind = Literal["zoo", "location", "regression", "hierarchy", "several modes", "series", "tails"]

# Families whose fits were looked at while the rules of the verdict were made.
_TUNED = {
    *("linear", "network", "normal", "beta", "zero of five", "poisson rate", "two normals"),
    *("zero-inflated poisson", "uniform bound", "small scale", "scale of one", "t in conflict"),
    *("banana", "regression", "ordinal", "softmax", "horseshoe", "sinusoid", "Cauchy pair"),
    *("square", "schools", "funnel", "autoregression", "level"),
}

# Families of which no result was known when the rules were made, the last one included.
_FRESH = {
    *("waiting", "failures", "student", "doses", "incomes", "variance", "groups", "pointed"),
    *("floods", "probit", "decay", "powers", "shared"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A model whose posterior is known, and how it is known.

    Attributes:
        name: unique.
        family: cases of one family are in the same half.
        kind: what sort of model it is, for the balance of the halves.
        model: a Pyro function, or the name of a model of the zoo.
        data: what is given to the model as `data`.
        options: options of the model and its data.
        rows: draws to the distribution of each row, (S, n) of SciPy's frozen distributions or of
            the classes below; None where rows have none of their own.
        observed: what was observed in each row, (n,); None without rows.
        priors: site to its prior, or a list of priors for the elements of a vector: frozen
            distributions of SciPy. The product of these and of the rows' densities is the joint.
        log_joint: log joint at draws, (S,), where it is no such product.
        supports: site to the ends of its support, where SciPy's prior has others.
        exact: gives the truth in closed form: see `verdict_truth.Known`.
        twin: another writing of the model, better for long chains, and its draws to those here.
        heavy: sites without a variance (or whose sample variance has none): median and width
            are judged.
        judged: sites whose moments count; None takes all that are continuous.
        labelled: whether the labels of the parameters are arbitrary: moments are those of all
            labellings together.
        methods: method, or `svi:guide`, fitted with the default settings.
        proper: whether there is an evidence.
        settings: method settings that every fit of this case needs.
        long: settings of the long runs that this case needs, in place of the usual.
        group: the group of draws that are judged; of networks, whose weights are not identified,
            `predictions`.
        batches: whether rows come in batches (none has latents of its own).
        loo: whether `rows` are all that is observed, so that leave-one-out is of them.
        together: whether several of `rows` are one observation, of which they are the marginals:
            predictions are not judged.
        contrary: whether the prior is in conflict with the data on purpose: no fit is a default.
    """

    name: str
    family: str
    kind: Kind
    model: Callable | str
    data: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: Callable[[Draws], Any] | None = None
    observed: np.ndarray | None = None
    priors: Mapping[str, Any] | None = None
    log_joint: Callable[[Draws], np.ndarray] | None = None
    supports: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    exact: Callable[[], Any] | None = None
    twin: tuple[Callable, Callable[[Draws], Draws]] | None = None
    heavy: tuple[str, ...] = ()
    judged: tuple[str, ...] | None = None
    methods: tuple[str, ...] = ("nuts", "laplace", "svi:normal", "svi:mvn", "map", "mle")
    proper: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    long: Mapping[str, Any] = field(default_factory=dict)
    group: str = "posterior"
    batches: bool = True
    loo: bool = True
    together: bool = False
    contrary: bool = False

    @cached_property
    def half(self) -> str:
        """`tuned`, `reported` or `fresh`, by the family's name alone."""
        return half_of(self.family)

    @property
    def is_long(self) -> bool:
        """Whether the truth takes long runs."""
        return self.exact is None and (self.priors is None or self.dimensions > 3)

    @property
    def dimensions(self) -> int:
        """Scalars of the priors."""
        return sum(len(p) if isinstance(p, list) else 1 for p in self.priors.values())


def half_of(family: str) -> str:
    """The half in which all cases of a family are: rules are tuned on one of the two alone.

    A rule was amended after the other had been looked at, so it is measured on a third: `fresh`.
    """
    if family in _FRESH:
        return "fresh"
    return "tuned" if family in _TUNED else "reported"


@dataclass(frozen=True)
class Mixture:
    """A mixture of distributions in each row.

    Attributes:
        log_weights: (S, n, K), or what broadcasts with it.
        parts: frozen distribution of SciPy of shape (S, n, K).
        discrete: whether values are whole numbers.
    """

    log_weights: np.ndarray
    parts: Any
    discrete: bool = False

    def cdf(self, values: np.ndarray) -> np.ndarray:
        """Distribution function (S, n) at values that broadcast with it."""
        below = self.parts.cdf(np.asarray(values)[..., None])
        return (np.exp(self.log_weights) * below).sum(-1)

    def log_density(self, values: np.ndarray) -> np.ndarray:
        """Log density (S, n)."""
        parts = log_density(self.parts, np.asarray(values)[..., None])
        return logsumexp(self.log_weights + parts, axis=-1)


@dataclass(frozen=True)
class Classes:
    """A class in each row, by its log probabilities (S, n, K)."""

    log_probabilities: np.ndarray

    def log_density(self, values: np.ndarray) -> np.ndarray:
        """Log probability of the classes observed, (S, n)."""
        at = np.asarray(values, dtype=int)
        return np.take_along_axis(self.log_probabilities, at[None, :, None], axis=2)[..., 0]


def yes_or_no(log_odds: np.ndarray) -> Classes:
    """Zero or one in each row, by the log odds of one (S, n)."""
    return Classes(np.stack([-np.logaddexp(0, log_odds), -np.logaddexp(0, -log_odds)], -1))


def is_discrete(rows: Any) -> bool:
    """Whether the values of rows are whole numbers, not classes."""
    return rows.discrete if isinstance(rows, Mixture) else hasattr(rows.dist, "pmf")


def log_density(rows: Any, values: np.ndarray) -> np.ndarray:
    """Log density or log probability of values under the rows' distributions, (S, n)."""
    if isinstance(rows, Mixture | Classes):
        return rows.log_density(values)
    return rows.logpmf(values) if hasattr(rows.dist, "pmf") else rows.logpdf(values)


def draws_of(case: Case, run: Any) -> dict[str, np.ndarray]:
    """The judged draws of a run, site to (chain, draw, *shape)."""
    return {str(k): v.values for k, v in run.idata[case.group].data_vars.items()}


def log_prior(case: Case, draws: Draws) -> np.ndarray:
    """Log prior density of draws, (S,), of independent elements."""
    total = np.zeros(len(next(iter(draws.values()))))
    for name, prior in case.priors.items():
        several = prior if isinstance(prior, list) else [prior]
        values = draws[name].reshape(len(total), -1)
        for i in range(values.shape[1]):
            total = total + log_density(several[i % len(several)], values[:, i])
    return total


def log_joint(case: Case, draws: Draws) -> np.ndarray:
    """Log joint density of data and draws, (S,), in the constrained space."""
    if case.log_joint is not None:
        return case.log_joint(draws)
    total = log_prior(case, draws)
    if case.rows is not None:
        total = total + log_density(case.rows(draws), case.observed).sum(-1)
    return total
