"""Fit and InferenceData -> a plain verdict: can this result be trusted, and if not, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import xarray as xr

from .. import about, about_guide
from ..core.problem import PURPOSES, Finding, Fit
from .inference_data import InferenceData, bfmi, cells, ess, in_halves, judged, r_hat
from .psis import KHAT_MAX, khat_bound

if TYPE_CHECKING:
    from ..core.problem import Purpose

_RANK = {"note": 0, "warn": 1, "fail": 2}
PURPOSES_IN_WORDS = {purpose: purpose for purpose in PURPOSES} | {"loo": "leave-one-out score"}

# Shares of rows whose latents a guide may miss before a note, and before a warning.
_FEW_ROWS, _MANY_ROWS = 0.05, 0.5

# Above so many quantities R-hat may be larger by chance: the bound of the largest, and the share
# of the quantities that may be above the usual one.
_MANY, R_HAT_OF_MANY, _SHARE = 30, 1.02, 0.05

# A tail of weights so heavy has no mean, so that what was not drawn may hold most of the mass.
_NO_MEAN = 1.0

# Bounds of Vehtari et al. (2021), sections 4 and 5, and of Betancourt (2016), section 3; and the
# share of draws that may diverge.
R_HAT_MAX, ESS_MIN, BFMI_MIN, DIVERGENT_MAX = 1.01, 400, 0.3, 0.001
# Draws of a single chain from which it is judged in halves.
_HALVES = 8


class Answer(NamedTuple):
    """Whether a result may be used for a purpose: `yes`, `no` or `not known`, and why not."""

    answer: Literal["yes", "no", "not known"]
    because: str = ""


@dataclass(frozen=True, repr=False)
class Verdict:
    """`pass`, `warn` or `fail`, with the findings that led to it and what to do about each.

    Two questions: whether the computation came to its end (`fail` where it did not), and what its
    result may be used for (`trust`).

    Attributes:
        status: the gravest finding's level.
        findings: what was found.
        given: what the kind of the result answers by itself: a point has no intervals. None where
            there is no result to be used.
    """

    status: Literal["pass", "warn", "fail"]
    findings: tuple[Finding, ...] = ()
    given: Mapping[Purpose, Answer] | None = None

    @property
    def trust(self) -> dict[Purpose, Answer]:
        """Purpose to answer."""
        return {purpose: self._answer(purpose) for purpose in PURPOSES}

    def _answer(self, purpose: Purpose) -> Answer:
        """No where a finding spoils it or the computation failed, else what they leave open."""
        ordered = sorted(self.findings, key=lambda f: -_RANK[f.level])
        for finding in ordered:
            if purpose in finding.spoils or (finding.level == "fail" and not finding.spoils):
                return Answer("no", str(finding))
        if self.given is not None and purpose in self.given:
            return self.given[purpose]
        opened = [str(f) for f in ordered if purpose in f.opens]
        return Answer("not known", opened[0]) if opened else Answer("yes")

    @property
    def headline(self) -> str:
        """In a sentence or two, what a person reads first."""
        failed = next((f for f in self.findings if f.level == "fail"), None)
        if failed is not None:
            usable = self._answered()["yes"]
            but = f", but for its {_listed(usable)}" if usable else ""
            return f"Do not use it{but}: {failed.what}."
        given = list((self.given or {}).values())
        if len(given) == len(PURPOSES) and len(set(given)) == 1:
            return f"{given[0].because.capitalize()}."
        words = self._answered()
        spoiling = [f for f in self.findings if "parameters" in f.spoils]
        if spoiling and all(f.of_intervals for f in spoiling):
            words["yes"].insert(0, "means")
            words["no"] = ["intervals" if w == "parameters" else w for w in words["no"]]
        unfinished = max((_RANK[f.level] for f in self.findings if f.unfinished), default=None)
        sentences = [_ENDS[unfinished]]
        for answer, opening in _OPENINGS.items():
            sentences += [f"{opening} {_listed(words[answer])}."] if words[answer] else []
        return " ".join(sentences)

    def _answered(self) -> dict[str, list[str]]:
        """Answer to the purposes that have it, in words."""
        words: dict[str, list[str]] = {answer: [] for answer in _OPENINGS}
        for purpose, answer in self.trust.items():
            words[answer.answer].append(PURPOSES_IN_WORDS[purpose])
        return words

    def to_json_object(self) -> dict[str, Any]:
        """Status, the sentence, reasons, and purpose to answer and to why it is not yes."""
        trust = self.trust
        return {
            "status": self.status,
            "headline": self.headline,
            "reasons": self.reasons,
            "trust": {purpose: answer.answer for purpose, answer in trust.items()},
            "because": {k: answer.because for k, answer in trust.items() if answer.because},
        }

    @property
    def reasons(self) -> list[str]:
        """The findings in words, the gravest first."""
        return [str(f) for f in sorted(self.findings, key=lambda f: -_RANK[f.level])]

    def __str__(self) -> str:
        first = self.status if self.given is None else f"{self.status}: {self.headline}"
        return "\n".join([first, *self.reasons])

    __repr__ = __str__

    def with_findings(self, more: Sequence[Finding]) -> Verdict:
        """The verdict that further findings lead to."""
        return _of([*self.findings, *more], self.given)


# What the gravest finding of an ascent that might go on says, by its rank.
_ENDS = {
    None: "Converged.",
    _RANK["note"]: "Still gaining a little at its end.",
    _RANK["warn"]: "Still gaining at its end.",
}
_OPENINGS = {"yes": "Trust its", "no": "Do not trust its", "not known": "Not known:"}


def _listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _of(findings: Sequence[Finding], given: Mapping[Purpose, Answer] | None) -> Verdict:
    worst = max((_RANK[f.level] for f in findings), default=0)
    return Verdict(("pass", "warn", "fail")[worst], tuple(findings), given)


def verdict(
    fit: Fit,
    idata: InferenceData,
    metrics: Mapping[str, float],
    checked: Sequence[Finding] | None = None,
    alike: Callable[[], bool] = lambda: False,
) -> Verdict:
    """Judge a result by the rules of its kind.

    Chains: R-hat (Vehtari et al. 2021), bulk and tail ESS, E-BFMI (Betancourt 2016), divergences.
    Approximations with a density: Pareto k-hat (Yao et al. 2018). All: finite, converged.

    Args:
        fit: what a method returned.
        idata: its InferenceData.
        metrics: its metrics.
        checked: what a comparison with short chains found (`vouch`); None where there was none,
            so that k-hat alone judges an approximation.
        alike: whether chains predict alike, asked where they disagree on their latents.
    """
    findings = [*fit.findings, *_finite(fit), *(checked or [])]
    if fit.kind == "chains" and not any(f.level == "fail" for f in findings):
        mixing, others = list(_mixing(idata)), [*_divergences(idata), *_energy(idata)]
        if mixing and not others and alike():
            mixing = [replace(f, spoils=("parameters", "evidence", "loo")) for f in mixing]
        findings += mixing + others
    if "khat_high" in metrics:
        findings += _khat_of_rows(metrics["khat_high"])
    elif "khat" in metrics and fit.log_ratios is not None:
        measured = checked is not None and not any("parameters" in f.opens for f in checked)
        findings += _khat(metrics["khat"], len(fit.log_ratios), idata, measured)
    return _of(findings, _given(fit, idata, metrics))


def _given(fit: Fit, idata: InferenceData, metrics: Mapping[str, float]) -> dict[Purpose, Answer]:
    """What a result of this kind cannot be used for, whatever was found."""
    if fit.kind == "prior":
        return dict.fromkeys(PURPOSES, Answer("no", "these are draws of the prior"))
    groups, answers = idata.groups(), {}
    if "elpd_loo" not in metrics:
        why = next((str(f) for f in fit.findings if "loo" in f.opens), "it was not computed")
        answers["loo"] = Answer("not known", why)
    if fit.kind == "point":
        answers["parameters"] = Answer("no", "a point estimate has no intervals")
        answers["loo"] = Answer("no", "a point estimate has no leave-one-out")
    if "predictions" in groups:
        answers["parameters"] = Answer("no", "the weights of a network are not identified")
        answers["loo"] = Answer("no", "a network has none here; score rows that are held out")
        if fit.kind != "chains":
            why = "nothing measured how far its predictions are from the posterior's: try nuts"
            answers["predictions"] = Answer("not known", why)
    if not {"posterior_predictive", "predictions"} & set(groups):
        answers["predictions"] = Answer("not known", "nothing is predicted")
    if "log_evidence" not in metrics:
        answers["evidence"] = Answer("not known", "it was not computed: use exact or laplace")
    return answers


def _finite(fit: Fit) -> Iterator[Finding]:
    """No draw may be infinite, or no number."""
    bad = [name for name, value in fit.draws.items() if not value.isfinite().all()]
    if bad:
        fix = "check the model's supports, or rescale the data"
        yield Finding("fail", f"draws of {', '.join(bad)} are not finite", fix)


def _mixing(idata: InferenceData) -> Iterator[Finding]:
    """R-hat and effective sample size of what the chains are judged by."""
    judging = judged(idata)
    if judging.sizes["chain"] == 1 and judging.sizes["draw"] >= _HALVES:
        judging = in_halves(judging)
    moving = judging[[n for n, v in judging.data_vars.items() if v.dtype.kind == "f"]]
    r_hats = _by_name(r_hat(moving))
    longer = about(idata.attrs.get("method", "")).longer
    if r_hats:
        yield from _disagreement(r_hats, longer)
    for kind in ("bulk", "tail"):
        yield from _too_few(_by_name(ess(moving, kind)), kind, longer)


def _run_longer(settings: Sequence[str]) -> str:
    """What to do about chains that are too short, by the settings that make them longer."""
    words = " ".join(f"{name}=..." for name in settings)
    return f"run longer (--set {words})" if words else "run longer"


def _disagreement(r_hats: Mapping[str, float], longer: Sequence[str]) -> Iterator[Finding]:
    """Chains disagree where the largest R-hat is too large, or too many of many are."""
    worst = max(r_hats, key=lambda name: r_hats[name])
    over = np.mean([value > R_HAT_MAX for value in r_hats.values()])
    many = len(r_hats) > _MANY
    bound, figures = R_HAT_OF_MANY if many else R_HAT_MAX, ""
    if r_hats[worst] > bound:
        figures = f"R-hat {r_hats[worst]:.3f} in {worst}, bound {bound}"
    elif many and over > _SHARE:
        figures = f"R-hat above {R_HAT_MAX} in {over:.0%} of {len(r_hats)} quantities"
        figures += f", bound {_SHARE:.0%}"
    if figures:
        yield Finding("fail", f"the chains disagree ({figures})", _run_longer(longer))


def _too_few(sizes: Mapping[str, float], kind: str, longer: Sequence[str]) -> Iterator[Finding]:
    """The smallest bulk or tail ESS is too small."""
    worst = min(sizes, key=lambda name: sizes[name], default=None)
    if worst is not None and sizes[worst] < ESS_MIN:
        figures = f"{kind} ESS {sizes[worst]:.0f} in {worst}, need {ESS_MIN}"
        fix = _run_longer(longer[-1:])
        yield Finding("fail", f"too few effective draws ({figures})", fix)


def _by_name(dataset: xr.Dataset) -> dict[str, float]:
    """Scalar name to value, without those that do not move (NaN)."""
    values = {}
    for name, array in dataset.data_vars.items():
        names = cells(str(name), [array[dim].values for dim in array.dims])
        values |= zip(names, array.values.ravel().tolist())
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _divergences(idata: InferenceData) -> Iterator[Finding]:
    """Draws whose trajectory left its energy: the sampler misses a part (Betancourt 2017)."""
    if "diverging" not in idata["sample_stats"]:
        return
    diverging = idata["sample_stats"]["diverging"].values
    if diverging.any():
        what = f"{diverging.sum()} of {diverging.size} draws diverged, "
        level = "fail" if diverging.mean() > DIVERGENT_MAX else "warn"
        fix = "raise --set target_accept=0.95, or reparameterise (non-centred)"
        yield Finding(level, f"{what}the posterior may be cut short", fix)


def _energy(idata: InferenceData) -> Iterator[Finding]:
    """The chain of lowest E-BFMI."""
    if "energy" not in idata["sample_stats"]:
        return
    lowest = float(np.min(bfmi(idata)))
    if lowest < BFMI_MIN:
        what = f"the sampler moves too slowly between energies (E-BFMI {lowest:.2f}, "
        yield Finding("fail", f"{what}need {BFMI_MIN})", "reparameterise heavy tails or funnels")


def _khat(khat: float, draws: int, idata: InferenceData, measured: bool) -> list[Finding]:
    """An approximation whose weights p / q have too heavy a tail.

    Args:
        khat: of its weights.
        draws: that k-hat was taken from.
        idata: of the approximation.
        measured: whether its parameters were compared with short chains, which tell more.
    """
    bound = khat_bound(draws)
    if khat < bound:
        return []
    figures = f"k-hat {khat:.2f}, bound {bound:.2f}"
    if "predictions" in idata.groups():  # weights nobody asks for: units can be swapped
        what = f"the approximation misses the posterior of the weights ({figures})"
        fix = "its weights tell nothing one by one, it is judged on what it predicts"
        return [Finding("note", what, fix)]
    if measured and khat >= _NO_MEAN:
        what = f"its importance weights have no mean (k-hat {khat:.2f}): it may miss much"
        return [Finding("note", what, "compare with nuts", opens=PURPOSES)]
    if measured:
        what = f"its importance weights are too uneven ({figures})"
        return [Finding("note", what, opens=("evidence", "loo"))]
    guide = idata.attrs.get("guide", "")
    richer = "--guide mvn, or " if guide and not about_guide(guide).rich else ""
    what = f"the approximation misses the posterior ({figures})"
    fix = f"do not trust the parameter intervals; try {richer}nuts"
    return [Finding("warn", what, fix, ("parameters", "evidence", "loo"), ("predictions",))]


def _khat_of_rows(share: float) -> list[Finding]:
    """Of the rows that have latents of their own, many that the guide misses, or a few."""
    if share <= _FEW_ROWS:
        return []
    what = f"the guide misses the latents of {share:.0%} of the rows (k-hat above {KHAT_MAX})"
    fix = "do not trust their intervals; try a richer guide, or nuts (--init RUN)"
    return [Finding("warn" if share > _MANY_ROWS else "note", what, fix)]
