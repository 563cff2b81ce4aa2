"""Files and words as data: every format, every fault named with its place."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract import BadInput, MissingInput, nearest
from models.data import columns


def test_the_three_formats_give_the_same_columns(tmp_path):
    (tmp_path / "d.csv").write_text("a,b\n1,0.5\n2,1.5\n")
    (tmp_path / "d.json").write_text('{"a": [1, 2], "b": [0.5, 1.5]}')
    np.savez(tmp_path / "d.npz", a=np.array([1, 2]), b=np.array([0.5, 1.5]))
    for suffix in ("csv", "json", "npz"):
        read = columns.read_columns(tmp_path / f"d.{suffix}")
        assert {k: v.tolist() for k, v in read.items()} == {"a": [1, 2], "b": [0.5, 1.5]}
        assert read["a"].dtype.kind == "i"


def test_a_csv_without_header_and_plain_numbers_in_json(tmp_path):
    (tmp_path / "d.csv").write_text("1,2\n3,4\n")
    assert list(columns.read_columns(tmp_path / "d.csv")) == ["column_1", "column_2"]
    (tmp_path / "d.json").write_text('{"n": 3, "flag": true, "rate": 0.5}')
    found = columns.read_columns(tmp_path / "d.json")
    assert found == {"n": 3, "flag": 1, "rate": 0.5}
    assert type(found["flag"]) is int


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.json", '{"a": [1', "broken JSON.*line 1"),
        ("d.json", "[1, 2]", "no JSON object"),
        ("d.json", '{"a": [[1], [1, 2]]}', "rows of a .* differ in length"),
        ("d.json", '{"a": "text"}', 'a in .* is "text"'),
        ("d.csv", "", "is empty"),
        ("d.csv", "a,b\n1,2\n3\n4,5,6\n", "1 fields instead of 2.*line 3"),
        ("d.npz", "no zip", "no readable NPZ"),
        ("d.xlsx", "1", "is none of"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        columns.read_columns(tmp_path / name)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, np.save])
def test_a_damaged_archive_is_told_wherever_it_is_damaged(write, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "d.npz"
    with path.open("wb") as file:
        write(file, np.arange(9.0))
    whole = path.read_bytes()
    for _ in range(150):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content if rng.random() < 0.7 else content[: rng.integers(len(content))])
        try:
            columns.read_columns(path)  # a flipped date of the archive does no harm
        except BadInput as fault:
            assert "no readable NPZ" in str(fault) and "\n" not in str(fault)


def test_a_pickle_in_an_npz_is_not_run(tmp_path):
    np.savez(tmp_path / "d.npz", a=np.array([{"planted": 1}], dtype=object))
    with pytest.raises(BadInput, match="plain arrays"):
        columns.read_columns(tmp_path / "d.npz")


def test_missing_files_and_columns(tmp_path):
    with pytest.raises(MissingInput, match="no file"):
        columns.read_columns(tmp_path / "gone.csv")
    with pytest.raises(MissingInput, match=r"nothing is downloaded.* https://a.org/x.csv"):
        columns.read_columns("https://a.org/x.csv")
    (tmp_path / "d.csv").write_text("flip,day\n1,0\n")
    path = str(tmp_path / "d.csv")
    with pytest.raises(BadInput, match=r"2 columns.*--target"):
        columns.column(path, hint="")
    with pytest.raises(BadInput, match="did you mean 'flip'"):
        columns.column(path, "flop", hint="")
    assert columns.column(path, "flip", hint="").tolist() == [1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_with_their_row(bad):
    with pytest.raises(BadInput, match=r"speed is not finite in row 2 \(.*never imputes"):
        columns.check_finite("speed", np.array([1.0, bad, bad]))
    assert columns.check_finite("speed", np.array([1, 2])).tolist() == [1, 2]


def test_assignments():
    assert columns.assignments("y=1.5", keys=("x", "y"))["y"].item() == 1.5
    with pytest.raises(BadInput, match="did you mean 'y'"):
        columns.assignments("yy=1", keys=("x", "y"))
    with pytest.raises(BadInput, match="must be one number"):
        columns.assignments("y=much", keys=("x", "y"))


def test_of_many_names_the_first_are_listed():
    names = [f"gene_{i}" for i in range(10_000)]
    assert nearest("x", names).endswith(", gene_39, ... (10000 in all)")
    assert nearest("gene9", names).startswith("did you mean 'gene_9")
    assert nearest("x", []) == "known: none"
