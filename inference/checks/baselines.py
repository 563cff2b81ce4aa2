"""What a fit should beat: predictions that look at no feature, or at all of them along a line.

A fit may have come to its end and still predict worse than the shares of the classes. Two plain
models are fitted to the training rows and scored on the very rows on which the fit is: those held
out or, without any, each row left out in turn.

`constant` knows the target alone: the shares of the classes, half a row added to each (Krichevsky
and Trofimov 1981); the mean of counts (Poisson); mean and sd of numbers, by the t distribution of
a further one. `linear` is a ridge regression of numbers or a softmax regression of classes on
standardised features, penalty 1 (half the squared coefficients; of numbers in units of the
noise), its row left out by one Newton step (Rahnama Rad and Maleki 2020, arXiv:1801.10243), which
is exact for numbers.

A density may be good where the means are not, if it knows how wrong they are: of networks that
predict numbers the errors of the means are compared as well.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import scipy
import torch
import torch.distributions as dist
import xarray as xr

from ..core.problem import Finding, Problem
from ..program.program import Program
from ..program.supports import support_of
from ..results.predictive import is_classes, labels, row_tensors

Kind = Literal["classes", "counts", "numbers"]

# A fit falls short where its rows sum up to so many nats less than a baseline's, and to so many a
# row, and by more than this part of the difference's standard error. If the data are as the model
# says, the first happens about once in exp(4.6) = 100 times at most: no density exceeds that of
# the true model's predictions t times with a probability above 1 / t (Markov's inequality).
_NATS, _OF_ROW, _ERRORS = 4.6, 0.02, 0.67
# It is sure to fall short at this level of a one-sided t test.
_LEVEL = 0.005
# By so much the errors of its means are larger, where they are.
_WORSE = 0.05
# Rows that are left out whose importance weights may fail, before their scores tell nothing.
_FAILED, _KHAT = 0.05, 0.7
# The fewest rows by which the error of a difference is known.
_FEWEST = 10
# Numbers of a table that a linear model is fitted to; of more, every so many rows are taken. And
# the most columns, and coefficients of a model whose rows are left out.
_CELLS, _COLUMNS, _COEFFICIENTS = 1_000_000, 1000, 400
_STEPS = 100
_OF_TARGET = {
    "classes": "the shares of the classes alone",
    "counts": "the mean count alone",
    "numbers": "mean and sd of the target alone",
}


class Rows(NamedTuple):
    """Rows of a table: target (n,), a class's index or a number, and features (n, k) if any."""

    y: np.ndarray
    x: np.ndarray | None = None


class Table(NamedTuple):
    """What the baselines are fitted to and scored on.

    Attributes:
        kind: of the target.
        classes: their number; 0 of numbers.
        train: rows to fit to.
        test: rows to score; None leaves the training rows out in turn.
        elpd: log predictive density of the scored rows by the fit, nats in the user's units.
        error: target minus the fit's mean of the scored rows, in the user's units, if known.
        log_unit: log(user's unit / model's unit) of the target.
    """

    kind: Kind
    classes: int
    train: Rows
    test: Rows | None
    elpd: np.ndarray
    error: np.ndarray | None = None
    log_unit: float = 0.0


class Prediction(NamedTuple):
    """Of each scored row log density (m,), in the model's units, and error of the mean (m,)."""

    elpd: np.ndarray
    error: np.ndarray | None = None

    def in_units(self, log_unit: float) -> Self:
        """The same in the user's units."""
        error = None if self.error is None else self.error * np.exp(log_unit)
        return self._replace(elpd=self.elpd - log_unit, error=error)


def compared(
    program: Program, idata: Mapping[str, xr.Dataset]
) -> tuple[dict[str, float], list[Finding]]:
    """How the baselines predict the rows on which a fit is scored, and whether it falls short.

    Returns:
        baseline_constant and baseline_linear, log predictive densities summed as elpd_test (or
        elpd_loo, without rows held out) is, nats; a warning, if the fit is below one of them.
    """
    table = table_of(program, idata)
    if table is None:
        return {}, []
    fitted = {"constant": constant(table), "linear": linear(table)}
    baselines = {k: p.in_units(table.log_unit) for k, p in fitted.items() if p is not None}
    metrics = {f"baseline_{name}": float(p.elpd.sum()) for name, p in baselines.items()}
    return metrics, _by_density(table, baselines) or _by_error(table, baselines)


class Gap(NamedTuple):
    """By how much a fit predicts rows better than a baseline does, nats.

    Attributes:
        mean: by row.
        error: the standard error of it, of differences row by row.
        rows: their number.
    """

    mean: float
    error: float
    rows: int

    @classmethod
    def of(cls, elpd: np.ndarray, baseline: np.ndarray) -> Self:
        """From the log densities of the rows by both."""
        each = elpd - baseline
        return cls(float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))), len(each))

    @property
    def short(self) -> bool:
        """Whether the fit falls short, as a good one will once in a hundred times at most."""
        some = self.mean * self.rows < -_NATS and self.mean < -_OF_ROW
        return some and self.mean < -_ERRORS * self.error

    @property
    def sure(self) -> bool:
        """Whether chance is ruled out, whatever the model."""
        return self.mean < scipy.special.stdtrit(self.rows - 1, _LEVEL) * self.error


def farther(error: np.ndarray, baseline: np.ndarray) -> bool:
    """Whether the means of a fit are farther from the rows than a baseline's, beyond chance."""
    return Gap.of(baseline**2, error**2).sure and _rmse(error) > (1 + _WORSE) * _rmse(baseline)


def _rmse(error: np.ndarray) -> float:
    """The root of the mean squared error of rows (m,)."""
    return float(np.sqrt((error**2).mean()))


def _by_density(table: Table, baselines: Mapping[str, Prediction]) -> list[Finding]:
    """A warning that names the best baseline of those that the fit falls short of."""
    gaps = {name: Gap.of(table.elpd, p.elpd) for name, p in baselines.items()}
    gaps = {name: gap for name, gap in gaps.items() if gap.short}
    if not gaps:
        return []
    name = min(gaps, key=lambda name: gaps[name].mean)
    gap, ours, theirs = gaps[name], table.elpd.mean(), baselines[name].elpd.mean()
    rows = "rows left out in turn" if table.test is None else "the rows held out"
    scores = f"{ours:.3g} against {theirs:.3g} nats a row, the difference has a standard error of "
    scores += f"{gap.error:.2g}"
    return [_worse(f"it predicts {rows} worse than {_named(name, table)} ({scores})", gap.sure)]


def _by_error(table: Table, baselines: Mapping[str, Prediction]) -> list[Finding]:
    """The same of the errors of the means."""
    if table.error is None:
        return []
    errors = {k: p.error for k, p in baselines.items() if p.error is not None}
    near = {k: _rmse(error) for k, error in errors.items() if farther(table.error, error)}
    if not near:
        return []
    name = min(near, key=lambda name: near[name])
    scores = f"rmse {_rmse(table.error):.3g} against {near[name]:.3g}"
    what = f"its means are farther from the rows held out than those of {_named(name, table)}"
    return [_worse(f"{what} ({scores})", True)]


def _named(name: str, table: Table) -> str:
    """What a baseline is, in words."""
    return _OF_TARGET[table.kind] if name == "constant" else "a linear model of the same columns"


def _worse(what: str, sure: bool) -> Finding:
    """A warning: no to predictions, or not known where a few rows may make the difference."""
    fix = "use a simpler model or a stronger prior"
    if sure:
        return Finding("warn", what, f"do not use its predictions; {fix}", spoils=("predictions",))
    return Finding("warn", what, f"hold out more rows to tell; else {fix}", opens=("predictions",))


# -- the table --------------------------------------------------------------------------------


def table_of(program: Program, idata: Mapping[str, xr.Dataset]) -> Table | None:
    """The table of a problem with one observation a row; None where nothing can be compared."""
    problem, elpd = program.problem, _elpd(idata)
    if elpd is None or len(elpd) < _FEWEST or problem.rows is None:
        return None
    observed = program.of("observed")
    if len(observed) != 1 or observed[0].event_dim or observed[0].name not in problem.rows.keys:
        return None
    (site,) = observed
    held_out = "elpd_test" in idata
    given = problem.test if held_out else problem.tensors
    targets = [tensors[site.name] for tensors in (problem.tensors, given)]
    if any(y.ndim != 1 or not y.isfinite().all() for y in targets) or len(targets[1]) != len(elpd):
        return None
    kind = _kind(program)
    if kind is None:
        return None
    y, y_scored = (target.detach().cpu().numpy().astype(float) for target in targets)
    count = 0
    if kind == "classes":
        known = labels(program).numpy()
        y, y_scored, count = *(np.searchsorted(known, part) for part in (y, y_scored)), len(known)
    x, x_scored = _features(problem, site.name, given)
    test = Rows(y_scored, x_scored) if held_out else None
    # Of a network that predicts numbers, the errors of its means.
    error = idata["held_out_numbers"]["error"].values if "held_out_numbers" in idata else None
    unit = problem.log_units.get(site.name, 0.0)
    return Table(kind, count, Rows(y, x), test, elpd, error, unit)


def _elpd(idata: Mapping[str, xr.Dataset]) -> np.ndarray | None:
    """The fit's log predictive density of each row held out or left out, if it can be trusted."""
    if "elpd_test" in idata:
        return idata["elpd_test"]["elpd"].values
    if "loo" not in idata:
        return None
    group = idata["loo"]
    if "khat" in group and (group["khat"] > _KHAT).mean() > _FAILED:
        return None
    return group["elpd"].values


def _kind(program: Program) -> Kind | None:
    """What the rows' observations are; None of those that no baseline is known for."""
    if is_classes(program):
        return "classes"
    support = support_of(program.of("observed")[0].fn)
    if support is None:
        return None
    if not support.is_discrete:
        return "numbers"
    bounded = getattr(support, "upper_bound", None) is not None
    return None if bounded or getattr(support, "lower_bound", None) != 0 else "counts"


def _features(
    problem: Problem, target: str, given: dict[str, torch.Tensor]
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """All numeric columns of the rows, (n, k) and (m, k) of the scored; None without any."""
    rows = {k: v for k, v in row_tensors(problem).items() if k != target and k in given}
    keys = [k for k, value in rows.items() if value.ndim <= 2]
    train, scored = (
        [tensors[k].reshape(len(tensors[k]), -1).numpy() for k in keys]
        for tensors in (rows, given)
    )
    if not keys or sum(part.shape[1] for part in train) > _COLUMNS:
        return None, None
    x, other = np.concatenate(train, 1), np.concatenate(scored, 1)
    return (x, other) if np.isfinite(x).all() and np.isfinite(other).all() else (None, None)


# -- predictions that look at the target alone ------------------------------------------------


def constant(table: Table) -> Prediction:
    """The target's own distribution, of the training rows."""
    y = table.train.y
    at, without = (y, 1) if table.test is None else (table.test.y, 0)
    n = len(y) - without
    if table.kind == "classes":
        counts = np.bincount(y, minlength=table.classes)
        return Prediction(np.log((counts[at] - without + 0.5) / (n + table.classes / 2)))
    if table.kind == "counts":
        return Prediction(_log_prob(dist.Poisson, at, (y.sum() - without * at + 0.5) / n))
    loc = y.mean()
    y, at = y - loc, at - loc
    mean = (y.sum() - without * at) / n
    squares = (y**2).sum() - without * at**2 - n * mean**2
    scale = np.sqrt(np.maximum(squares, _least(y)) / (n - 1) * (1 + 1 / n))
    return Prediction(_log_prob(dist.StudentT, at, n - 1, mean, scale), at - mean)


def _least(y: np.ndarray) -> float:
    """A sum of squares that rounding leaves of numbers that are all alike."""
    return 1e-12 * max((y**2).sum(), 1e-12)


# -- a linear model ---------------------------------------------------------------------------


def linear(table: Table) -> Prediction | None:
    """A linear model of all columns; None without features, or where it would take too long."""
    train = table.train
    if train.x is None or table.kind == "counts":
        return None
    every = max(1, -(-train.x.size // _CELLS))
    if every > 1 and table.test is None:
        return None
    train = Rows(train.y[::every], train.x[::every])
    loc, scale = train.x.mean(0), train.x.std(0)
    x, other = (
        np.column_stack([(part - loc) / np.where(scale > 0, scale, 1.0), np.ones(len(part))])
        for part in (train.x, train.x[:0] if table.test is None else table.test.x)
    )
    test = None if table.test is None else Rows(table.test.y, other)
    if table.kind == "numbers":
        return _ridge(Rows(train.y, x), test)
    if test is None and x.shape[1] * table.classes > _COEFFICIENTS:
        return None
    return Prediction(_softmax(Rows(train.y, x), test, table.classes))


def _penalty(columns: int) -> np.ndarray:
    """Of the coefficients, the last of which is the intercept: next to nothing, but no zero."""
    return np.append(np.ones(columns - 1), 1e-6)


def _ridge(train: Rows, test: Rows | None) -> Prediction:
    """A ridge regression, its sd that of the training rows left out in turn.

    A row's error when it is left out is its residual over 1 - h, h the diagonal of the hat matrix
    x (x'x + penalty)^-1 x': exact, without another fit.
    """
    x, y = train.x, train.y
    inverse = np.linalg.inv(x.T @ x + np.diag(_penalty(x.shape[1])))
    coefficients = inverse @ (x.T @ y)
    lever = np.einsum("ij,jk,ik->i", x, inverse, x, optimize=True)
    left_out = (y - x @ coefficients) / (1 - lever)
    squares = max((left_out**2).sum(), _least(y))
    if test is None:
        rest = np.maximum(squares - left_out**2, _least(y)) / (len(y) - 1)
        return Prediction(_log_prob(dist.Normal, left_out, 0.0, np.sqrt(rest)), left_out)
    away = test.y - test.x @ coefficients
    return Prediction(_log_prob(dist.Normal, away, 0.0, np.sqrt(squares / len(y))), away)


def _softmax(train: Rows, test: Rows | None, classes: int) -> np.ndarray:
    """Log probability of rows' classes by a softmax regression (m,).

    Args:
        train: rows to fit to; the last column of their features is one.
        test: rows to score; None scores the training rows, each left out.
        classes: number of classes.
    """
    x, columns = train.x, train.x.shape[1]
    truth = np.eye(classes)[train.y]
    penalty = _penalty(columns)[:, None]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """Penalised negative log likelihood, and its gradient, at weights (columns x classes,)."""
        w = flat.reshape(columns, classes)
        logits = x @ w
        logs = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
        slope = x.T @ (np.exp(logs) - truth) + penalty * w
        return -(logs * truth).sum() + (penalty * w**2).sum() / 2, slope.ravel()

    start, options = np.zeros(columns * classes), {"maxiter": _STEPS}
    end = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    w = end.x.reshape(columns, classes)
    logits = _left_out(x, truth, w) if test is None else test.x @ w
    labels = train.y if test is None else test.y
    return scipy.special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


def _left_out(x: np.ndarray, truth: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Logits (n, classes) of rows left out in turn, by one Newton step from the fit to all.

    Without row i the Hessian is H - x_i W_i x_i and the gradient minus that of the row; of the
    logits only the block G_i = x_i H^-1 x_i (classes, classes) is needed.
    """
    columns, classes = w.shape
    p = scipy.special.softmax(x @ w, axis=1)
    weight = p[:, :, None] * np.eye(classes) - p[:, :, None] * p[:, None, :]
    hessian = np.einsum("ni,nkl,nj->ikjl", x, weight, x, optimize=True)
    hessian = hessian.reshape(columns * classes, -1)
    inverse = np.linalg.inv(hessian + np.diag(np.repeat(_penalty(columns), classes)))
    inverse = inverse.reshape(columns, classes, columns, classes)
    block = np.einsum("ni,ikjl,nj->nkl", x, inverse, x, optimize=True)
    step = np.linalg.solve(np.eye(classes) - block @ weight, block @ (p - truth)[:, :, None])
    return x @ w + step[:, :, 0]


def _log_prob(family: Callable[..., dist.Distribution], at: np.ndarray, *of: Any) -> np.ndarray:
    """Log density of a family of torch's: SciPy's take a third of a second to import."""
    given = [torch.as_tensor(value, dtype=torch.float64) for value in (at, *of)]
    return family(*given[1:]).log_prob(given[0]).numpy()
