"""C compiled once and kept: other compilers, none, and damage."""

from __future__ import annotations

import shutil

import pytest

from inference.core import compiled
from inference.native.library import NoCompiler, library, loaded

TEXT = "double twice(double x) { return 2 * exp(log(x)); }"

pytestmark = pytest.mark.skipif(
    compiled.c_compiler() is None, reason="there is no C compiler here"
)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def twice(path, x):
    from ctypes import c_double

    function = loaded(path).twice
    function.argtypes, function.restype = [c_double], c_double
    return function(x)


@pytest.mark.parametrize("compiler", ["gcc", "clang", "gcc -O1"])
def test_compilers(compiler, monkeypatch):
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"there is no {compiler} here")
    monkeypatch.setenv("CC", compiler)
    assert twice(library(TEXT), 3.0) == pytest.approx(6.0, rel=1e-15)


def test_the_second_time_nothing_is_compiled(monkeypatch):
    first = library(TEXT)
    monkeypatch.setattr("subprocess.run", None)
    assert library(TEXT) == first


def test_damaged_code_is_compiled_again():
    first = library(TEXT)
    first.write_bytes(first.read_bytes()[:5000])
    again = library(TEXT)
    assert twice(again, 3.0) == pytest.approx(6.0) and list(first.parent.iterdir()) == [again]


def test_a_compiler_that_fails_is_named_with_its_reason(tmp_path, monkeypatch):
    with pytest.raises(NoCompiler, match=r"fails \(.*error"):
        library("nonsense")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "/nowhere/cc")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NoCompiler, match="there is no C compiler"):
        library(TEXT)
