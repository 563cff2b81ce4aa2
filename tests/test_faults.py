"""Bad data, settings and models: each input its exit code and one line, no traceback, no answer.

The table is run inside this process by default; `-m slow` runs every row as a real command.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import zoo

BERNOULLI = """
import pyro, pyro.distributions as dist

def model(y):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)
"""
NORMAL = """
import pyro, pyro.distributions as dist

def model(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)
"""
OWN = """
import torch, pyro, pyro.distributions as dist

def model(y):
    scale = pyro.param("scale", torch.tensor(1.0))
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, scale), obs=y)
"""
WIDE = """
import pyro, pyro.distributions as dist

def model(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([100_000]).to_event(1))
    pyro.sample("y", dist.Normal(w.mean(), 1.0), obs=y)
"""
SILENT = """
import pyro, pyro.distributions as dist

def model(y):
    pyro.sample("w", dist.Normal(0.0, 1.0))
"""
FILES = {
    "broken.json": '{"x": [1, 0',
    "two.json": '{"x": [1, 0, 2]}',
    "missing.csv": "flip\n1\n\nNA\n0\n",
    "syntax.py": "def model(:\n",
    "nomodel.py": "x = 1\n",
    "silent.py": SILENT,
    "bernoulli.py": BERNOULLI,
    "normal.py": NORMAL,
    "wide.py": WIDE,
    "own.py": OWN,
    "exactly.csv": "a,y\n1,3\n2,5\n3,7\n4,9\n",
    "label2.json": '{"y": [0, 2, 1]}',
    "column.json": '{"y": [[0], [1], [1]]}',
    "empty.json": '{"y": []}',
    "one.json": '{"y": 1.0}',
    "uneven.json": '{"x": [1, 2, 3], "y": [1, 2]}',
    "uneven_y.json": '{"y": [1.5, 2.5]}',
    "extra.json": '{"x": [1], "y": [1], "z": [1]}',
    "short.json": '{"y": [1]}',
    "words.json": '{"x": ["a"], "y": [1]}',
    "nan.csv": "a,b,y\n1,2,3\n1,,3\n4,5,6\n",
    "inf.csv": "a,y\n1,3\n2,inf\n3,1\n",
    "ragged.csv": "a,y\n1,3\n2\n",
    "quotes.csv": 'a,y\n"1,3\n2,4\n',
    "twice.csv": "a,a,y\n1,2,3\n4,5,6\n",
    "header.csv": "a,y\n",
    "text.csv": "a,y\n1,low\n2,high\n3,low\n",
    "three.csv": "a,y\n1,u\n2,v\n3,w\n4,u\n",
    "id.csv": "name,y\nann,1\nbob,2\ncid,3\n",
    "collinear.csv": "a,b,y\n1,2,3\n2,4,1\n3,6,5\n4,8,2\n",
    "split.csv": "a,y\n-2,0\n-1,0\n1,1\n2,1\n",
    "one_class.csv": "a,y\n1,1\n2,1\n3,1\n",
}
LINEAR = ["run", "linear", "--method", "map", "--data"]
USER = ["--method", "map", "--data"]
TABLE = [
    (["run", "con"], 2, "did you mean 'coin'"),
    (["run", "coin", "--method", "nutz"], 2, "did you mean 'nuts'"),
    (["run", "coin", "--guide", "nrmal"], 2, "did you mean 'normal'"),
    (["run", "coin", "--method", "nuts", "--guide", "normal"], 2, "nuts takes no guide"),
    (["run", "coin", "--features", "a"], 2, "take no --features"),
    (["run", "coin", "--set", "alpha"], 2, "has no '='"),
    (["run", "coin", "--data", "gone"], 2, "no data set or file 'gone'"),
    (["run", "linear", "--data", "diabetis"], 2, "did you mean 'diabetes'"),
    (["run", "coin", "--set", "seed=3"], 2, "write --seed 3"),
    (["run", "coin", "--data", "H" * 300, "--method", "nope"], 2, "no method 'nope'"),
    (["run", "coin", "--set", "draws=inf"], 78, "draws=inf is out of range"),
    (["run", "coin", "--set", "alpah=2"], 78, "did you mean 'alpha'"),
    (["run", "coin", "--set", "alpha=-1"], 78, "alpha=-1 is out of range"),
    (["run", "coin", "--set", "alpha=nan"], 78, "alpha=nan is out of range"),
    (["run", "coin", "--set", "draws=2.5"], 78, "a whole number >= 4"),
    (["run", "linear", "--set", "prior_scale=0"], 78, "prior_scale=0 is out of range"),
    (["run", "linear", "--set", "split=1"], 78, "split=1 is out of range"),
    (["run", "logistic", "--set", "prior=cauchy"], 78, "normal | laplace | flat"),
    (["run", "coin", "--data", "gone.csv"], 66, "there is no file gone.csv"),
    (["run", "linear", "--data", "gone.csv"], 66, "there is no file gone.csv"),
    (["run", "gone.py"], 66, "there is no model file gone.py"),
    (["run", "coin", "--data", "broken.json"], 65, "broken JSON"),
    (["run", "coin", "--data", "two.json"], 65, "row 3 is 2"),
    (["run", "coin", "--data", "missing.csv"], 65, "row 2"),
    (["run", "coin", "--method", "map", "--set", "alpha=0.5", "beta=0.5"], 65, "unbounded"),
    (["run", "gaussian", "--method", "mle"], 65, "nothing is observed"),
    ([*LINEAR, "nan.csv"], 65, "'b' is missing in row 2"),
    ([*LINEAR, "inf.csv"], 65, "'y' is infinite in row 2"),
    ([*LINEAR, "ragged.csv"], 65, "1 fields instead of 2, ragged.csv line 3"),
    ([*LINEAR, "quotes.csv"], 65, "broken CSV"),
    ([*LINEAR, "twice.csv"], 65, "several columns are called a"),
    ([*LINEAR, "header.csv"], 65, "no rows"),
    ([*LINEAR, "text.csv"], 65, "'y' is text in row 1"),
    ([*LINEAR, "id.csv"], 65, "'name' is text"),
    ([*LINEAR, "nan.csv", "--target", "z"], 65, "there is no column 'z'"),
    ([*LINEAR, "nan.csv", "--features", "a,y"], 65, "target and feature"),
    (["run", "linear", "--method", "mle", "--data", "collinear.csv"], 65, "rank 2 only"),
    (["run", "logistic", "--data", "three.csv"], 65, "3 classes"),
    (["run", "logistic", "--method", "mle", "--data", "split.csv"], 65, "no finite maximiser"),
    (
        ["run", "logistic", "--set", "prior=flat", "--data", "split.csv"],
        65,
        "no finite maximiser (improper posterior); use a proper prior",
    ),
    (["run", "logistic", "--method", "mle", "--data", "one_class.csv"], 65, "one class only"),
    (["run", "logistic", "--method", "mle"], 65, "no finite maximiser"),
    (["run", "logistic", "--method", "laplace", "--set", "prior=laplace"], 65, "at zero"),
    (["run", "syntax.py"], 65, "syntax error"),
    (["run", "nomodel.py"], 65, "no function `model`"),
    (["run", "silent.py", "--data", "one.json"], 65, "observes nothing"),
    (["run", "bernoulli.py", *USER, "label2.json"], 65, "y is 2 in row 2, outside the support"),
    (["run", "bernoulli.py", *USER, "column.json"], 65, "shape (3, 1)"),
    (["run", "bernoulli.py", *USER, "empty.json"], 65, "y is empty"),
    (["run", "normal.py", *USER, "uneven.json"], 65, "x (3,), y (2,)"),
    (["run", "normal.py", *USER, "extra.json"], 65, "takes no 'z'"),
    (["run", "normal.py", *USER, "short.json"], 65, "the model needs x"),
    (["run", "normal.py", *USER, "words.json"], 65, "x holds 'a', not numbers"),
    (["run", "own.py", *USER, "uneven_y.json"], 65, "parameters of its own (scale)"),
    ([*LINEAR, "exactly.csv"], 65, "sigma runs to 0"),
    (["run", "wide.py", "--data", "one.json"], 65, "GB, more than"),
    (["run", "linear", "--method", "svi", "--set", "lr=1e9"], 70, "not finite in step"),
    (["run", "coin", "--method", "exact", "--out", "/proc/nowhere"], 73, "cannot write"),
    (["show", "nothing"], 2, "there is no model 'nothing'"),
    (["predict", "nothing"], 66, "there is no run in nothing"),
    (["new", "coin"], 78, "is there already"),
    (["new", "1x"], 78, "no name for a Python file"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(error: str, out: str, message: str) -> None:
    """One line that says what, where and what to do; nothing else that is an answer."""
    lines = error.splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ") and message in lines[-1], lines[-1]
    assert "; " in lines[-1], "an error says what to do"
    assert "Traceback" not in error
    assert out == ""


@pytest.mark.parametrize(("words", "code", "message"), TABLE, ids=lambda value: str(value)[:60])
def test_faults_get_their_code_and_one_line(words, code, message, folder, capsys):
    assert zoo.main(words) == code
    said = capsys.readouterr()
    told(said.err, said.out, message)
    assert (folder / "runs").exists() == (code == 70)  # what was begun, and failed, stays to see


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code", "message"), TABLE, ids=lambda value: str(value)[:60])
def test_faults_as_real_commands(words, code, message, folder, command):
    done = command(*words)
    assert done.returncode == code
    told(done.stderr, done.stdout, message)


def test_odd_but_usable_tables_run_and_say_what_is_odd(folder, capsys):
    assert zoo.main([*LINEAR, "collinear.csv"]) == 0
    assert "collinear, each follows from others of them: 'a', 'b'" in " ".join(
        capsys.readouterr().out.split()
    )
    (folder / "constant.csv").write_text("a,b,y\n1,7,3\n2,7,1\n4,7,5\n")
    assert zoo.main([*LINEAR, "constant.csv"]) == 0
    assert "'b' is constant" in capsys.readouterr().out
    (folder / "single.csv").write_text("a,y\n1,3\n")
    assert zoo.main(["run", "linear", "--data", "single.csv", "--set", "draws=9", "chains=1"]) == 0
    assert "there is one row only" in capsys.readouterr().out


def test_number_types_make_no_difference(folder):
    y = np.array([0, 1, 1, 0, 1])
    (folder / "b.json").write_text(json.dumps({"y": y.astype(bool).tolist()}))
    np.savez(folder / "b.npz", y=y.astype(np.float32))
    sources = [{"y": y}, {"y": y.astype(bool)}, {"y": y.astype(float)}, "b.json", "b.npz"]
    modes = [
        zoo.run("bernoulli.py", method="map", data=source).record["point"]["p"]
        for source in sources
    ]
    assert modes == pytest.approx([0.6] * 5, abs=1e-12)


def test_a_wild_scale_is_named(folder, capsys):
    (folder / "wild.json").write_text('{"x": [1, 2, 3], "y": [1e8, 2e8, 3e8]}')
    assert zoo.main(["run", "normal.py", *USER, "wild.json"]) == 0
    assert "y has values up to 3e+08; rescale it" in capsys.readouterr().out
