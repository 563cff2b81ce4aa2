"""What bad input and faults must get: the rows of the contract, and what breaks them.

A row is a key of `ROWS`. `TABLE` and `NOTES` are commands on the `FILES`: those that end with an
error, and those that run and say what is odd. `SPOILED` are commands on a saved run to which
something was done before, `LINES` are lines of a shell, and `CALLS` are made in Python. What takes
more than a command is in `test_faults.py`.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

ROWS = {
    "nonfinite": "NaN or inf in data: 65, column and first row, never imputed",
    "label": "label outside its range: 65",
    "shape": "y of shape (n, 1): 65, never broadcast",
    "types": "int, bool, float columns: the same result",
    "lengths": "lengths differ, n = 0: 65 with both; n = 0 only where it means the prior",
    "few": "n = 1, one class: a note; mle refuses",
    "separable": "separable classes under mle or a flat prior: 65, no finite maximiser",
    "heads": "coin with only heads under mle: 1.0, at the border",
    "collinear": "constant, duplicated, collinear columns: named; mle refuses",
    "scale": "wild scale: standardised, or named",
    "settings": "prior scale 0 or negative, a setting out of range or unknown: 78",
    "unknown": "unknown model, guide, method, data set, option: 2, the nearest",
    "diverges": "SVI diverges: 70 with the step, the last good state kept",
    "mode": "Laplace away from the mode, Hessian not positive definite: 65, no jitter",
    "file": "model file with a syntax error, no model, wrong arguments: 65, file and line",
    "signal": "SIGINT, SIGTERM: what is done is kept, 130/143; a second one stops at once",
    "chain": "SIGKILL of a chain: noticed at once, the others kept, 70",
    "killed": "SIGKILL of the run: resume continues to the same draws",
    "disk": "disk full 74, folder read-only 73: old files intact, nothing stale",
    "damage": "truncated, foreign, bit-flipped file: 65",
    "pickle": "malicious checkpoint: 65, nothing is run",
    "other": "other version, model, data: refused naming both",
    "writers": "two writers in one run folder: the second gets 75, readers need no lock",
    "names": "names such as ../../x: stays inside its folder",
    "absent": "data set not on disk: 2 or 66 with the source, at once, nothing else in its place",
    "grey": "grey pixels under a Bernoulli: 65",
    "memory": "memory: estimated first, refused with the number",
    "stranger": "deep, huge or doubled JSON, arrays larger than memory, links: 65 with the file",
    "cache": "compiled code in a cache that others may write to: 65",
    "read": "arrays of any byte order and precision: read as numbers",
    "planted": "a stranger's run: looking runs nothing; what needs the model refuses, 65",
    "helper": "a helper module, a constant or a guide has changed: another model, 65",
    "links": "links in a run: nothing is read, written or removed through them",
    "marks": "names that look like ours: never removed",
    "odd": "an odd record among runs: one row, 65, hides no other",
    "texts": "markup and control characters in a record: shown as text",
    "netcdf": "a result that reaches out of its file, or is larger than it looks: 65",
    "arguments": "a seed, number or path of an odd kind: refused before any work",
    "places": "no home, no output, no current folder, few open files: works, or one true line",
}

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
MEAN = """
import pyro, pyro.distributions as dist

def model(y):
    m = pyro.sample("m", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)
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
RAISES = """
import pyro, pyro.distributions as dist

def model(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x, nowhere), obs=y)
"""
HEAVY = """
import pyro, pyro.distributions as dist

def model(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x, 1.0), obs=y)
    pyro.factor("away", 2 * x**2)
"""
SADDLE = """
import pyro, pyro.distributions as dist

def model(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)
    pyro.factor("undo", (x**2).sum() / 2 - x[0] ** 2)
"""
# A file whose model is also of what lies beside it, its guide, and what a planted one does first.
USER_MODEL = """
from pathlib import Path
import helper
import pyro, pyro.distributions as dist

WIDTH = float(Path(__file__).with_name("width.txt").read_text())

def model(y):
    m = pyro.sample("m", dist.Normal(0.0, helper.SCALE))
    pyro.sample("y", dist.Normal(m, WIDTH), obs=y)
"""
HELPER = "SCALE = 2.0\n"
GUIDE = """
import torch, pyro, pyro.distributions as dist

def guide(y):
    loc = pyro.param("loc", torch.tensor(0.1))
    pyro.sample("m", dist.Normal(loc, 0.9))
"""
PLANTED = "open({marker!r}, 'w').close()\n"
# Its density ends at 20, which an ascent that begins near 0 reaches after hundreds of steps.
CLIFF = """
import pyro, pyro.distributions as dist

def model(y):
    x = pyro.sample("x", dist.Normal(0.0, 100.0))
    pyro.factor("cliff", (20.0 - x).log() * 0.0)
    pyro.sample("y", dist.Normal(x, 1.0), obs=y)
"""


def _claiming(shape: str) -> bytes:
    """An archive whose only array has that shape, by its own word, and no values."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        size = len(header).to_bytes(2, "little")
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + size + header)
    return file.getvalue()


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _png(width: int, height: int) -> bytes:
    """The beginning of an image of that many pixels, and none of them."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b"")]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


_FLIPS = np.array([1, 0, 1])
FILES = {
    "broken.json": '{"x": [1, 0',
    "two.json": '{"x": [1, 0, 2]}',
    "missing.csv": "flip\n1\n\nNA\n0\n",
    "syntax.py": "def model(:\n",
    "nomodel.py": "x = 1\n",
    "leaves.py": "import sys\nsys.exit(0)\n",
    "silent.py": SILENT,
    "raises.py": RAISES,
    "bernoulli.py": BERNOULLI,
    "normal.py": NORMAL,
    "mean.py": MEAN,
    "wide.py": WIDE,
    "own.py": OWN,
    "heavy.py": HEAVY,
    "saddle.py": SADDLE,
    "cliff.py": CLIFF,
    "exactly.csv": "a,y\n1,3\n2,5\n3,7\n4,9\n",
    "label2.json": '{"y": [0, 2, 1]}',
    "grey.json": '{"y": [0, 0.5, 1]}',
    "column.json": '{"y": [[0], [1], [1]]}',
    "empty.json": '{"y": []}',
    "one.json": '{"y": 1.0}',
    "far.json": '{"y": 100.0}',
    "uneven.json": '{"x": [1, 2, 3], "y": [1, 2]}',
    "uneven_y.json": '{"y": [1.5, 2.5]}',
    "extra.json": '{"x": [1], "y": [1], "z": [1]}',
    "short.json": '{"y": [1]}',
    "words.json": '{"x": [1, 2.5, "a"], "y": [1, 2, 3]}',
    "nan.json": '{"y": [1.0, NaN]}',
    "wild.json": '{"x": [1, 2, 3], "y": [1e8, 2e8, 3e8]}',
    "wild.csv": "a,y\n1,3e8\n2,5e8\n3,1e8\n4,9e8\n",
    "nan.csv": "a,b,y\n1,2,3\n1,,3\n4,5,6\n",
    "inf.csv": "a,y\n1,3\n2,inf\n3,1\n",
    "ragged.csv": "a,y\n1,3\n2\n",
    "quotes.csv": 'a,y\n"1,3\n2,4\n',
    "twice.csv": "a,a,y\n1,2,3\n4,5,6\n",
    "header.csv": "a,y\n",
    "text.csv": "a,y\n1,low\n2,high\n3,low\n",
    "three.csv": "a,y\n1,u\n2,v\n3,w\n4,u\n",
    "id.csv": "name,y\nann,1\nbob,2\ncid,3\n",
    "single.csv": "a,y\n1,3\n",
    "constant.csv": "a,b,y\n1,7,3\n2,7,1\n4,7,5\n",
    "repeated.csv": "a,b,y\n1,1,3\n2,2,1\n4,4,5\n",
    "collinear.csv": "a,b,y\n1,2,3\n2,4,1\n3,6,5\n4,8,2\n",
    "split.csv": "a,y\n-2,0\n-1,0\n1,1\n2,1\n",
    "one_class.csv": "a,y\n1,1\n2,1\n3,1\n",
    "deep.json": '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "digits.json": '{"x": [1, ' + "9" * 10_000 + "]}",
    "names.json": '{"x": [1], "x": [0]}',
    "nul.csv": "a,y\n1,3\n2,\0\n",
    "claims.npz": _claiming("(1000000000000,)"),
    "user.py": USER_MODEL,
    "helper.py": HELPER,
    "width.txt": "1.0",
    "guide.py": GUIDE,
    "big_endian.npz": _npz(x=_FLIPS.astype(">f8")),
    "long_double.npz": _npz(x=_FLIPS.astype(np.longdouble)),
    "half.npz": _npz(x=_FLIPS.astype(np.float16)),
    "complex.npz": _npz(x=_FLIPS.astype(complex)),
    "records.npz": _npz(x=np.ones(2, "f8,i4")),
    "cut.npz": _npz(x=_FLIPS)[:-40],
    "bomb/0.png": _png(100_000, 100_000),
    "cut/0.png": _png(8, 8),
    "none/notes.txt": "no image",
    "folder.csv/notes.txt": "no table",
    "latin.json": b'{"x": "\xff"}',
    "nul.json": '{"x": 1}\0',
    "object.json": '{"x": [{"y": 1}]}',
    "list.json": "[1, 0]",
    "blank.json": "",
    "large.json": '{"y": [1, 1e400]}',
    "latin.csv": "gr\xf6\xdfe,y\n1,3\n2,4\n".encode("latin-1"),
    "utf16.csv": "a,y\n1,3\n2,4\n".encode("utf-16"),
    "longer.csv": "a,y\n1,3\n2,4,5\n",
    "field.csv": "a,y\n" + "1" * 150_000 + ",3\n",
    "blank.csv": "",
    "escape.csv": "a\x1b[31m,y\nlow,3\nhigh,4\n",
    "packed.csv.gz": b"\x1f\x8b",
}


class Fault(NamedTuple):
    """A command that must end with an error, and that writes nothing."""

    row: str
    words: Sequence[str]
    code: int
    message: str


class Note(NamedTuple):
    """A command that must run, and say something."""

    row: str
    words: Sequence[str]
    message: str


class Spoiled(NamedTuple):
    """A command on a saved run after something was done to it.

    Attributes:
        row: key of `ROWS`.
        what: key of `spoils.SPOILS`.
        words: of the command; `{run}` is the run, `{runs}` the folder that it is in.
        code: exit code that it must have.
        message: part of its one line on stderr; of what it prints where the code is 0.
    """

    row: str
    what: str
    words: Sequence[str]
    code: int
    message: str


class Line(NamedTuple):
    """A line of a shell, in which `$zoo` is the program; it must end so."""

    row: str
    line: str
    code: int
    message: str


class Call(NamedTuple):
    """A call of a function of `zoo` with arguments that it must refuse, as of that exit code."""

    row: str
    verb: str
    given: Mapping[str, Any]
    code: int
    message: str


COIN = ["run", "coin", "--method", "exact", "--set", "draws=50"]
LINEAR = ["run", "linear", "--method", "map", "--data"]
LOGISTIC = ["run", "logistic", "--data"]
USER = ["--method", "map", "--data"]
WIDE_BY = ["run", "wide.py", "--data", "one.json", "--method"]
MANY = ["run", "coin", "--set", "draws=1000000000"]
NUTS = ["run", "coin", "--method", "nuts", "--set"]
FLAT = "no finite maximiser (improper posterior); use a proper prior"
TABLE = [
    Fault("nonfinite", ["run", "coin", "--data", "missing.csv"], 65, "row 2"),
    Fault("nonfinite", [*LINEAR, "nan.csv"], 65, "'b' is missing in row 2"),
    Fault("nonfinite", [*LINEAR, "inf.csv"], 65, "'y' is infinite in row 2"),
    Fault("nonfinite", ["run", "mean.py", *USER, "nan.json"], 65, "y is not finite in row 2"),
    Fault("label", ["run", "coin", "--data", "two.json"], 65, "row 3 is 2"),
    Fault("label", ["run", "bernoulli.py", *USER, "label2.json"], 65, "y is 2 in row 2, outside"),
    Fault("label", [*LOGISTIC, "three.csv"], 65, "3 classes"),
    Fault("grey", ["run", "bernoulli.py", *USER, "grey.json"], 65, "y is 0.5 in row 2, outside"),
    Fault("shape", ["run", "bernoulli.py", *USER, "column.json"], 65, "shape (3, 1)"),
    Fault(
        "types", ["run", "normal.py", *USER, "words.json"], 65, "x holds 'a' in row 3, not numbers"
    ),
    Fault("types", [*LINEAR, "text.csv"], 65, "'y' is text in row 1"),
    Fault("types", [*LINEAR, "id.csv"], 65, "'name' is text"),
    Fault("lengths", ["run", "normal.py", *USER, "uneven.json"], 65, "x (3,), y (2,)"),
    Fault("lengths", ["run", "bernoulli.py", *USER, "empty.json"], 65, "y is empty"),
    Fault("lengths", [*LINEAR, "header.csv"], 65, "no rows"),
    Fault("lengths", [*LINEAR, "ragged.csv"], 65, "1 fields instead of 2, ragged.csv line 3"),
    Fault("few", [*LOGISTIC, "one_class.csv", "--method", "mle"], 65, "one class only"),
    Fault("few", [*LINEAR, "exactly.csv"], 65, "sigma runs to 0"),
    Fault("separable", [*LOGISTIC, "split.csv", "--method", "mle"], 65, "no finite maximiser"),
    Fault("separable", [*LOGISTIC, "split.csv", "--set", "prior=flat"], 65, FLAT),
    Fault("separable", ["run", "logistic", "--method", "mle"], 65, "no finite maximiser"),
    Fault(
        "collinear", ["run", "linear", "--method", "mle", "--data", "collinear.csv"], 65, "rank 2"
    ),
    Fault("settings", ["run", "coin", "--set", "draws=inf"], 78, "draws=inf is out of range"),
    Fault("settings", ["run", "coin", "--set", "alpah=2"], 78, "did you mean 'alpha'"),
    Fault("settings", ["run", "coin", "--set", "alpha=-1"], 78, "alpha=-1 is out of range"),
    Fault("settings", ["run", "coin", "--set", "alpha=nan"], 78, "alpha=nan is out of range"),
    Fault("settings", ["run", "coin", "--set", "draws=2.5"], 78, "a whole number >= 4"),
    Fault("settings", ["run", "linear", "--set", "prior_scale=0"], 78, "prior_scale=0 is out"),
    Fault("settings", ["run", "linear", "--set", "prior_scale=-1"], 78, "prior_scale=-1 is out"),
    Fault("settings", ["run", "linear", "--set", "split=1"], 78, "split=1 is out of range"),
    Fault("settings", ["run", "logistic", "--set", "prior=cauchy"], 78, "normal | laplace | flat"),
    Fault("settings", ["new", "coin"], 78, "is there already"),
    Fault("settings", ["run", "coin", "--set", "alpha"], 2, "has no '='"),
    Fault("settings", ["run", "coin", "--set", "seed=3"], 2, "write --seed 3"),
    Fault("unknown", ["run", "con"], 2, "did you mean 'coin'"),
    Fault("unknown", ["run", "coin", "--method", "nutz"], 2, "did you mean 'nuts'"),
    Fault("unknown", ["run", "coin", "--guide", "nrmal"], 2, "did you mean 'normal'"),
    Fault(
        "unknown", ["run", "coin", "--method", "nuts", "--guide", "normal"], 2, "takes no guide"
    ),
    Fault("unknown", ["run", "coin", "--features", "a"], 2, "take no --features"),
    Fault("unknown", ["run", "coin", "--data", "H" * 300, "--method", "nope"], 2, "method 'nope'"),
    Fault("unknown", ["run", "linear", "--data", "diabetis"], 2, "did you mean 'diabetes'"),
    Fault("unknown", ["show", "nothing"], 2, "there is no model 'nothing'"),
    Fault("unknown", ["rnu", "coin"], 2, "'run'"),
    Fault("unknown", ["run", "coin", "--sed", "3"], 2, "--seed"),
    Fault("unknown", ["run", "coin", "--seed", "x"], 2, "x is no seed"),
    Fault("unknown", [*LINEAR, "nan.csv", "--target", "z"], 65, "there is no column 'z'"),
    Fault("unknown", [*LINEAR, "nan.csv", "--features", "a,y"], 65, "target and feature"),
    Fault("unknown", [*LINEAR, "twice.csv"], 65, "has several columns called a"),
    Fault("unknown", ["run", "normal.py", *USER, "extra.json"], 65, "takes no 'z'"),
    Fault("unknown", ["run", "normal.py", *USER, "short.json"], 65, "the model needs x"),
    Fault(
        "mode",
        ["run", "coin", "--method", "map", "--set", "alpha=0.5", "beta=0.5"],
        65,
        "unbounded",
    ),
    Fault("mode", ["run", "gaussian", "--method", "mle"], 65, "nothing is observed"),
    Fault(
        "mode", ["run", "heavy.py", "--method", "laplace", "--data", "one.json"], 65, "has no mode"
    ),
    Fault(
        "mode",
        ["run", "saddle.py", "--method", "laplace", "--data", "one.json"],
        65,
        "not negative definite",
    ),
    Fault(
        "mode",
        ["run", "logistic", "--method", "laplace", "--set", "prior=laplace"],
        65,
        "at zero",
    ),
    Fault("file", ["run", "syntax.py"], 65, "syntax error"),
    Fault("file", ["run", "nomodel.py"], 65, "no function `model`"),
    Fault("file", ["run", "leaves.py"], 65, "leaves.py, line 2"),
    Fault("file", ["run", "raises.py", "--data", "one.json"], 65, "raises.py, line 6"),
    Fault("file", ["run", "silent.py", "--data", "one.json"], 65, "observes nothing"),
    Fault("file", ["run", "own.py", *USER, "uneven_y.json"], 65, "parameters of its own (scale)"),
    Fault("damage", ["run", "coin", "--data", "broken.json"], 65, "broken JSON"),
    Fault("damage", [*LINEAR, "quotes.csv"], 65, "broken CSV"),
    Fault("stranger", ["run", "coin", "--data", "deep.json"], 65, "deep.json is no readable JSON"),
    Fault("stranger", ["run", "coin", "--data", "digits.json"], 65, "not finite in row 2"),
    Fault("stranger", ["run", "coin", "--data", "names.json"], 65, "several values called x"),
    Fault("stranger", ["run", "coin", "--data", "claims.npz"], 65, "claims.npz would take 8e+03"),
    Fault("stranger", [*LINEAR, "nul.csv"], 65, "nul.csv is no text"),
    Fault("absent", ["run", "coin", "--data", "gone"], 2, "no data set or file 'gone'"),
    Fault("absent", ["run", "linear", "--data", "mnist"], 2, "no data set 'mnist'"),
    Fault("absent", ["run", "coin", "--data", "gone.csv"], 66, "there is no file gone.csv"),
    Fault("absent", ["run", "linear", "--data", "gone.csv"], 66, "there is no file gone.csv"),
    Fault(
        "absent",
        ["run", "linear", "--data", "https://example.invalid/x.csv"],
        66,
        "nothing is downloaded here; save https://example.invalid/x.csv",
    ),
    Fault("absent", ["run", "gone.py"], 66, "there is no model file gone.py"),
    Fault("absent", ["predict", "nothing"], 66, "there is no run in nothing"),
    Fault("memory", ["run", "wide.py", "--data", "one.json"], 65, "6.4 GB, more than"),
    Fault("disk", [*COIN, "--out", "/proc/nowhere"], 73, "cannot write"),
    Fault("disk", [*COIN, "--out", "one.json"], 73, "cannot write"),
    Fault("names", ["run", "../../x"], 2, "no model '../../x'"),
    Fault("names", ["run", "../../x.py"], 66, "no model file ../../x.py"),
    Fault("names", ["run", "coin", "--guide", "../../x"], 2, "no guide '../../x'"),
    Fault("names", ["run", "coin", "--data", "../../x"], 2, "'../../x'"),
    Fault("names", ["run", "linear", "--data", "../../x.csv"], 66, "no file ../../x.csv"),
    Fault("names", ["predict", "../../x"], 66, "no run in ../../x"),
    Fault("names", ["new", "../../x"], 78, "no plain name"),
    Fault("names", ["new", "a.b"], 78, "no plain name"),
    Fault("names", ["new", "1x"], 78, "no name for a Python file"),
    Fault("names", ["show", "x" * 5000], 66, "File name too long"),
    Fault("stranger", ["run", "coin", "--data", "complex.npz"], 65, "complex.npz holds complex"),
    Fault("stranger", ["run", "coin", "--data", "records.npz"], 65, "records.npz holds records"),
    Fault("stranger", ["run", "coin", "--data", "cut.npz"], 65, "cut.npz is no readable NPZ"),
    Fault("stranger", ["run", "coin", "--data", "latin.json"], 65, "latin.json is no text in UTF"),
    Fault("stranger", ["run", "coin", "--data", "nul.json"], 65, "it holds NUL bytes"),
    Fault("stranger", ["run", "coin", "--data", "object.json"], 65, "x in object.json holds an"),
    Fault("stranger", ["run", "coin", "--data", "list.json"], 65, "list.json is no JSON object"),
    Fault("stranger", ["run", "coin", "--data", "blank.json"], 65, "blank.json, line 1"),
    Fault("stranger", ["run", "coin", "--data", "packed.csv.gz"], 65, "is none of .csv"),
    Fault("stranger", ["run", "mean.py", *USER, "large.json"], 65, "y is not finite in row 2"),
    Fault("stranger", [*LINEAR, "latin.csv"], 65, "latin.csv is no text in UTF-8"),
    Fault("stranger", [*LINEAR, "utf16.csv"], 65, "utf16.csv is no text"),
    Fault("stranger", [*LINEAR, "longer.csv"], 65, "3 fields instead of 2, longer.csv line 3"),
    Fault("stranger", [*LINEAR, "field.csv"], 65, "field.csv line 2"),
    Fault("stranger", [*LINEAR, "blank.csv"], 65, "blank.csv is empty"),
    Fault("stranger", [*LINEAR, "folder.csv"], 65, "cannot read folder.csv (Is a directory)"),
    Fault("stranger", ["run", "vae", "--data", "bomb"], 65, "bomb/0.png"),
    Fault("stranger", ["run", "vae", "--data", "cut"], 65, "cut/0.png is no readable image"),
    Fault("absent", ["run", "vae", "--data", "none"], 66, "there are no images"),
    Fault("texts", [*LINEAR, "escape.csv"], 65, r"'a\x1b[31m' is text"),
    Fault("memory", [*WIDE_BY, "map"], 65, "the Hessian of 100,000 latents takes 480 GB"),
    Fault("memory", [*WIDE_BY, "laplace", "--set", "draws=9"], 65, "100,000 latents takes 480 GB"),
    Fault("memory", [*WIDE_BY, "laplace"], 65, "4,000 draws of 100,000 numbers take 6.4 GB"),
    Fault("memory", [*WIDE_BY, "prior"], 65, "100,001 numbers take 6.4 GB"),
    Fault("memory", [*WIDE_BY, "svi"], 65, "draws of 100,000 numbers take"),
    Fault("memory", [*WIDE_BY, "svi", "--guide", "mvn"], 65, "the covariance of 100,000 latents"),
    Fault("memory", [*MANY, "--method", "exact"], 65, "1,000,000,000 draws of 1 numbers take 16"),
    Fault("memory", [*MANY, "--method", "nuts"], 65, "4,000,000,000 draws of 1 numbers take 64"),
    Fault("memory", [*MANY, "--method", "prior"], 65, "1,000,000,000 draws of 3 numbers take 48"),
    Fault("arguments", ["run", "coin", "--seed", str(2**64)], 2, f"seed={2**64} is no seed"),
    Fault("arguments", ["run", "coin", "--seed", "-1"], 2, "-1 is no seed"),
    Fault("arguments", ["run", "coin", "--seed", "1.0"], 2, "1.0 is no seed"),
    Fault("arguments", ["run", "coin", "--seed", "None"], 2, "None is no seed"),
    Fault("arguments", ["run", "coin", "--seed", "\N{SUPERSCRIPT TWO}"], 2, "is no seed; give"),
    Fault("arguments", ["run", "coin", "--seed", "9" * 5000], 2, "is no seed; give"),
    Fault("arguments", ["compare", "coin", "--seed", str(2**64)], 2, "is no seed"),
    Fault("arguments", ["check", "coin", "--sbc", "10", "--seed", str(2**64)], 2, "is no seed"),
    Fault("arguments", ["compare", "coin", "--jobs", "0"], 2, "jobs=0 is no number of fits"),
    Fault("arguments", ["compare", "coin", "--jobs", "x"], 2, "invalid int value: 'x'"),
    Fault("arguments", ["check", "coin", "--sbc", "-3"], 2, "sbc=-3: 10 fits at least"),
    Fault("arguments", ["run", "coin", "--set", "draws=0"], 78, "draws=0 is out of range"),
    Fault("arguments", [*NUTS, "chains=0"], 78, "chains=0 is out of range"),
    Fault("arguments", [*NUTS, "chains=2.5"], 78, "chains=2.5 is out of range"),
    Fault("arguments", [*COIN, "--out", ""], 2, "out='' is no path"),
    Fault("arguments", ["list", "runs", "--out", ""], 2, "out='' is no path"),
    Fault("arguments", ["clean", "--out", ""], 2, "out='' is no path"),
    Fault("arguments", ["resume", ""], 2, "folder='' is no path"),
    Fault("arguments", ["report", "runs", "--out", "report.pdf"], 2, "report.pdf is no .html"),
]
NOTES = [
    Note("few", ["run", "linear", "--method", "exact", "--data", "single.csv"], "is one row only"),
    Note("few", [*LOGISTIC, "one_class.csv", "--method", "map"], "has one class only, 1"),
    Note("lengths", ["run", "coin", "--data", "", "--method", "exact"], "so this is the prior"),
    Note("heads", ["run", "coin", "--data", "HHH", "--method", "mle"], "of the support (pi = 1)"),
    Note(
        "collinear",
        [*LINEAR, "collinear.csv"],
        "collinear, each follows from others of them: 'a', 'b'",
    ),
    Note("collinear", [*LINEAR, "constant.csv"], "'b' is constant"),
    Note("collinear", [*LINEAR, "repeated.csv"], "'b' repeats 'a'"),
    Note("scale", [*LINEAR, "wild.csv"], "features and target standardised"),
    Note(
        "scale", ["run", "normal.py", *USER, "wild.json"], "y has values up to 3e+08; rescale it"
    ),
    Note("read", ["run", "coin", "--method", "exact", "--data", "big_endian.npz"], "n = 3"),
    Note("read", ["run", "coin", "--method", "exact", "--data", "long_double.npz"], "n = 3"),
    Note("read", ["run", "coin", "--method", "exact", "--data", "half.npz"], "n = 3"),
    Note("arguments", [*COIN, "--seed", str(2**64 - 1)], f"seed {2**64 - 1}"),
]
BOTH = ["{run}", "{run}", "--out", "{runs}/out"]
PAGE = ["report", "{run}", "--out", "page.html"]
LIST = ["list", "runs", "--out", "{runs}"]
CLEAN = ["clean", "--interrupted", "--out", "{runs}"]
NOT_YOURS = "was not made by you here"
MODEL_CHANGED = "the model changed since the run ("
STRANGE = "a planted model, seals recomputed"
SPOILED = [
    Spoiled("planted", STRANGE, LIST, 0, "copy/"),
    Spoiled("planted", STRANGE, ["show", "{run}"], 0, "svi"),
    Spoiled("planted", STRANGE, PAGE, 0, "wrote page.html"),
    Spoiled("planted", STRANGE, ["compare", *BOTH], 0, "svi"),
    Spoiled("planted", STRANGE, ["predict", "{run}"], 65, NOT_YOURS),
    Spoiled("planted", STRANGE, ["evidence", "{run}"], 65, NOT_YOURS),
    Spoiled("planted", STRANGE, ["encode", "{run}"], 65, NOT_YOURS),
    Spoiled("planted", STRANGE, ["resume", "{run}"], 0, "svi"),
    Spoiled("planted", f"{STRANGE}, not done", ["resume", "{run}"], 65, NOT_YOURS),
    Spoiled("planted", f"{STRANGE}, not done", ["show", "{run}"], 0, "resume"),
    Spoiled("planted", STRANGE, ["predict", "{run}", "--model", "user.py"], 65, "model changed"),
    Spoiled("helper", "helper changed", ["predict", "{run}"], 65, f"{MODEL_CHANGED}helper.py)"),
    Spoiled("helper", "helper changed, not done", ["resume", "{run}"], 65, MODEL_CHANGED),
    Spoiled("helper", "constant changed", ["predict", "{run}"], 65, MODEL_CHANGED),
    Spoiled("helper", "constant changed, not done", ["resume", "{run}"], 65, MODEL_CHANGED),
    Spoiled("helper", "guide changed, not done", ["resume", "{run}"], 65, "the guide changed"),
    Spoiled("helper", "only a comment changed", ["predict", "{run}"], 0, "mean"),
    Spoiled("helper", "", ["predict", "{run}"], 0, "mean"),
    Spoiled("links", "figures is a link", ["show", "{run}"], 65, "is a link"),
    Spoiled("links", "idata.nc is a link", ["show", "{run}"], 65, "idata.nc is a link"),
    Spoiled("links", "run.json is a link", ["show", "{run}"], 65, "run.json is a link"),
    Spoiled("links", "figures is a link, not done", ["resume", "{run}"], 65, "figures is a link"),
    Spoiled("links", "state is a link, not done", ["resume", "{run}"], 65, "state is a link"),
    Spoiled(
        "links",
        "the journal has a second name, not done",
        ["resume", "{run}"],
        65,
        "progress.jsonl is a link",
    ),
    Spoiled("links", "the run is a link", ["clean", "{run}"], 65, "is a link"),
    Spoiled("links", "the run is a link", CLEAN, 0, "there is nothing to remove"),
    Spoiled("marks", "folders with names as ours", CLEAN, 0, "there is nothing to remove"),
    Spoiled("odd", "a record that is a list beside it", LIST, 0, "{runs}/other"),
    Spoiled("odd", "a record nested deeply beside it", LIST, 0, "is damaged"),
    Spoiled("odd", "a record of another format beside it", LIST, 0, "has format 99"),
    Spoiled(
        "odd", "a record that is a list beside it", ["show", "{runs}/other"], 65, "is damaged"
    ),
    Spoiled("odd", "notes of a record are a number", LIST, 0, "as runs have it"),
    Spoiled("odd", "notes of a record are a number", ["show", "{run}"], 65, "as runs have it"),
    Spoiled("odd", "numbers of a record are words", ["show", "{run}"], 65, "no metrics.elbo"),
    Spoiled("odd", "findings of a record are a word", PAGE, 65, "no findings as runs have it"),
    Spoiled("texts", "markup and control characters in its texts", LIST, 0, "copy/"),
    Spoiled("texts", "markup and control characters in its texts", ["show", "{run}"], 0, "\\x1b["),
    Spoiled("texts", "markup and control characters in its texts", PAGE, 0, "wrote page.html"),
    Spoiled("netcdf", "idata.nc links to another file", ["show", "{run}"], 65, "another place"),
    Spoiled(
        "netcdf", "idata.nc has values in another file", ["show", "{run}"], 65, "another file"
    ),
    Spoiled("netcdf", "idata.nc claims 8 TB", ["show", "{run}"], 65, "8e+03 GB of memory"),
]
LINES = [
    Line("places", "$zoo list models | head -0", 0, ""),
    Line("places", "$zoo list models >&-", 0, ""),
    Line("places", "$zoo list models >&- 2>&-", 0, ""),
    Line("places", "$zoo list models </dev/null", 0, "coin"),
    Line("places", "$zoo list --json >/dev/full", 74, "No space left on device"),
    Line("places", "mkdir gone; cd gone; rmdir ../gone; $zoo list models", 66, "folder is gone"),
    Line("places", "ulimit -n 16; $zoo list models", 0, "coin"),
    Line("places", "XDG_CONFIG_HOME=/proc/1/none $zoo list runs", 0, "coin"),
    Line("places", "mkfifo pipe.csv; $zoo run coin --data pipe.csv", 65, "is no regular file"),
    Line("places", "$zoo run coin --data <(echo HHT)", 2, "no data set or file"),
    Line("places", "ln -s /dev/zero z.json; $zoo run coin --data z.json", 65, "no regular file"),
]
SLOW_LINES = [
    Line("places", "env -u XDG_CACHE_HOME HOME=/proc/1/none $zoo run coin $few", 0, "saved in"),
    Line("places", "XDG_CONFIG_HOME=/proc/1/none $zoo run coin $few", 0, "saved in"),
    Line("places", "TMPDIR=/proc/1/none $zoo run coin $few", 0, "saved in"),
    Line("places", "$zoo run coin $few | head -0", 0, ""),
    Line("places", "$zoo run coin $few >&-", 0, ""),
    Line("places", "ulimit -n 32; $zoo run coin $few", 0, "saved in"),
    Line(
        "places",
        "ulimit -n 64; $zoo run coin --method nuts --set draws=100 chains=40 workers=40 "
        "compile=traced",
        74,
        "Too many open files, this process; close some",
    ),
]
CALLS = [
    *(
        Call("arguments", verb, {"seed": seed}, 2, "is no seed; give a whole number")
        for verb in ("run", "compare", "calibrate")
        for seed in (None, -1, 2**64, 1.0, "3", True, np.float64(3))
    ),
    *(Call("arguments", "run", {"out": out}, 2, "is no path") for out in (3, b"runs", "", "a\0b")),
    Call(
        "arguments", "run", {"draws": "many", "method": "exact"}, 78, "draws=many is out of range"
    ),
    Call("arguments", "run", {"draws": 2.5, "method": "exact"}, 78, "draws=2.5 is out of range"),
    Call(
        "arguments", "run", {"chains": None, "method": "nuts"}, 78, "chains=None is out of range"
    ),
    Call("arguments", "compare", {"jobs": 0}, 2, "is no number of fits at once"),
]
