"""Files of strangers: read, or refused in one line with the name, before they fill the memory."""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest

import zoo
from models.contract import BadInput, MissingInput
from models.data import columns, reading
from models.data.pictures import pictures

SMALL = 1e6  # bytes, in the place of gigabytes


def npy(descr: str, shape: str, values: bytes = b"") -> bytes:
    """An array's file with that header."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + values


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """The beginning of an image of that many pixels, and none of them."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b"")]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


TWICE = io.BytesIO()
with zipfile.ZipFile(TWICE, "w") as _archive, pytest.warns(UserWarning):
    for _ in range(2):
        _archive.writestr("x.npy", npy("'<f8'", "(0,)"))

REFUSED = {
    "deep.json": (b'{"x": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", "nested too deeply"),
    "object.json": (b'{"x": [{"y": 1}]}', 'x in .* holds an object'),
    "twice.json": (b'{"x": 1, "x": 2}', "several values called x"),
    "bytes.json": (b'{"x": "\xff"}', "no text in UTF-8"),
    "nul.json": (b'{"x": 1}\0', "NUL bytes"),
    "words.json": (b'{"x": ["%s", "b"%s]}' % (b"a" * 5000, b', "b"' * 199), "would take 0.00402"),
    "many.json": (b'{"x": [' + b"[]," * 9000 + b"[]]}", "would take 0.0014"),
    "nul.csv": (b"x\n1\0\n", "NUL bytes"),
    "utf16.csv": ("x\n1\n".encode("utf-16"), "is no text"),
    "line.csv": (b"x\n" + b"1" * 190_000, "field larger than field limit"),
    "cells.csv": (b"1," * 9000, "would take 0.00144"),
    "large.csv": (b"x\n" + b"1" * 1_000_001, "would take 0.001"),
    "pickle.npz": (saved(x=np.array([{}], dtype=object)), "plain arrays"),
    "complex.npz": (saved(x=np.ones(2, complex)), "x in .* holds complex numbers"),
    "record.npz": (saved(x=np.ones(2, "f8,i4")), "x in .* holds records"),
    "raw.npz": (saved(x=np.zeros(2, "V4")), "x in .* holds records"),
    "truncated.npz": (saved(x=np.arange(9.0))[:-40], "no readable NPZ"),
    "foreign.npz": (npz().replace(b"PK\5\6", b"PK\5\7"), "no readable NPZ"),
    "other.npz": (npz(x=b"some text"), "no readable NPZ"),
    "short.npz": (npz(x=npy("'<f8'", "(3,)", b"\0" * 8)), "no readable NPZ"),
    "long.npz": (npz(x=npy("'<f8'", "(1,)", b"\0" * 9)), "longer than its array"),
    "claims.npz": (npz(x=npy("'<f8'", "(1000000000000,)")), "would take 8e"),
    "empty.npz": (npz(x=npy("'<f8'", "(0, 1000000000000)")), "would take 8e"),
    "nothing.npz": (npz(x=npy("'|S0'", "(1000000000000,)")), "would take 8e"),
    "below.npz": (npz(x=npy("'<f8'", "(-1,)")), "no readable NPZ"),
    "bomb.npz": (npz(x=npy("'|u1'", "(9000000,)", bytes(9_000_000))), "would take 0.009"),
    "sum.npz": (saved(x=np.zeros(60_000), y=np.zeros(70_000)), "would take 0.00104"),
    "twice.npz": (TWICE.getvalue(), "several values called x"),
    "array.npy": (npy("'<f8'", "(1,)", b"\0" * 8), "is none of"),
    "packed.csv.gz": (b"\x1f\x8b", "is none of"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_refused_with_its_name(name, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_MOST_BYTES", SMALL)
    content, message = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    for as_written in (False, True):
        with pytest.raises(BadInput, match=message) as caught:
            columns.read_columns(tmp_path / name, as_written=as_written)
        assert caught.value.exit_code == 65
        assert name in str(caught.value) and "; " in str(caught.value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_same_sizes_are_read_where_memory_allows(tmp_path):
    for name in ("words.json", "many.json", "cells.csv", "bomb.npz", "sum.npz"):
        (tmp_path / name).write_bytes(REFUSED[name][0])
        assert len(columns.read_columns(tmp_path / name)) in (1, 2, 9001)


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">i8", ">u2", "float16", "longdouble", "|b1"])
@pytest.mark.parametrize("given", ["file", "Python"])
def test_numbers_of_any_type_and_byte_order_are_read(dtype, given, tmp_path):
    values = np.array([1, 0, 1], dtype=dtype)
    np.savez(tmp_path / "d.npz", x=values)
    source = {"x": values} if given == "Python" else str(tmp_path / "d.npz")
    found = zoo.run("coin", data=source, method="exact").data.tensors["x"]
    assert found.tolist() == [1, 0, 1]
    read = columns.read_columns(tmp_path / "d.npz")["x"]
    assert read.dtype.isnative and read.dtype.itemsize <= 8


def test_words_of_the_other_byte_order_and_a_number_without_dimensions(tmp_path):
    other = np.array(["a", "b"]).astype(">U1")
    np.savez(tmp_path / "d.npz", x=other, n=np.array(3, ">i4"), big=np.longdouble("1e4000"))
    found = columns.read_columns(tmp_path / "d.npz")
    assert found["x"].tolist() == ["a", "b"] and found["n"] == 3
    assert type(found["n"]) is int and found["big"] in (np.inf, np.longdouble("1e4000"))


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"9" * 10_000, np.inf),
        (b"-" + b"9" * 10_000, -np.inf),
        (b"1e400", np.inf),
        (b"123456789012345678901234567890", 123456789012345678901234567890.0),
        (b"-9223372036854775807", -9223372036854775807),
        (b"[1, 36893488147419103232]", [1, 36893488147419103232.0]),
    ],
)
def test_numbers_that_are_too_large_become_the_nearest(content, value, tmp_path):
    (tmp_path / "d.json").write_bytes(b'\xef\xbb\xbf{"x": ' + content + b"}")
    found = columns.read_columns(tmp_path / "d.json")["x"]
    assert np.asarray(found).dtype.kind in "if"
    assert np.asarray(found).tolist() == value
    (tmp_path / "d.csv").write_bytes(b"x\r1\r" + content.strip(b"[]").split()[-1])
    read = columns.read_columns(tmp_path / "d.csv")["x"]
    assert read[1] == np.ravel(value)[-1]


def _denied(*_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "closed", "long", "absent"])
@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz"])
def test_what_is_no_file_is_told_at_once(kind, suffix, tmp_path, monkeypatch):
    path = tmp_path / f"d{suffix}"
    fault = (MissingInput, "no file") if kind == "absent" else (BadInput, "no regular file")
    if kind == "folder":
        path.mkdir()
        fault = BadInput, "Is a directory"
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "closed":
        path.write_text("")
        monkeypatch.setattr(os, "open", _denied)
        fault = BadInput, "Permission denied"
    elif kind == "long":
        path = tmp_path / ("d" * 300 + suffix)
        fault = BadInput, "File name too long"
    with pytest.raises(fault[0], match=fault[1]) as caught:
        columns.read_columns(path)
    assert caught.value.exit_code == (66 if kind == "absent" else 65)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(100_000, 100_000), "is no readable image|would take 400 GB"),
        (png(12_000, 12_000), "would take 5.76 GB"),
        (png(8, 8), "no readable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "no readable image"),
        (b"P5 8 8 255\n" + bytes(64), "no readable image"),  # Pillow could, but no .png is that
        (b"", "no readable image"),
    ],
)
def test_images_of_strangers(content, message, tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        pictures(str(tmp_path))
    assert "0.png" in str(caught.value) and "\n" not in str(caught.value)


def test_a_pipe_among_images_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"a\.png is no regular file"):
        pictures(str(tmp_path))
