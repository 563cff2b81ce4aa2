"""Files of data sets: found where they may lie, downloaded as pinned, or asked for in one line."""

import hashlib
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from models.contract import BadInput, MissingInput
from models.data import images

CONTENT = b"seven\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "mnist/labels.gz"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *words):
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, no folder of the user's own, and no proxy; gives the cached file's path."""
    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "cache" / "bayeszoo" / "data" / NAME


@pytest.fixture
def site(tmp_path):
    """A folder and the address that serves it."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/labels.gz"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def deaf():
    """An address that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/labels.gz"


def closed() -> str:
    """An address where nobody is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/labels.gz"


def write(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_a_file_on_disk_is_taken_and_nothing_is_downloaded(tmp_path, monkeypatch, cache):
    write(cache)
    assert images.contents(NAME, SHA256, [closed()]) == CONTENT
    cache.unlink()
    write(tmp_path / "own" / NAME)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "own"))
    assert images.contents(NAME, SHA256, [closed()]) == CONTENT


def test_the_users_own_folder_comes_before_the_cache(tmp_path, monkeypatch, cache):
    write(cache, b"other")
    write(tmp_path / "own" / NAME)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "own"))
    assert images.contents(NAME, SHA256, [closed()]) == CONTENT


@pytest.mark.parametrize("own", [True, False])
def test_another_content_on_disk_is_never_taken_nor_replaced(own, tmp_path, monkeypatch, cache):
    path = tmp_path / "own" / NAME if own else cache
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "own"))
    write(path, b"other")
    with pytest.raises(BadInput) as caught:
        images.contents(NAME, SHA256, ["https://here/labels.gz"])
    other, said = hashlib.sha256(b"other").hexdigest(), str(caught.value)
    assert said == (
        f"{path} has the sha256 {other}, not {SHA256}; "
        "delete it, or put https://here/labels.gz in its place"
    )
    assert caught.value.exit_code == 65
    assert path.read_bytes() == b"other"


def test_a_download_is_kept_in_a_cache_of_the_users_alone(site, cache):
    folder, url = site
    write(folder / "labels.gz")
    assert images.contents(NAME, SHA256, [closed(), url]) == CONTENT
    assert cache.read_bytes() == CONTENT
    assert cache.parent.parent.parent.stat().st_mode & 0o777 == 0o700
    (folder / "labels.gz").unlink()
    assert images.contents(NAME, SHA256, [url]) == CONTENT


def test_a_page_instead_of_the_file_is_no_data(site, cache):
    folder, url = site
    write(folder / "labels.gz", b"<html>Welcome to this hotel</html>")
    with pytest.raises(MissingInput, match=r"127\.0\.0\.1: another file came"):
        images.contents(NAME, SHA256, [url])
    assert not list(cache.parent.iterdir())


def test_without_a_network_one_line_says_what_to_put_where(cache):
    url = closed()
    with pytest.raises(MissingInput) as caught:
        images.contents(NAME, SHA256, [url])
    assert str(caught.value) == (
        f"{NAME} is not on disk, and no download came (127.0.0.1: ConnectionError); "
        f"save {url} (sha256 {SHA256}) as {cache}"
    )
    assert caught.value.exit_code == 66
    write(cache)
    assert images.contents(NAME, SHA256, [url]) == CONTENT


def test_the_path_to_put_it_is_in_the_users_own_folder_if_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "own"))
    with pytest.raises(MissingInput, match=f"as {tmp_path}/own/{NAME}$"):
        images.contents(NAME, SHA256, [closed()])


def test_a_server_that_does_not_answer_is_left(deaf, monkeypatch):
    monkeypatch.setattr(images, "_TIMEOUT", 0.1)
    with pytest.raises(MissingInput, match=r"127\.0\.0\.1: ReadTimeout"):
        images.contents(NAME, SHA256, [deaf])


def test_a_missing_page_or_a_cache_that_cannot_be_made_is_said(site, cache):
    with pytest.raises(MissingInput, match="HTTPError"):
        images.contents(NAME, SHA256, [site[1]])
    cache.parent.rmdir()
    cache.parent.parent.rmdir()
    cache.parent.parent.write_text("a file in the way")
    with pytest.raises(MissingInput, match=r"File exists|Not a directory"):
        images.contents(NAME, SHA256, [site[1]])
