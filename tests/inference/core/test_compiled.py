"""Compiled code in the cache: the user's own, whole files are loaded, others are made anew."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import pytest

from inference.core import compiled
from inference.core.compiled import checked, from_cache
from models.contract import Refused

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache; gives its folder, not made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bayeszoo"


class Maker:
    """Writes `content`, and counts how often."""

    def __init__(self, content=b"code"):
        self.content, self.times = content, 0

    def __call__(self, path):
        assert list(path.parent.iterdir()) == []
        self.times += 1
        path.write_bytes(self.content)


def test_a_file_is_made_once_and_closed_to_others(cache):
    make, before = Maker(), os.umask(0o002)
    try:
        path = from_cache("key.so", make)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"code" and checked(path) == path
    assert from_cache("key.so", make) == path and make.times == 1
    assert list(cache.iterdir()) == [path]
    assert from_cache("other.so", make) != path and make.times == 2
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
        assert cache.stat().st_mode & 0o777 == 0o700


def _truncated(path, aside):
    path.write_bytes(path.read_bytes()[:2])


def _other(path, aside):
    path.write_bytes(b"evil")


def _without_a_hash(path, aside):
    path.rename(path.with_name("key-.so"))


def _symbolic_link(path, aside):
    path.rename(aside)
    path.symlink_to(aside)


def _hard_link(path, aside):
    os.link(path, aside)


def _pipe(path, aside):
    path.unlink()
    os.mkfifo(path)


def _open_to_all(path, aside):
    path.chmod(0o666)


def _open_to_the_group(path, aside):
    path.chmod(0o620)


def _given_away(path, aside):
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 65534, 65534)


@needs_posix
@pytest.mark.parametrize(
    "spoil",
    [
        _truncated,
        _other,
        _without_a_hash,
        _symbolic_link,
        _hard_link,
        _pipe,
        _open_to_all,
        _open_to_the_group,
        _given_away,
    ],
)
def test_what_is_not_ours_or_not_whole_is_made_anew(spoil, cache, tmp_path):
    make, aside = Maker(), tmp_path / "aside"
    path = from_cache("key.so", make)
    spoil(path, aside)
    with pytest.raises(Refused, match="is not what was compiled"):
        checked(path)
    again = from_cache("key.so", make)
    assert make.times == 2
    assert checked(again).read_bytes() == b"code" and not again.is_symlink()
    assert list(cache.iterdir()) == [again]
    assert not aside.exists() or aside.read_bytes() == b"code"  # a link's target is left alone


def test_what_cannot_be_removed_is_refused(cache):
    cache.mkdir(parents=True, mode=0o700)
    (cache / "key-0.so").mkdir()
    with pytest.raises(Refused, match=r"cannot be removed .*; set XDG_CACHE_HOME"):
        from_cache("key.so", Maker())


@needs_posix
@pytest.mark.parametrize("how", ["open to all", "open to the group", "given away", "a link"])
def test_a_folder_that_is_not_ours_alone_is_refused(how, cache, tmp_path):
    path = from_cache("key.so", Maker())
    if how == "given away":
        _given_away(cache, None)
    elif how == "a link":
        cache.rename(tmp_path / "aside")
        cache.symlink_to(tmp_path / "aside")
    else:
        cache.chmod(0o777 if how == "open to all" else 0o770)
    for load in (partial(from_cache, "key.so", Maker()), partial(checked, path)):
        with pytest.raises(Refused, match=r"the cache .*; set XDG_CACHE_HOME") as error:
            load()
        assert "\n" not in str(error.value)


def test_a_cache_that_cannot_be_made_is_said_in_a_line(cache):
    cache.parent.write_text("a file in the way")
    with pytest.raises(Refused, match=r"cannot be kept .*; set XDG_CACHE_HOME$"):
        from_cache("key.so", Maker())


@needs_posix
def test_a_read_only_cache_gives_what_it_has(cache, monkeypatch):
    path = from_cache("key.so", Maker())
    cache.chmod(0o500)
    try:
        assert from_cache("key.so", Maker()) == path
        if os.getuid() == 0:  # for whom nothing is read-only
            monkeypatch.setattr(compiled.tempfile, "TemporaryDirectory", _read_only)
        with pytest.raises(Refused, match=r"cannot be written .*; set XDG_CACHE_HOME$"):
            from_cache("other.so", Maker())
    finally:
        cache.chmod(0o700)


def _read_only(dir):
    raise PermissionError(13, "Permission denied", str(dir))


@pytest.mark.parametrize("contents", [(b"one", b"two"), (b"same", b"same")])
def test_two_that_make_the_same_at_once_both_have_a_whole_file(contents, cache):
    together = Barrier(2, timeout=60)

    def make(content, path):
        together.wait()  # neither has found the other's
        path.write_bytes(content)
        together.wait()

    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(from_cache, "key.so", partial(make, c)) for c in contents]
    paths = [checked(future.result()) for future in made]
    assert tuple(path.read_bytes() for path in paths) == contents
    third = Maker()
    assert from_cache("key.so", third) in paths and third.times == 0
    assert set(cache.iterdir()) == set(paths)


def test_a_failure_leaves_nothing_behind(cache):
    def fail(path):
        path.write_bytes(b"half")
        raise RuntimeError("no space left")

    with pytest.raises(RuntimeError, match="no space left"):
        from_cache("key.so", fail)
    assert list(cache.iterdir()) == []


# -- real libraries ---------------------------------------------------------------------------

_PLANTED = """
#include <stdio.h>
__attribute__((constructor)) void run(void) { fclose(fopen("%s", "w")); }
"""


def _build(source, path):
    words = ["g++", "-x", "c", "-shared", "-fPIC", "-", "-o", str(path)]
    subprocess.run(words, input=source.encode(), check=True)


@needs_compiler
def test_a_planted_library_does_not_run(tmp_path):
    ran, planted = tmp_path / "ran", tmp_path / "planted.so"
    _build(_PLANTED % ran, planted)
    path = from_cache("key.so", partial(_build, "int answer(void) { return 42; }"))
    path.write_bytes(planted.read_bytes())
    shutil.copy(planted, path.with_name("key-planted.so"))
    library = ctypes.CDLL(str(from_cache("key.so", partial(_build, "int answer = 42;"))))
    assert ctypes.c_int.in_dll(library, "answer").value == 42
    assert not ran.exists()
    ctypes.CDLL(str(planted))
    assert ran.exists()  # the library does run where it is loaded


# -- the compiler -----------------------------------------------------------------------------


def test_the_compiler_is_that_of_the_environment_or_one_there_is(monkeypatch, tmp_path):
    for name in ("my-cc", "gcc"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "my-cc -m64")
    assert compiled.c_compiler() == ["my-cc", "-m64"]
    monkeypatch.setenv("CC", "nowhere")
    assert compiled.c_compiler() == ["gcc"]
    (tmp_path / "gcc").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "ziglang")
    assert compiled.c_compiler()[1:] == ["-m", "ziglang", "cc"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert compiled.c_compiler() is None
