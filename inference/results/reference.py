"""What runs are compared with: the posterior as well as it is known.

That is an exact result, else draws of the model's closed form, else the chains of most effective
draws whose verdict is a pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from .. import Method, about
from ..core.seeds import DRAWS, spawn
from .inference_data import InferenceData, draws_of, flattened, from_groups, summary
from .truth import replaced, truth_of

# Draws from a closed form that no run has sampled.
_EXACT_DRAWS = 4000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of a comparison, or what kept it from running.

    Attributes:
        label: its name in the table.
        posterior: what posterior it approximates; runs of one key are compared with one reference.
        record: the run's record; None where there is no run.
        idata: its result.
        reason: why there is no run.
        status: `refused`, `failed` or `interrupted`, where there is no run.
    """

    label: str
    posterior: str
    record: Mapping[str, Any] | None = None
    idata: InferenceData | None = None
    reason: str = ""
    status: str = ""

    @property
    def method(self) -> Method:
        """What its method is, by the catalogue."""
        return about(self.record["method"])

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The run's summary by scalar, exact numbers in the place of averages where it knows them.

        Real scalars only: a discrete latent has no mean to be off by.
        """
        table = replaced(summary(self.idata), self.record["exact"])
        real = self.draws
        return table.loc[[name for name in table.index if name.partition("[")[0] in real]]

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """The draws of the real sites, (S, *shape); of a network those of its predictions."""
        network = self.predictions is not None
        draws = flattened(self.predictions) if network else draws_of(self.idata)
        return {name: values for name, values in draws.items() if values.dtype.kind == "f"}

    @property
    def predictions(self) -> xr.Dataset | None:
        """What a network's draws predict, by which it is compared; None for other models."""
        return self.idata["predictions"] if "predictions" in self.idata.groups() else None

    @property
    def chains(self) -> bool:
        """Whether the draws are those of Markov chains."""
        return "diverging" in self.idata.get("sample_stats", ())

    @property
    def ess(self) -> float:
        """Effective draws, by the poorest parameter; all of them where they are independent."""
        count = len(next(iter(self.draws.values()), ()))
        if not self.chains:
            return float(count)
        lowest = np.nanmin(self.summary[["ess_bulk", "ess_tail"]].to_numpy())
        return float(min(count, lowest))

    @property
    def log_evidence(self) -> float | None:
        """The log evidence that it states, nats; None where it states none."""
        return self.record["metrics"].get("log_evidence")


def best(rows: Sequence[Row], truth: Any, seed: int) -> Row | None:
    """What the runs of one posterior are compared with; None where it is not known well enough.

    Args:
        rows: the runs.
        truth: the model's `Exact`, or None.
        seed: seed of draws from the truth.
    """
    exact = next((row for row in rows if row.method.result == "exact"), None)
    if exact is not None:
        return exact
    if truth is not None:
        return _drawn(truth, rows[0].idata, seed)
    passing = [
        row
        for row in rows
        if row.method.result == "chains" and row.record["verdict"]["status"] == "pass"
    ]
    return max(passing, key=lambda row: row.ess, default=None)


def _drawn(truth: Any, like: InferenceData, seed: int) -> Row:
    """A closed form that no run has sampled, with the labels of a run."""
    draws = truth.sample(_EXACT_DRAWS, np.random.default_rng(spawn(seed, DRAWS)))
    draws = {name: np.asarray(values, dtype=float)[None] for name, values in draws.items()}
    posterior = like["posterior"]
    sample = from_groups(
        {"posterior": draws},
        coords={d: posterior[d].values for d in posterior.dims if d not in ("chain", "draw")},
        dims={name: list(posterior[name].dims[2:]) for name in draws},
    )
    record = {"exact": truth_of(truth), "metrics": {"log_evidence": truth.log_evidence}}
    return Row(label="exact", posterior="", record=record, idata=sample)
