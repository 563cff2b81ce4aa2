"""Batches: the rows of one step after another, and the data with these rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from models.contract import Refused

from ..core.problem import Problem
from ..program.handlers import Batch


def batches(problem: Problem, size: int | None) -> Iterator[list[Tensor]]:
    """The row tensors of one batch after another, without an end.

    Args:
        problem: the model and its data.
        size: rows of a batch, a shuffled part of all in each pass; None takes all of them, of
            which nothing is cut out (an empty list).

    Raises:
        Refused: the data have no rows.
    """
    if size is None:
        while True:
            yield []
    if problem.rows is None:
        raise Refused("the data have no rows to take batches of; leave batch_size out")
    given = problem.tensors if problem.redrawn is None else problem.redrawn[0]
    rows = [given[key] for key in problem.rows[1]]
    n = len(rows[0])
    while True:
        for part in torch.randperm(n, device=rows[0].device).split(size):
            if len(part) == size:  # the last few rows wait for another pass
                yield [tensor[part] for tensor in rows]


def batch_of(problem: Problem, rows: Sequence[Tensor]) -> Batch:
    """The data with the rows of a batch in the place of all rows.

    Args:
        problem: the model and its data.
        rows: the row tensors, as `batches` yields them.
    """
    grey, draw = problem.redrawn or ({}, dict)
    if not rows:
        return Batch({**problem.tensors, **draw(grey)})
    return Batch.of(problem, {**problem.tensors, **draw(dict(zip(problem.rows[1], rows)))})
