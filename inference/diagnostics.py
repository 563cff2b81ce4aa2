"""Fit and InferenceData -> a plain verdict: can this result be trusted, and if not, what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import arviz as az
import numpy as np

from ._problem import PURPOSES, Finding, Fit
from .results import KHAT_MAX, in_halves, judged

if TYPE_CHECKING:
    from ._problem import Purpose

_RANK = {"note": 0, "warn": 1, "fail": 2}

# Shares of rows whose latents a guide may miss before a word is said, or a warning given.
_FEW_ROWS, _MANY_ROWS = 0.05, 0.5

# Guides beyond which there is nuts alone.
_RICH = ("mvn", "maf", "nsf")

R_HAT_MAX, ESS_MIN, BFMI_MIN, DIVERGENT_MAX = 1.01, 400, 0.3, 0.001


class Answer(NamedTuple):
    """Whether a result may be used for a purpose: `yes`, `no` or `not known`, and why not."""

    answer: Literal["yes", "no", "not known"]
    because: str = ""


@dataclass(frozen=True)
class Verdict:
    """`pass`, `warn` or `fail`, with the findings that led to it and what to do about each.

    Two questions: whether the computation came to its end (`fail` where it did not), and what its
    result may be used for (`trust`).
    """

    status: Literal["pass", "warn", "fail"]
    findings: tuple[Finding, ...] = ()

    @property
    def trust(self) -> dict[Purpose, Answer]:
        """Purpose to answer."""
        return {purpose: self._answer(purpose) for purpose in PURPOSES}

    def _answer(self, purpose: Purpose) -> Answer:
        """No where a finding spoils it or the computation failed, else what findings leave open."""
        ordered = sorted(self.findings, key=lambda f: -_RANK[f.level])
        for finding in ordered:
            if finding.level == "fail" or purpose in finding.spoils:
                return Answer("no", str(finding))
        opened = [str(f) for f in ordered if purpose in f.opens]
        return Answer("not known", opened[0]) if opened else Answer("yes")

    @property
    def reasons(self) -> list[str]:
        """The findings in words, the gravest first."""
        return [str(f) for f in sorted(self.findings, key=lambda f: -_RANK[f.level])]

    def __str__(self) -> str:
        return "\n".join([self.status, *self.reasons])

    def with_findings(self, more: Sequence[Finding]) -> Verdict:
        """The verdict that further findings lead to."""
        return _of([*self.findings, *more])


def _of(findings: Sequence[Finding]) -> Verdict:
    worst = max((_RANK[f.level] for f in findings), default=0)
    return Verdict(("pass", "warn", "fail")[worst], tuple(findings))


def verdict(fit: Fit, idata: az.InferenceData, metrics: Mapping[str, float]) -> Verdict:
    """Judge a result by the rules of its kind.

    Chains: R-hat (Vehtari et al. 2021), bulk and tail ESS, E-BFMI (Betancourt 2016), divergences.
    Approximations with a density: Pareto k-hat (Yao et al. 2018). All: finite, converged.
    """
    findings = [*fit.findings, *_finite(fit)]
    if fit.kind == "chains" and not any(f.level == "fail" for f in findings):
        findings += _mixing(idata) + _divergences(idata) + _energy(idata)
    if "khat_high" in metrics:
        findings += _khat_of_rows(metrics["khat_high"])
    elif "khat" in metrics:
        findings += _khat(metrics["khat"], len(fit.log_ratios), idata)
    return _of(findings)


def _finite(fit: Fit) -> list[Finding]:
    bad = [name for name, value in fit.draws.items() if not value.isfinite().all()]
    mend = "check the model's supports, or rescale the data"
    return [Finding("fail", f"draws of {', '.join(bad)} are not finite", mend)] if bad else []


def _mixing(idata: az.InferenceData) -> list[Finding]:
    posterior = judged(idata)
    if posterior.sizes["chain"] == 1 and posterior.sizes["draw"] >= 8:
        posterior = in_halves(posterior)
    moving = posterior[[n for n, v in posterior.data_vars.items() if v.dtype.kind == "f"]]
    with np.errstate(invalid="ignore"):  # what never moves has no R-hat
        r_hat, findings = _by_name(az.rhat(moving)), []
    if r_hat:
        worst = max(r_hat, key=r_hat.get)
        over = np.mean([value > R_HAT_MAX for value in r_hat.values()])
        many = len(r_hat) > 30
        if r_hat[worst] > (0.02 + 1 if many else R_HAT_MAX) or (many and over > 0.05):
            what = f"the chains disagree (R-hat {r_hat[worst]:.3f} in {worst}, bound {R_HAT_MAX})"
            findings.append(Finding("fail", what, "run longer (--set warmup=... draws=...)"))
    for method in ("bulk", "tail"):
        ess = _by_name(az.ess(moving, method=method))
        worst = min(ess, key=ess.get, default=None)
        if worst is not None and ess[worst] < ESS_MIN:
            found = f"{method} ESS {ess[worst]:.0f} in {worst}, need {ESS_MIN}"
            what = f"too few effective draws ({found})"
            findings.append(Finding("fail", what, "run longer (--set draws=...)"))
    return findings


def _by_name(dataset: object) -> dict[str, float]:
    """Scalar name to value, without those that do not move (NaN)."""
    values = {}
    for name, array in dataset.data_vars.items():
        for index, value in np.ndenumerate(array.values):
            if np.isfinite(value):
                labels = [str(array[d].values[i]) for d, i in zip(array.dims, index)]
                values[f"{name}[{', '.join(labels)}]" if labels else str(name)] = float(value)
    return values


def _divergences(idata: az.InferenceData) -> list[Finding]:
    diverging = idata["sample_stats"]["diverging"].values
    if not diverging.any():
        return []
    share = diverging.mean()
    what = f"{diverging.sum()} of {diverging.size} draws diverged, the posterior may be cut short"
    mend = "raise --set target_accept=0.95, or reparameterise (non-centred)"
    return [Finding("fail" if share > DIVERGENT_MAX else "warn", what, mend)]


def _energy(idata: az.InferenceData) -> list[Finding]:
    lowest = float(np.min(az.bfmi(idata)))
    if lowest >= BFMI_MIN:
        return []
    what = f"the sampler moves too slowly between energies (E-BFMI {lowest:.2f}, need {BFMI_MIN})"
    return [Finding("fail", what, "reparameterise heavy tails or funnels")]


def _khat(khat: float, draws: int, idata: az.InferenceData) -> list[Finding]:
    bound = min(KHAT_MAX, 1 - 1 / np.log10(draws))
    if khat < bound:
        return []
    what = f"the approximation misses the posterior (k-hat {khat:.2f}, bound {bound:.2f})"
    if "predictions" in idata.groups():  # weights nobody asks for: units can be swapped
        mend = "its weights tell nothing one by one, it is judged on what it predicts"
        return [Finding("note", what.replace("posterior", "posterior of the weights"), mend)]
    rich = idata.attrs.get("guide", "") in _RICH
    mend = f"do not trust the parameter intervals; try {'' if rich else '--guide mvn, or '}nuts"
    return [Finding("warn", what, mend)]


def _khat_of_rows(share: float) -> list[Finding]:
    """Of the rows that have latents of their own, many that the guide misses, or a few."""
    if share <= _FEW_ROWS:
        return []
    what = f"the guide misses the latents of {share:.0%} of the rows (k-hat above {KHAT_MAX})"
    mend = "do not trust their intervals; try a richer guide, or nuts (--init RUN)"
    return [Finding("warn" if share > _MANY_ROWS else "note", what, mend)]
