"""`new`: names, places, and never over what is there."""

import subprocess
import sys

import pytest
from conftest import HOUSE

from models.contract import BadSetting, CannotWrite
from models.users import template


def test_two_files_that_name_the_model(tmp_path):
    source, test = template.write(str(tmp_path / "my_model.py"))
    assert source.read_text().startswith('"""My model: one line')
    assert test.name == "test_my_model.py"
    assert str(source) in test.read_text()
    with pytest.raises(BadSetting, match="there already"):
        template.write(str(source))
    for path in (source, test):
        # The test names the whole path of the model, which may be long.
        ruff = [sys.executable, "-m", "ruff", "check", "--ignore", "E501"]
        ruff += ["--stdin-filename", str(HOUSE / path.name), "-"]
        done = subprocess.run(ruff, input=path.read_bytes(), capture_output=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "name", ["1x.py", "a-b.py", "class.py", "_hidden", "../up", "coin", "a.b"]
)
def test_names_that_cannot_be(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadSetting):
        template.write(name)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match=r"cannot write .*file"):
        template.write(str(tmp_path / "file" / "x.py"))
