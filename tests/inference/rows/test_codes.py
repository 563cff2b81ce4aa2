"""What an encoder says of rows: means and sds of codes, guessed classes, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from test_row_latents import X, coded, encoder

import zoo
from inference.program.program import Program
from inference.rows import codes
from models.contract import Refused


def test_means_and_sds_of_codes():
    problem = replace(problem_from(coded, {"x": X}), params={"weight": torch.tensor(0.3)})
    rows = X.repeat(700, 1)  # more than are encoded at once
    found = codes.table(Program(problem), encoder, {"x": rows}, draws=400, seed=0)
    assert list(found) == ["z", "sd z"] and len(found) == 2100 and found.index.name == "row"
    np.testing.assert_allclose(found["z"], 0.3 * rows.sum(1))  # the guide's own
    np.testing.assert_allclose(found["sd z"], 0.5)
    few = codes.table(Program(problem), encoder, {"x": rows[:2]}, draws=5, seed=1)
    pd.testing.assert_frame_equal(few, found[:2])


def test_means_and_sds_of_draws_where_the_guide_knows_none():
    def shifted(x):
        weight = pyro.param("weight", torch.tensor(0.3))
        with pyro.plate("row", len(x)):
            side = pyro.sample("side", dist.Bernoulli(0.5), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(weight * x.sum(1) + 2 * side, 0.5))

    problem = replace(problem_from(coded, {"x": X}), params={"weight": torch.tensor(0.3)})
    found = codes.table(Program(problem), shifted, {"x": X}, draws=4000, seed=0)
    np.testing.assert_allclose(found["z"], 0.3 * X.sum(1) + 1, atol=5 * 1.12 / 4000**0.5)
    np.testing.assert_allclose(found["sd z"], 1.25**0.5, rtol=0.1)


def test_a_guide_of_its_own_rows_alone_has_no_encoder():
    def known(x):
        with pyro.plate("row", 3):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    problem = problem_from(coded, {"x": X})
    with pytest.raises(Refused, match="has no encoder"):
        codes.table(Program(problem), known, {"x": X}, draws=5, seed=0)


def test_classes_are_guessed_as_a_runs_accuracy_says(tmp_path, capsys):
    small = {"n": 200, "labels": 60, "hidden": "16", "latent": 2}
    run = zoo.run("ssvae", **small, steps=150, draws=5, rows=5, out=tmp_path)
    found = run.encode(draws=5)
    chances = found.filter(like="p[guess=")
    assert list(chances) == [f"p[guess={k}]" for k in range(10)]
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    assert (chances.to_numpy().argmax(1) == found["guess"]).all()
    right = found["guess"].to_numpy() == run.data.scaling.test_labels
    assert right.mean() == pytest.approx(run.metrics["accuracy"])

    file, out = tmp_path / "new.npz", tmp_path / "codes.csv"
    np.savez(file, x=np.zeros((3, 8, 8)))
    asked = ["encode", str(run.path), "--data", str(file), "--rows", "2", "--out", str(out)]
    assert zoo.main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    kept = pd.read_csv(out, index_col=0)
    assert list(told) == ["0", "1"] and list(kept.columns) == list(found.columns)
    with pytest.raises(zoo.UsageError, match="draws=1 is too few"):
        run.encode(draws=1)
    with pytest.raises(zoo.UsageError, match="run of exact, which has no encoder"):
        zoo.run("coin", method="exact", data="HH").encode()
