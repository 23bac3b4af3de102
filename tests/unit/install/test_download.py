"""Files over HTTP: whole, resumed where they broke off, begun again where the server's file has changed."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import LocationError, StoppedError
from orchestrator.install import download
from orchestrator.install.digest import digest
from orchestrator.install.source import TreeServer, open_source
from orchestrator.launch.stop import Stop

CONTENT = bytes(range(256)) * 4096


class Site(http.server.ThreadingHTTPServer):
    """A server of one file, which breaks off as it is told.

    :ivar breaks: after how many bytes each of the next answers ends.
    :ivar asked: what each request wanted of the file.
    :ivar length: what it says of the file's length, if it is not the truth.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.breaks: list[int] = []
        self.asked: list[str | None] = []
        self.tag, self.content, self.status = '"1"', CONTENT, 200
        self.length: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    server: Site
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        content, begin = self.server.content, 0
        if self.headers.get("Range") and self.headers.get("If-Range") == self.server.tag:
            begin = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self._answer(content[begin:], begin)

    def _answer(self, rest: bytes, begin: int = 0) -> None:
        site = self.server
        if self.path != "/file" or site.status != 200:
            self.send_error(404 if self.path != "/file" else site.status)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", site.length or str(len(rest)))
        self.send_header("ETag", site.tag)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(site.content) - 1}/{len(site.content)}")
        self.end_headers()
        if site.breaks and rest:
            rest = rest[: site.breaks.pop(0)]
            self.close_connection = True
        self.wfile.write(rest)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    """A server that runs."""
    with Site() as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def stop() -> Iterator[Stop]:
    """A stop that nobody asks for."""
    with Stop() as one:
        yield one


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(download, "_pause", lambda _, stop: download._check(stop))


def fetched(site: Site, folder: Path, stop: Stop) -> bytes:
    """Return what a download brings."""
    target = folder / "file"
    download.download(f"{site.url}/file", target, lambda _: None, stop)
    assert [path.name for path in folder.iterdir()] == ["file"]
    return target.read_bytes()


def test_a_file_that_breaks_off_is_resumed(site: Site, tmp_path: Path, stop: Stop) -> None:
    """At the byte where it did, as often as that brings anything."""
    site.breaks = [1000, 70_000, 5]
    assert fetched(site, tmp_path, stop) == CONTENT
    assert site.asked == [None, "bytes=1000-", "bytes=71000-", "bytes=71005-"]


def test_an_earlier_attempt_is_completed(site: Site, tmp_path: Path, stop: Stop) -> None:
    """What stopped then goes on now; a file that has changed since is begun again."""
    url, target = f"{site.url}/file", tmp_path / "file"

    def end_it(progress: download.Progress) -> None:
        if progress.done > 300_000:
            stop.request("test")

    with pytest.raises(StoppedError):
        download.download(url, target, end_it, stop)
    assert not target.exists()
    with Stop() as other:
        assert fetched(site, tmp_path, other) == CONTENT
    assert site.asked[1] is not None
    target.unlink()
    (tmp_path / "file.part").write_bytes(b"half")
    (tmp_path / "file.part.json").write_text(f'{{"url": "{url}", "validator": "\\"1\\""}}')
    site.tag, site.content = '"2"', CONTENT[::-1]
    with Stop() as other:
        assert fetched(site, tmp_path, other) == CONTENT[::-1]


def test_a_server_that_brings_nothing(site: Site, tmp_path: Path, stop: Stop) -> None:
    """It is given up, with what there is of the file left for the next attempt."""
    site.breaks = [1000] + [0] * 20
    with pytest.raises(LocationError, match=r"cannot fetch the file: .*after 1000 bytes \(try again: it goes on"):
        download.download(f"{site.url}/file", tmp_path / "file", lambda _: None, stop)
    assert (tmp_path / "file.part").stat().st_size == 1000
    site.breaks = []
    assert fetched(site, tmp_path, stop) == CONTENT


def test_no_room(site: Site, tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said at once, without trying again; once there is room, the file comes."""
    with monkeypatch.context() as full:
        full.setattr(download._Partial, "begin", lambda part, _: part.path.symlink_to("/dev/full"))
        with pytest.raises(LocationError, match=r"no room for the file: .*: No space left on device \(make room, and"):
            download.download(f"{site.url}/file", tmp_path / "file", lambda _: None, stop)
    assert site.asked == [None]
    assert not (tmp_path / "file").exists()
    assert fetched(site, tmp_path, stop) == CONTENT


@pytest.mark.parametrize(
    ("path", "status", "why"), [("/none", 200, "404"), ("/file", 401, "401"), ("/file", 503, "503")]
)
def test_a_server_that_refuses(site: Site, tmp_path: Path, stop: Stop, path: str, status: int, why: str) -> None:
    """The status is in the error."""
    site.status = status
    with pytest.raises(LocationError, match=why):
        download.download(f"{site.url}{path}", tmp_path / "file", lambda _: None, stop)


@pytest.mark.parametrize("small", [True, False])
def test_nobody_listens(small: bool, tmp_path: Path, stop: Stop) -> None:
    """It is said as people say it, without the number of the system's error."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/file"
    fetch = download.read_small if small else lambda url, stop: download.download(url, tmp_path / "f", print, stop)
    with pytest.raises(LocationError, match="Connection refused") as raised:
        fetch(url, stop)
    assert "Errno" not in str(raised.value)


def test_a_length_that_is_no_number(site: Site, tmp_path: Path, stop: Stop) -> None:
    """It says nothing: the file ends with the connection."""
    site.length, site.breaks = "many", [len(CONTENT)]
    assert fetched(site, tmp_path, stop) == CONTENT


@pytest.mark.parametrize("address", ["http://[::1", "https://", "http://h:x/", "http://h:99999/", "http:/"])
def test_what_is_no_address(address: str, tmp_path: Path, stop: Stop) -> None:
    """It is refused, before anybody is asked."""
    with pytest.raises(LocationError, match="cannot use the location"):
        open_source(address, tmp_path, lambda _: None, stop, lambda _: pytest.fail("no package"))


def test_a_tree_on_a_server(site: Site, tmp_path: Path, stop: Stop) -> None:
    """What is kept is taken again by its checksum only; what has another checksum is not kept."""
    import hashlib

    source = TreeServer(site.url, site.url, tmp_path / "cache", lambda _: None, stop)
    assert source.has("file")
    assert not source.has("none")
    assert source.text("none") is None
    good = digest("sha256", hashlib.sha256(CONTENT).hexdigest())
    first = source.fetch("file", good)
    assert (first.path.read_bytes(), first.bytes) == (CONTENT, len(CONTENT))
    assert source.fetch("file", good).bytes == 0
    with pytest.raises(LocationError, match="not what its tree says"):
        source.fetch("file", digest("sha256", "0" * 64))
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["file"]


@pytest.mark.parametrize("begun", [False, True], ids=["silent", "slow"])
def test_the_end_is_not_the_servers_to_delay(begun: bool, tmp_path: Path, stop: Stop) -> None:
    """A server that says nothing, or hardly anything, keeps nobody waiting who wants to leave."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = threading.Event()

        def serve() -> None:
            line, _ = server.accept()
            with line, contextlib.suppress(OSError):
                line.recv(4096)
                if begun:
                    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not left.wait(0.05):
                    line.sendall(b"x" if begun else b"")

        thread = threading.Thread(target=serve)
        thread.start()
        threading.Timer(0.3, stop.request, ["a test"]).start()
        began = time.monotonic()
        try:
            with pytest.raises(StoppedError):
                download.download(
                    f"http://127.0.0.1:{server.getsockname()[1]}/file", tmp_path / "file", lambda _: None, stop
                )
            assert time.monotonic() - began < 10
        finally:
            left.set()
            thread.join()
