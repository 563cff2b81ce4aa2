"""Is the inference calibrated? Ranks of the truth over many simulated data sets, judged.

With a right posterior the rank r of the truth among L draws is uniform on 0..L. Its normal score
z = Phi^-1((r + 1/2) / (L + 1)) then takes L + 1 values with equal probability, nearly a standard
normal. The mean of z tells a posterior that is shifted, the mean of z^2 one that is too narrow
(above 1) or too wide (below 1), which ranks in bins tell from chance with many more fits only
(an sd 20 % too small, in 100 fits at the level 0.001: chi-square of bins 6 %, mean square 42 %).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import scipy

from models.contract import Fault

from ..core.html import filled
from ..core.problem import Finding
from ..results import comparison, diagnostics
from .simulated import LOG_LIKELIHOOD

# Probability that a right posterior fails, over all quantities and both statistics.
FAMILY = 0.01
# Share of the fits that may be missing: those that are need not be like those that are there.
_MISSING = 0.05
# Fits of which too few are ranked to say anything.
FEWEST = 10
_SHOWN_REASONS = 5


class Calibration(comparison.Table):
    """A row per quantity: where the truth lay among the posterior's draws, over all data sets.

    Columns: mean_z with its standard error se_z; mean_z2, and the interval `z2_low` to `z2_high`
    in which a right posterior has it (99 %); p_z and p_z2, two-sided; p_holm, the smaller of the
    two corrected for all tests; says, in words; error2, the mean squared error of the posterior
    mean in posterior variances (theory 1), of parameters.

    Attributes:
        verdict: `pass` or `fail`, with reasons.
        fits: what each fit left (`simulated.run`).
        n: fits asked for.
        levels: L + 1, the values that a rank can take.
        ranks: quantity to ranks (fits,).
    """

    _metadata: ClassVar = [*comparison.Table._metadata, "verdict", "fits", "n", "levels", "ranks"]

    def to_json_object(self) -> dict[str, Any]:
        """Verdict, rows and notes as plain values."""
        verdict = {"status": self.verdict.status, "reasons": self.verdict.reasons}
        counts = {"fits": self.n, "missing": self.n - len(next(iter(self.ranks.values()), ()))}
        return {"verdict": verdict, **counts, **super().to_json_object()}

    def _repr_html_(self) -> str:
        return filled(_HTML, verdict=self.verdict, table=super()._repr_html_())


_HTML = """<p><b>{{ verdict.status }}</b></p>
{%- for reason in verdict.reasons %}<p>{{ reason }}</p>{% endfor %}{{ table }}"""


def judge(fits: Sequence[Mapping[str, Any]], n: int) -> Calibration:
    """The verdict on a method from its fits to simulated data.

    Fails where a test of any quantity, by the procedure of Holm (1979), is significant at a
    family-wise 1 %, or more than 5 % of the fits are missing.

    Args:
        fits: as `simulated.run` gives them.
        n: how many were asked for.

    Raises:
        Fault: too few fits, or fits that do not belong together.
    """
    ranked = [fit for fit in fits if "rank" in fit]
    ranks, levels = _ranks(ranked, fits)
    table = Calibration(_tested(ranks, levels, ranked))
    table.fits, table.n, table.levels, table.ranks = list(fits), n, levels, ranks
    findings = _findings(table) + _missing(fits) + _own_verdicts(ranked)
    if len(fits) < n:
        what = f"the study was interrupted after {len(fits)} of {n} fits"
        findings.append(Finding("note", what, "go on with it"))
    failed = any(finding.level == "fail" for finding in findings)
    table.verdict = diagnostics.Verdict("fail" if failed else "pass", tuple(findings))
    return table


def _ranks(
    ranked: Sequence[Mapping[str, Any]], fits: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, np.ndarray], int]:
    """Quantity to ranks (fits,), and how many values a rank can take."""
    if len(ranked) < FEWEST:
        reasons = [fit["reason"] for fit in fits if "missing" in fit]
        why = f" ({Counter(reasons).most_common(1)[0][0]})" if reasons else ""
        raise Fault(f"{len(ranked)} fits say nothing about calibration{why}; ask for 100 or more")
    shapes = {(fit["draws"], tuple(fit["rank"])) for fit in ranked}
    if len(shapes) > 1:
        raise Fault("the fits are of different models or numbers of draws; begin anew")
    names = ranked[0]["rank"]
    ranks = {name: np.array([fit["rank"][name] for fit in ranked]) for name in names}
    return ranks, ranked[0]["draws"] + 1


# -- the statistics ---------------------------------------------------------------------------


class _Null(NamedTuple):
    """Moments of z^2 under the null: mean (the variance of z), variance, third central moment."""

    mean: float
    spread: float
    third: float


def scores(ranks: np.ndarray, levels: int) -> np.ndarray:
    """Normal scores of ranks 0..levels-1."""
    return scipy.stats.norm.ppf((ranks + 0.5) / levels)


@cache
def _null(levels: int) -> _Null:
    """Exactly, over the equally probable ranks."""
    squares = scores(np.arange(levels), levels) ** 2
    away = squares - squares.mean()
    return _Null(*(float(m.mean()) for m in (squares, away**2, away**3)))


def shift_test(z: np.ndarray, levels: int) -> np.ndarray:
    """Two-sided p-values of the sums of scores (N, quantities), normal with the exact variance."""
    return 2 * scipy.stats.norm.sf(np.abs(z.sum(0)) / np.sqrt(len(z) * _null(levels).mean))


def spread_test(z: np.ndarray, levels: int) -> np.ndarray:
    """Two-sided p-values of the sums of squared scores (N, quantities).

    By the shifted gamma distribution of the sum's exact mean, variance and skewness; where the
    scores are normal (many draws) that is the chi-square distribution of N degrees of freedom.
    """
    law = _squares(len(z), levels)
    total = (z**2).sum(0)
    return np.minimum(1, 2 * np.minimum(law.cdf(total), law.sf(total)))


def _squares(n: int, levels: int) -> Any:
    """The null distribution of a sum of n squared scores."""
    null = _null(levels)
    skewness = null.third / null.spread**1.5 / np.sqrt(n)
    return scipy.stats.pearson3(skewness, loc=n * null.mean, scale=np.sqrt(n * null.spread))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for their number (Holm 1979): each at most alpha keeps the family's."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, steps)
    return corrected


def _tested(
    ranks: Mapping[str, np.ndarray], levels: int, ranked: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """What `Calibration` has by quantity."""
    z = scores(np.stack(list(ranks.values()), axis=1), levels)  # (N, quantities)
    n, theory = len(z), _null(levels).mean
    low, high = _squares(n, levels).ppf([0.005, 0.995]) / n
    p_z, p_z2 = shift_test(z, levels), spread_test(z, levels)
    corrected = holm(np.concatenate([p_z, p_z2])).reshape(2, -1)
    # Mean squared errors of posterior means, in posterior variances; NaN of other quantities.
    error2 = (pd.DataFrame([fit["error"] for fit in ranked], dtype=float) ** 2).mean()
    table = pd.DataFrame(
        {
            "mean_z": z.mean(0),
            "se_z": np.sqrt(theory / n),
            "mean_z2": (z**2).mean(0),
            "z2_low": low,
            "z2_high": high,
            "p_z": p_z,
            "p_z2": p_z2,
            "p_holm": corrected.min(0),
            "error2": error2.reindex(list(ranks)).to_numpy(),
        },
        index=pd.Index(list(ranks), name="quantity"),
    )
    wrong = corrected < FAMILY
    rows = enumerate(ranks)
    table["says"] = [_words(name, *wrong[:, j], table.iloc[j], theory) for j, name in rows]
    return table


# -- in words ---------------------------------------------------------------------------------


def _words(name: str, shifted: bool, spread: bool, row: pd.Series, theory: float) -> str:
    """What is wrong with the posterior of a quantity.

    Args:
        name: of the quantity.
        shifted, spread: whether the mean of its scores, and their mean square, are off.
        row: its row of the table.
        theory: the mean square that a right posterior has.
    """
    problems = []
    if spread:
        how = "narrow" if row["mean_z2"] > theory else "wide"
        problem = f"posterior too {how}: mean squared score {row['mean_z2']:.2f} "
        problem += f"(theory {theory:.2f})"
        if row["error2"] > row["mean_z2"] > theory:  # scores end where the draws do
            problem += f", mean squared error {row['error2']:.2f} of its variance (theory 1)"
        problems.append(problem)
    if shifted and name == LOG_LIKELIHOOD:
        fit, count = ("worse", "little") if row["mean_z"] > 0 else ("better", "much")
        problem = f"draws fit the data {fit} than the truth does (score {row['mean_z']:+.2f})"
        problems.append(f"{problem}: the data count too {count}")
    elif shifted:
        where = "down" if row["mean_z"] > 0 else "up"
        problems.append(f"posterior shifted {where} by {abs(row['mean_z']):.2f} sd")
    return "; ".join(problems) or "as it should be"


def _findings(table: Calibration) -> list[Finding]:
    """The sentence of the verdict, and one for each quantity that is off, the worst first."""
    n, k = len(next(iter(table.ranks.values()))), len(table)
    off = table[table["p_holm"] < FAMILY].sort_values("p_holm")
    tests = f"{2 * k} tests of {k} quantities over {n} data sets"
    if not len(off):
        what = f"calibrated as far as {tests} can tell (family-wise error 1 %, Holm)"
        return [Finding("note", what), _sight(n, k)]
    what = f"not calibrated: {len(off)} of {k} quantities are off ({tests}, family-wise error 1 %)"
    findings = [Finding("fail", what, "do not trust this method on this model")]
    for name, row in off.head(_SHOWN_REASONS).iterrows():
        findings.append(Finding("fail", f"{name}: {row['says']} (p = {row['p_holm']:.1e})"))
    rest = len(off) - _SHOWN_REASONS
    return findings + ([Finding("fail", f"and {rest} more, see the table")] if rest > 0 else [])


def _sight(n: int, k: int) -> Finding:
    """How small an error would have been seen, four times out of five."""
    reach = scipy.stats.norm.isf(FAMILY / (4 * k)) + scipy.stats.norm.isf(0.2)
    shift, ratio = reach / np.sqrt(n), 1 / np.sqrt(1 + reach * np.sqrt(2 / n))
    error = f"an sd {100 * (1 - ratio):.0f} % too small, or a mean off by {shift:.2f} sd"
    what = f"{error}, would have been seen four times out of five"
    return Finding("note", what, "more fits see more" if n < 500 else "")


def _missing(fits: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Fits that were refused or failed: they are not a random part of all."""
    gone = [fit for fit in fits if "missing" in fit]
    if not gone:
        return []
    level = "fail" if len(gone) > _MISSING * len(fits) else "note"
    why = _by_frequency(f"{fit['missing']}: {fit['reason']}" for fit in gone)
    what = f"{len(gone)} of {len(fits)} fits are missing ({why})"
    return [Finding(level, what, "make them run" if level == "fail" else "")]


def _own_verdicts(ranked: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """How many fits did not pass, and why; they count all the same."""
    findings = []
    for status, words in (("fail", "failed"), ("warn", "warned in")):
        some = [fit for fit in ranked if fit["status"] == status]
        if some:
            # A fit counts once for each reason, however often it has it.
            kinds = ({_kind(w): 1 for level, w in f["findings"] if level == status} for f in some)
            what = f"{len(some)} of {len(ranked)} fits {words} their own verdict"
            reasons = _by_frequency(kind for of_fit in kinds for kind in of_fit)
            findings.append(Finding("note", f"{what} ({reasons}); they are included"))
    return findings


def _kind(finding: str) -> str:
    """A finding without its numbers, so that like ones can be counted."""
    finding = re.sub(r"\s*\([^)]*\)", "", finding)
    return re.sub(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", "..", finding)


def _by_frequency(reasons: Iterable[str]) -> str:
    """The most frequent reasons, with how often each occurs."""
    common = Counter(reasons).most_common(_SHOWN_REASONS)
    return "; ".join(f"{count} x {reason}" for reason, count in common)


# -- a band for the picture -------------------------------------------------------------------


class Band(NamedTuple):
    """Where the empirical distribution of n ranks stays, at all points at once.

    Attributes:
        at: expected share of ranks up to each point (points,).
        low, high: of the observed share.
    """

    at: np.ndarray
    low: np.ndarray
    high: np.ndarray


@cache
def band(n: int, levels: int, prob: float = 0.99, replicates: int = 20_000) -> Band:
    """The simultaneous band of Säilynoja, Bürkner and Vehtari (2022), section 2.2.

    Pointwise binomial intervals, all of the one level at which `prob` of simulated uniform
    samples lie inside everywhere.
    """
    at = _points(levels) / levels
    counts = np.arange(n + 1)[:, None]
    tails = np.minimum(
        scipy.stats.binom.cdf(counts, n, at), scipy.stats.binom.sf(counts - 1, n, at)
    )
    rng = np.random.default_rng(0)
    cells = np.diff(np.concatenate([[0.0], at, [1.0]]))
    sums = rng.multinomial(n, cells, size=replicates)[:, :-1].cumsum(1)
    smallest = tails[sums, np.arange(len(at))].min(1)
    level = np.quantile(smallest, 1 - prob)
    inside = tails >= level
    return Band(at, inside.argmax(0) / n, (n - inside[::-1].argmax(0)) / n)


def _points(levels: int) -> np.ndarray:
    """Up to 99 numbers of levels, evenly spread, at which distributions are compared."""
    many = min(100, levels)
    return np.unique(np.round(np.arange(1, many) * levels / many).astype(int))


def ecdf(ranks: np.ndarray, levels: int) -> np.ndarray:
    """Share of the ranks up to each point of the band."""
    return (ranks[:, None] < _points(levels)).mean(0)
