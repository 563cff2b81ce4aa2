"""How a run was made: it goes on as the same run, or not at all."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
from stopping import SVI, same, save_at_each_chance, stopped  # noqa: F401

import models
import zoo
from inference.storage.record import read_record, write_record


def mean(y, *, scale: float = 1.0):
    m = pyro.sample("m", dist.Normal(0.0, scale))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def other(y, *, scale: float = 1.0):
    m = pyro.sample("m", dist.Normal(0.0, 2 * scale))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


OWN_GUIDE = """import pyro, pyro.distributions as dist, torch
def model(y):
    m = pyro.sample('m', dist.Normal(0.0, 1.0))
    with pyro.plate('row', len(y)):
        pyro.sample('y', dist.Normal(m, 1.0), obs=y)
def guide(y):
    a = pyro.param('a', torch.tensor(0.0))
    pyro.sample('m', dist.Normal(a, 1.0))
"""


def test_models_and_data_of_python_are_given_again_and_must_be_the_same(tmp_path):
    data = {"y": [0.5, -1.0, 2.0]}
    asked = SVI | {"model": mean, "data": data}
    path = stopped(tmp_path, 0.5, **asked)
    with pytest.raises(models.BadInput, match=r"given in Python; give it again: model="):
        zoo.resume(path)
    with pytest.raises(models.BadInput, match=r"the model changed since the run \(sha256 \w{8}"):
        zoo.resume(path, model=other)
    with pytest.raises(models.BadInput, match=r"the data \(given in Python\) changed"):
        zoo.resume(path, model=mean, data={"y": [0.5, -1.0, 2.5]})
    same(zoo.resume(path, model=mean), zoo.run(**asked))
    loaded = zoo.load(path, model=mean)
    assert len(loaded.predict(rows=2)) == 2
    with pytest.raises(models.BadInput, match="given in Python"):
        zoo.load(path).predict(rows=2)
    assert "marginals" in zoo.load(path).plots() and zoo.load(path).exact is None


def test_other_libraries_data_and_files_are_refused_by_name(tmp_path):
    (tmp_path / "m.py").write_text(
        "import pyro, pyro.distributions as dist\nSCALE = 1.0\n"
        "def model(y):\n"
        "    m = pyro.sample('m', dist.Normal(0.0, SCALE))\n"
        "    with pyro.plate('row', len(y)):\n"
        "        pyro.sample('y', dist.Normal(m, 1.0), obs=y)\n"
    )
    (tmp_path / "y.json").write_text('{"y": [1.0, 2.0]}')
    asked = SVI | {"model": tmp_path / "m.py", "data": tmp_path / "y.json"}
    path = stopped(tmp_path / "runs", 0.5, **asked)
    (tmp_path / "y.json").write_text('{"y": [1.0, 2.5]}')
    with pytest.raises(models.BadInput, match=r"the data .* changed since the run"):
        zoo.resume(path)
    (tmp_path / "y.json").write_text('{"y": [1.0, 2.0]}')
    text = (tmp_path / "m.py").read_text()
    (tmp_path / "m.py").write_text(text.replace("SCALE = 1.0", "SCALE = 2.0"))
    with pytest.raises(models.BadInput, match=r"the model changed since the run"):
        zoo.resume(path)
    (tmp_path / "m.py").write_text(text)
    record = read_record(path)
    record["versions"]["torch"] = "1.0"
    write_record(path, record)
    with pytest.raises(models.BadInput, match=r"begun with torch 1.0, here is 2\."):
        zoo.resume(path)


def test_another_guide_of_the_same_name_is_refused(tmp_path):
    (tmp_path / "m.py").write_text(OWN_GUIDE)
    asked = {"method": "svi", "data": {"y": [0.5, 1.0]}, "steps": 1000, "draws": 50}
    path = stopped(tmp_path / "runs", 0.5, model=tmp_path / "m.py", **asked)
    (tmp_path / "m.py").write_text(OWN_GUIDE.replace("Normal(a, 1.0)", "Normal(a, 3.0)"))
    with pytest.raises(models.BadInput, match=r"the model changed since the run \(m.py\)"):
        zoo.resume(path)
    (tmp_path / "m.py").write_text(OWN_GUIDE)
    assert zoo.resume(path).record["status"] == "done"
