"""Numbers of a fit by its importance weights p / q: ELBO, k-hat, and log evidence.

With log weights r_s = log p(y, x_s) - log q(x_s) at draws x_s of q, the ELBO is the mean of r, and
the log evidence log mean exp(r), once the tail of the weights is smoothed (`psis.py`).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..core.problem import Fit
from .inference_data import InferenceData, add_group
from .psis import KHAT_MAX, psis

# Range of log weights that are equal up to rounding: they have no tail, whatever is fitted to
# their noise.
_EQUAL = 1e-6


def log_evidence(log_ratios: Tensor) -> float | None:
    """Log of the mean of importance weights p / q, nats; None where k-hat says that they fail.

    Args:
        log_ratios: log p - log q of independent draws, (draws,).
    """
    ratios = log_ratios.numpy()
    if np.ptp(ratios) <= _EQUAL:
        return float(ratios.mean())
    smoothed, khat = psis(ratios)
    if not khat < KHAT_MAX:
        return None
    return float(np.logaddexp.reduce(smoothed) - np.log(len(ratios)))


def metrics(fit: Fit, idata: InferenceData, improper: bool = False) -> dict[str, float]:
    """The fit's own metrics, and by its weights `elbo`, `elbo_se`, `khat`, `log_evidence`, nats.

    A guide's log evidence is by importance weights, where their k-hat allows. Weights of rows that
    are independent have a k-hat each: `khat` is then their median, and `khat_high` the share above
    0.7. What stands behind `khat` is kept in `idata`, to be drawn. Leave-one-out is in `loo.py`.

    Args:
        fit: what the method returned.
        idata: its InferenceData, which gains the group `rows` and the attribute `khat`.
        improper: whether a prior is, so that there is no evidence.
    """
    numbers = dict(fit.metrics)
    if fit.log_ratios is None:
        return numbers
    ratios = fit.log_ratios.numpy()
    if ratios.ndim == 2:  # (draws, rows)
        numbers |= _of_rows(ratios, idata)
        ratios = ratios.sum(1)
    numbers["elbo"] = float(ratios.mean())
    numbers["elbo_se"] = float(ratios.std(ddof=1) / np.sqrt(len(ratios)))
    if "khat" not in numbers:
        numbers["khat"] = float(psis(ratios)[1]) if np.ptp(ratios) > _EQUAL else 0.0
        estimate = None if improper else log_evidence(fit.log_ratios)
        if estimate is not None and numbers["khat"] < KHAT_MAX:
            numbers.setdefault("log_evidence", estimate)
    idata.attrs["khat"] = numbers["khat"]
    return numbers


def _of_rows(ratios: np.ndarray, idata: InferenceData) -> dict[str, float]:
    """Median k-hat of the rows and the share that is high; each is kept in the group `rows`."""
    with np.errstate(all="ignore"):
        tails = psis(ratios.T)[1]
    add_group(idata, "rows", {"khat": ("row", tails)})
    return {"khat": float(np.median(tails)), "khat_high": float((tails > KHAT_MAX).mean())}
