"""What a finished run says of rows: predictions, the evidence of each, and their codes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import inference
import models
from models.contract import BadInput, Data, Entry, Refused, Rows, UsageError

from ..core import machine
from ..core.problem import Context, Problem
from ..core.seeds import PREDICTIVE, seeded
from ..program import prepare
from ..program.program import Program
from ..results import inference_data, predictive
from ..rows import encoder
from .origin import guide_of_record
from .plan import guide_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from ..results.inference_data import InferenceData


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A finished run with its model and data.

    Attributes:
        record: what run.json holds.
        idata: its draws.
        params: what it learned.
        entry: the model.
        data: the data set that it was fitted to.
        guide: the guide, where it was given anew; None takes the record's.
    """

    record: Mapping[str, Any]
    idata: InferenceData
    params: Mapping[str, Tensor]
    entry: Entry
    data: Data
    guide: Any = None

    @property
    def dtype(self) -> str:
        """The number type that it was computed in."""
        return self.record["data"].get("dtype", "float64")

    @property
    def learned(self) -> dict[str, Any]:
        """The fields of a problem that the run learned: parameters, where it was made linear."""
        # What is made linear has no parameters but the latents, and the point is all that is kept.
        linear_at = self.params if self.record.get("linearised") else None
        return {"params": self.params, "linear_at": linear_at}

    @property
    def program(self) -> Program:
        """The program with what the run learned; of the run's number type, which is in force."""
        program = prepare.program_of(self.entry, self.record["options"], self.data)
        return program.changed(**self.learned)

    def new_rows(self, source: Any) -> dict[str, Any]:
        """Data key to new rows, coded as the run's were: of a file, a data set, or Python."""
        source = models.given(self.entry.model, source)
        if self.data.new_rows is not None:
            return dict(self.data.new_rows(source))
        return self.entry.data(source, **self.record["data"]["asked"]["options"]).tensors


# -- predictions --------------------------------------------------------------------------------


def predictions(run: Fitted, source: Any, rows: int) -> pd.DataFrame:
    """The predictive distribution of new rows, summarised; of several classes their chances.

    Args:
        run: a finished run.
        source: the new rows; None where the model needs nothing to predict.
        rows: their number, where no data say.

    Raises:
        Refused: data that the prediction needs are missing.
        UsageError: nothing was observed.
    """
    with machine.numbers(run.dtype):
        problem = _of_new_rows(run, source, rows)
        program = prepare.ready(problem, dtype=torch.get_default_dtype(), checked=False)
        _check_predicts(program)
        draws = {k: torch.as_tensor(v) for k, v in inference_data.draws_of(run.idata).items()}
        seed = run.record["seed"]
        if predictive.of_several_classes(program):
            with seeded(seed, PREDICTIVE):
                return predictive.class_table(program, predictive.of_other_rows(program, draws))
        chains = run.idata["posterior"].sizes["chain"]
        new = predictive.replicate(program, draws, chains, seed, new_rows=True)
        return predictive.table(new, run.record["data"]["units"])


def _of_new_rows(run: Fitted, source: Any, rows: int) -> Problem:
    """The problem with new rows in the place of the run's, and nothing observed."""
    seen = run.record["data"]
    plate, keys = seen["rows"] or (None, ())
    tensors = {}
    if any(key not in keys for key in seen["shapes"]):
        tensors = {k: v for k, v in run.data.tensors.items() if k not in keys}
    if source is not None:
        tensors |= run.new_rows(source)
    given = [key for key in keys if key in tensors]
    n = len(tensors[given[0]]) if given else rows
    for key, shape in seen["shapes"].items():
        if key not in tensors and key not in seen["predicted"]:
            raise Refused(f"predicting needs {key}; give it in --data")
        if key not in tensors:
            tensors[key] = torch.zeros([n, *shape[1:]] if key in keys else shape)
    of_class = run.data if inspect.isclass(run.entry.model) else None
    return Problem(
        model=prepare.instance(run.entry.model, of_class, run.record["options"]),
        tensors=tensors,
        latent_keys=tuple(key for key in run.record["latent_keys"] if key not in keys),
        rows=Rows(plate, tuple(keys)) if plate else None,
        **run.learned,
    )


def _check_predicts(program: Program) -> None:
    if not program.of("observed"):
        raise UsageError(
            "nothing was observed in this run, so there is nothing to predict; give it data"
        )
    if len(program.undrawn) == len(program.of("observed")):
        names = ", ".join(program.undrawn[:3]) + (", ..." if len(program.undrawn) > 3 else "")
        raise Refused(
            f"the distribution of {names} has no sample(), so nothing can be predicted; write one"
        )


def next_row(run: Fitted, row: Mapping[str, Tensor]) -> tuple[float, float, float]:
    """What a run predicts of one new row: see `predictive.next_row`."""
    draws = {k: torch.as_tensor(v) for k, v in inference_data.draws_of(run.idata).items()}
    with machine.numbers(run.dtype):
        return predictive.next_row(run.program, row, draws, run.record["seed"])


# -- rows as an encoder sees them ---------------------------------------------------------------


def evidence_table(
    run: Fitted,
    source: Any,
    rows: int | None,
    effort: encoder.Effort,
    *,
    seed: int,
    progress: bool,
) -> pd.DataFrame:
    """log p(x) of each row, nats: see `encoder.evidence_table`."""
    context = Context(progress=progress)
    with _encoder(run, source, rows) as (program, guide, tensors):
        return encoder.evidence_table(program, guide, tensors, effort, seed=seed, context=context)


def code_table(
    run: Fitted, source: Any, rows: int | None, *, draws: int, seed: int
) -> pd.DataFrame:
    """The latents of each row: see `encoder.code_table`."""
    with _encoder(run, source, rows) as (program, guide, tensors):
        return encoder.code_table(program, guide, tensors, draws=draws, seed=seed)


@contextmanager
def _encoder(
    run: Fitted, source: Any, rows: int | None
) -> Iterator[tuple[Program, Any, dict[str, Tensor]]]:
    """The program of a run, its guide, and rows for it; numbers are those of the run.

    Raises:
        UsageError: the run's method has no guide.
        BadInput: no rows are given, and the run held none out.
    """
    method = run.record["method"]
    if not inference.METHODS[method].takes_guide:
        raise UsageError(
            f"this is a run of {method}, which has no encoder; give one of {inference.OF_GUIDES}"
        )
    with machine.numbers(run.dtype):
        program, problem = run.program, run.program.problem
        given = problem.test if source is None else run.new_rows(source)
        if given is None:
            raise BadInput("the run held no rows out; give some (--data)")
        some = {key: given[key][:rows] for key in problem.rows[1]} if problem.rows else {}
        guide = guide_of_record(run.record) if run.guide is None else run.guide
        options = run.record["options"]
        yield program, guide_of(run.entry, guide, options, run.dtype), some
