"""What an encoder says of rows: evidence and gaps against closed forms, codes, the commands."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from scipy import stats
from test_row_latents import X, coded, encoder, log_evidence, shared_scale

import zoo
from inference.methods.svi import svi
from inference.program.program import Program
from inference.rows import encoder as module
from models.contract import Refused


def problem(model=coded):
    return replace(problem_from(model, {"x": X}), params={"weight": torch.tensor(0.3)})


def table(**effort):
    asked = {"particles": 4000, "temperatures": 50} | effort
    return module.evidence_table(
        Program(problem()), encoder, {"x": X}, module.Effort(**asked), seed=0, context=QUIET
    )


def test_gaps_against_closed_forms():
    """Posteriors that are normal cost nothing but the encoder, the divergence from it."""
    found = table(gaps=3, annealed=2)
    truth = log_evidence(X.numpy())
    loc, scale = 1.5 * X.sum(1).numpy() / 5.5, 5.5**-0.5
    q = 0.3 * X.sum(1).numpy(), 0.5
    divergence = np.log(scale / q[1]) + (q[1] ** 2 + (q[0] - loc) ** 2) / (2 * scale**2) - 0.5
    np.testing.assert_allclose(found["elbo_normal"], truth, atol=5e-3)
    np.testing.assert_allclose(found["approximation"], 0, atol=0.05)
    error = 4 * found["error"] + 0.03
    assert (abs(found["amortisation"] - divergence) < error).all()
    assert found["annealed"].notna().tolist() == [True, True, False]
    assert (abs(found["annealed"] - truth)[:2] < 5 * found["annealed_error"][:2]).all()


def test_a_summary_has_both_errors():
    found = table()
    lines = module.summary(found)
    assert list(lines.index) == ["log_p", "elbo"]
    assert lines.loc["log_p", "mcse"] == pytest.approx(np.sqrt((found["error"] ** 2).sum()) / 3)
    assert lines.loc["log_p", "se"] == pytest.approx(stats.sem(found["log_p"]))
    assert np.isnan(lines.loc["elbo", "mcse"])
    both = found.assign(annealed=found["log_p"] - [0.5, 0.1, np.nan], annealed_error=0.3)
    both.loc[2, "annealed_error"] = np.nan
    apart = module.summary(both).loc["apart"]
    assert apart["mean"] == pytest.approx(0.3) and apart["rows"] == 2
    error = np.sqrt((found["error"][:2] ** 2 + 0.3**2).sum()) / 2
    assert apart["mcse"] == pytest.approx(error)


def test_concerns():
    sound = pd.DataFrame({"log_p": [-1.0] * 4, "error": 0.01, "elbo": -1.2, "khat": 0.2})
    assert module.concerns(sound) == []
    (said,) = module.concerns(sound.assign(khat=[0.9, 0.9, 0.1, 0.1]))
    assert "50% of the rows" in said
    (said,) = module.concerns(sound.assign(error=1.0))
    assert "too low, by 0.5 nats" in said
    (said,) = module.concerns(sound.assign(annealed=-0.5, annealed_error=0.02))
    assert "differ by -0.5" in said


def test_what_has_no_evidence_is_refused():
    effort = module.Effort(particles=10)
    with pytest.raises(Refused, match="not every latent of this model belongs to a row"):
        module.evidence_table(
            Program(problem(shared_scale)), "normal", {"x": X}, effort, seed=0, context=QUIET
        )
    fit = svi(Program(problem_from(coded, {"x": X})), seed=0, context=QUIET, steps=10, draws=2)
    fitted = replace(problem(), params=fit.params)
    with pytest.raises(Refused, match="guide has no encoder"):
        module.evidence_table(Program(fitted), "normal", {"x": X}, effort, seed=0, context=QUIET)


def test_the_command(tmp_path, capsys):
    small = {"n": 40, "latent": 2, "hidden": "8", "steps": 50, "draws": 10, "rows": 5}
    done = zoo.run("vae", **small, out=tmp_path)
    out = tmp_path / "rows.csv"
    asked = ["evidence", str(done.path), "--rows", "20", "--particles", "50", "-q"]
    assert zoo.main([*asked, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = pd.read_csv(out, index_col="row")
    assert told["summary"]["log_p"]["mean"] == pytest.approx(rows["log_p"].mean())
    assert len(rows) == 20
    assert zoo.main(asked) == 0
    assert "log p(x), importance sampling" in capsys.readouterr().out
    new = np.zeros((3, 8, 8))
    assert done.evidence({"x": new}, particles=20)["log_p"].shape == (3,)
    with pytest.raises(zoo.UsageError, match="particles=1 is too few; give 2 or more"):
        done.evidence(particles=1)
    point = zoo.run("vae", method="map", init=done, part="test", n=3, out=tmp_path)
    assert zoo.main(["evidence", str(point.path)]) == 2
    assert "has no encoder" in capsys.readouterr().err


# -- codes --------------------------------------------------------------------------------------


def test_means_and_sds_of_codes():
    rows = X.repeat(700, 1)  # more than are encoded at once
    found = module.code_table(Program(problem()), encoder, {"x": rows}, draws=400, seed=0)
    assert list(found) == ["z", "sd z"] and len(found) == 2100 and found.index.name == "row"
    np.testing.assert_allclose(found["z"], 0.3 * rows.sum(1))  # the guide's own
    np.testing.assert_allclose(found["sd z"], 0.5)
    few = module.code_table(Program(problem()), encoder, {"x": rows[:2]}, draws=5, seed=1)
    pd.testing.assert_frame_equal(few, found[:2])


def test_means_and_sds_of_draws_where_the_guide_knows_none():
    def shifted(x):
        weight = pyro.param("weight", torch.tensor(0.3))
        with pyro.plate("row", len(x)):
            side = pyro.sample("side", dist.Bernoulli(0.5), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(weight * x.sum(1) + 2 * side, 0.5))

    found = module.code_table(Program(problem()), shifted, {"x": X}, draws=4000, seed=0)
    np.testing.assert_allclose(found["z"], 0.3 * X.sum(1) + 1, atol=5 * 1.12 / 4000**0.5)
    np.testing.assert_allclose(found["sd z"], 1.25**0.5, rtol=0.1)


def test_a_guide_of_its_own_rows_alone_has_no_encoder():
    def known(x):
        with pyro.plate("row", 3):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    program = Program(problem_from(coded, {"x": X}))
    with pytest.raises(Refused, match="has no encoder"):
        module.code_table(program, known, {"x": X}, draws=5, seed=0)


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
