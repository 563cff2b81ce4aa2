"""Batches: each row once in a pass, and all rows on average."""

from __future__ import annotations

import pytest
import torch
from conftest import problem_from, regression
from test_svi import DATA, mixture
from test_svi import regression as linear

from inference.methods.batches import batch_of, batches
from inference.program.program import Program
from models.contract import Refused


@pytest.mark.parametrize(("size", "of_pass"), [(5, 4), (6, 3), (20, 1)])
def test_a_pass_has_each_row_once_and_the_last_few_wait(size, of_pass):
    problem = problem_from(regression, {"y": torch.arange(20.0)})
    torch.manual_seed(0)
    parts = batches(problem, size)
    passes = [torch.cat([next(parts)[0] for _ in range(of_pass)]) for _ in range(2)]
    for rows in passes:
        assert len(rows.unique()) == len(rows) == size * of_pass
    assert not torch.equal(*passes)


def test_all_rows_are_no_batch_and_data_without_rows_have_none():
    problem = problem_from(regression, {"y": torch.arange(20.0)})
    assert next(batches(problem, None)) == []

    def alone(y):
        return regression(y[None])

    with pytest.raises(Refused, match="no rows to take batches of; leave batch_size out"):
        next(batches(problem_from(alone, {"y": torch.tensor(1.0)}), 5))


@pytest.mark.parametrize("model", [linear, mixture])
def test_batches_stand_for_all_rows_on_average(model):
    problem = problem_from(model, DATA if model is linear else {"y": DATA["y"]})
    program = Program(problem)
    values = {site.name: torch.ones(site.shape) for site in program.of("latent")}
    rows = [problem.tensors[key] for key in problem.rows[1]]
    parts = [batch_of(problem, [t[i : i + 5] for t in rows]) for i in range(0, 25, 5)]
    mean = torch.stack([program.log_joint(values, part) for part in parts]).mean()
    assert mean.item() == pytest.approx(program.log_joint(values).item(), rel=1e-12)
