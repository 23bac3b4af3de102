"""Fetches a file over HTTP: resumed where it broke off, kept for the next time, with progress."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator import __version__, files
from orchestrator.errors import LocationError, StoppedError
from orchestrator.launch.stop import Stop

_BLOCK = 1 << 18
_ANSWER_S = 30.0
_TICK_S = 0.1
# How often in a row a connection may break without bringing anything.
_BREAKS = 4
_PARTIAL, _UNSATISFIABLE = 206, 416
_SMALL_BYTES = 8 << 20
_BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a download is; `total` in bytes, None when the server does not say."""

    name: str
    done: int
    total: int | None


Tell = Callable[[Progress], None]


def read_small(url: str, stop: Stop) -> bytes | None:
    """Return a small file; None when the server has none of that name.

    :raise LocationError: it cannot be had.
    """
    content = _asked(url, "GET", stop)
    if content is not None and len(content) > _SMALL_BYTES:
        raise LocationError("cannot use the file", url, f"it has more than {_SMALL_BYTES} bytes")
    return content


def exists(url: str, stop: Stop) -> bool:
    """Tell whether a server has a file.

    :raise LocationError: it does not answer.
    """
    return _asked(url, "HEAD", stop) is not None


def _asked(url: str, method: str, stop: Stop) -> bytes | None:
    """Return the beginning of a file; None when the server has none of that name."""
    last: Exception | None = None
    for number in range(_BREAKS):
        _pause(number, stop)
        try:
            with _open(url, {}, stop, method) as response, _cut_off_by(stop, response):
                content: bytes = response.read(_SMALL_BYTES + 1)
                _check(stop)
                return content
        except urllib.error.HTTPError as error:
            if error.code in {403, 404, 410}:
                return None
            if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                raise _refused(url, error) from error
            last = error
        except _BROKEN as error:
            _check(stop)
            last = error
    raise LocationError("cannot fetch", url, _why(last)) from last


def download(url: str, target: Path, tell: Tell, stop: Stop) -> None:
    """Fetch a file; what an earlier attempt left of it is completed, if the server still has the same.

    :param target: whose folder is there; it appears once it is whole.
    :raise LocationError: it cannot be had; what there is of it stays for the next attempt.
    :raise StoppedError: the end was asked for.
    """
    part = _Partial(url, target)
    breaks = 0
    while True:
        before = part.size
        try:
            if _fetch(part, tell, stop):
                part.finish()
                return
            why: object = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code == _UNSATISFIABLE and before:
                part.forget()
                continue
            if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                raise _refused(url, error) from error
            why = f"HTTP status {error.code} {error.reason}"
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                hint = "make room, and try again: it goes on where it broke off"
                raise LocationError("no room for the file", target, error.strerror, hint) from error
            _check(stop)
            why = _why(error)
        breaks = 0 if part.size > before else breaks + 1
        if breaks >= _BREAKS:
            hint = "try again: it goes on where it broke off"
            raise LocationError("cannot fetch the file", url, f"{why}, after {part.size} bytes", hint)
        _pause(breaks, stop)


class _Partial:
    """A file on its way, and what tells whether the server still has the same one."""

    def __init__(self, url: str, target: Path) -> None:
        self.url, self._target = url, target
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        """How much of it there is."""
        return self.path.stat().st_size if self.path.exists() else 0

    def headers(self) -> dict[str, str]:
        """Return what asks for the rest of it."""
        validator = self._validator()
        if not self.size or validator is None:
            self.forget()
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": validator}

    def _validator(self) -> str | None:
        try:
            note = json.loads(self._note.read_bytes())
            return str(note["validator"]) if note["url"] == self.url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, headers: http.client.HTTPMessage) -> None:
        """Start over, with what the server says of the file."""
        self.forget()
        tag = headers.get("ETag")
        validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
        if validator:
            files.write_whole(self._note, json.dumps({"url": self.url, "validator": validator}).encode())

    def forget(self) -> None:
        """Remove what there is of it."""
        self._note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give it its name."""
        self._note.unlink(missing_ok=True)
        self.path.replace(self._target)


def _fetch(part: _Partial, tell: Tell, stop: Stop) -> bool:
    """Fetch the rest of a file; tell whether it is whole."""
    with _open(part.url, part.headers(), stop) as response, _cut_off_by(stop, response):
        resumed = response.status == _PARTIAL
        if resumed and not str(response.headers.get("Content-Range", "")).startswith(f"bytes {part.size}-"):
            part.forget()
            return False
        if not resumed:
            part.begin(response.headers)
        length = response.length  # None for what is no number as well
        total = None if length is None else part.size + length
        done = part.size
        with part.path.open("ab") as out:
            while (total is None or done < total) and (block := response.read1(_BLOCK)):
                out.write(block)
                done += len(block)
                tell(Progress(name=part.url.rpartition("/")[2], done=done, total=total))
                _check(stop)
        _check(stop)
        return total is None or done >= total


def _open(url: str, headers: dict[str, str], stop: Stop, method: str = "GET") -> Any:  # noqa: ANN401 - what urlopen returns depends on the scheme
    """Return an answer, once it begins.

    :raise StoppedError: the end was asked for; who waits then for a server that says nothing is a thread of its own.
    """
    answer: Future[Any] = Future()
    asking = (answer, url, headers, method)
    threading.Thread(target=_ask, args=asking, name=f"answer of {url}", daemon=True).start()
    del asking
    try:
        while wait([answer], timeout=_TICK_S).not_done:
            _check(stop)
        return answer.result()
    finally:
        del answer  # it has an error whose frames would have it, and keep the socket open


def _ask(answer: Future[Any], url: str, headers: dict[str, str], method: str) -> None:
    try:
        answer.set_result(_answer(url, headers, method))
    except BaseException as error:  # noqa: BLE001 - it is the other thread's
        answer.set_exception(error)
    finally:
        del answer


@contextlib.contextmanager
def _cut_off_by(stop: Stop, response: Any) -> Iterator[None]:  # noqa: ANN401 - as `_open`
    """Within the context, have what is read of an answer end once the end is asked for, however slowly it comes."""
    with contextlib.ExitStack() as stack:
        try:
            line = stack.enter_context(socket.socket(fileno=os.dup(response.fileno())))
        except (AttributeError, ValueError, OSError):  # it is over already
            yield
            return
        left = threading.Event()

        def watch() -> None:
            while not left.wait(_TICK_S):
                if stop.requested:
                    with contextlib.suppress(OSError):
                        line.shutdown(socket.SHUT_RDWR)
                    return

        watching = threading.Thread(target=watch, name="stop of a download", daemon=True)
        watching.start()
        stack.callback(watching.join)
        stack.callback(left.set)
        yield


def _answer(url: str, headers: dict[str, str], method: str) -> Any:  # noqa: ANN401 - as `_open`
    said = {"User-Agent": f"guestlaunch/{__version__}", **headers}
    request = urllib.request.Request(url, headers=said, method=method)  # noqa: S310 - http and https only, see `orchestrator.install.source`
    response = urllib.request.urlopen(request, timeout=_ANSWER_S)  # noqa: S310 - likewise
    if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
        response.close()
        raise LocationError("cannot fetch", url, f"the server leads from https to {response.url}")
    return response


def _refused(url: str, error: urllib.error.HTTPError) -> LocationError:
    return LocationError("cannot fetch", url, f"HTTP status {error.code} {error.reason}")


def _why(error: Exception | None) -> str:
    reason = getattr(error, "reason", None) or error
    system = reason.strerror if isinstance(reason, OSError) else None
    return system or str(reason or "no answer") or type(error).__name__


def _check(stop: Stop) -> None:
    if stop.requested:
        raise StoppedError("the download was stopped", "", stop.reason or "")


def _pause(number: int, stop: Stop) -> None:
    """Wait longer after each break, unless the end is asked for."""
    end = time.monotonic() + (2.0 ** (number - 1) if number else 0.0)
    _check(stop)
    while time.monotonic() < end:
        time.sleep(0.05)
        _check(stop)
