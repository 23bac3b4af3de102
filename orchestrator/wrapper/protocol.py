r"""The wire between the hv wrapper and the orchestrator: framed JSON objects and file descriptors on a unix socket.

Frame: 4 bytes, big-endian length of the body, then the body: one JSON object, ASCII only. Arguments and
environment are arbitrary bytes held in `str` by surrogateescape; JSON's `\udcXX` carries them unharmed.

    client -> server   {"type": "launch", "protocol": 2, "argv": [...], "cwd": "...", "env": {...},
                        "started_ns": N} + fds 0, 1, 2; N: the client's start on the host's monotonic clock
                       {"type": "terminate"}          the client was told to end; it waits for "exit"
                       {"type": "files", "identities": [[device, inode] or null, ...]}   answers the server's "files"
    server -> client   {"type": "files", "names": [...]}   which files are these to the client? (`identity`)
                       {"type": "exit", "status": N, "message": "one line or empty"}, or "signal": N for "status";
                       with "elsewhere": true when nothing was launched because client and server differ in their files
                       with "busy": true when the server has no room for it now

End of file from the server before "exit" means that it died; from the client, that the client did.
`argv` is without the program's own name. This module says nothing about what the messages cause.

It is on the launch path, so `orchestrator.errors` is only imported when there is an error to raise.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from orchestrator.errors import ProtocolError

VERSION = 2
MAX_BODY_BYTES = 1 << 20
MAX_FDS = 8
_HEADER_BYTES = 4


def _error(subject: str, why: object) -> ProtocolError:
    """Return the error of this module, importing its class only now."""
    from orchestrator.errors import ProtocolError

    return ProtocolError("cannot exchange messages with the other side", subject, why)


def wire_text(text: str) -> str:
    """Return text as UTF-8 with surrogateescape, whatever this process's own file system encoding is."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def launch_message(argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Return the message that asks for a launch; descriptors 0, 1 and 2 are to go with it."""
    return {
        "type": "launch",
        "protocol": VERSION,
        "argv": [wire_text(arg) for arg in argv],
        "cwd": wire_text(cwd),
        "env": {wire_text(key): wire_text(value) for key, value in env.items()},
    }


def identity(name: str) -> list[int] | None:
    """Return device and inode of the file that a name (as `wire_text` has it) leads to here; None where it does not."""
    try:
        status = os.stat(name.encode("utf-8", "surrogateescape"))
    except (OSError, ValueError):
        return None
    return [status.st_dev, status.st_ino]


def files_message(names: Sequence[str]) -> dict[str, Any]:
    """Return the answer to the server's question which files some names lead to."""
    return {"type": "files", "identities": [identity(name) for name in names]}


def exit_message(status: int, message: str = "", signal: int | None = None) -> dict[str, Any]:
    """Return the message that ends the client: with status, or, when signal is given, by that signal."""
    outcome = {"status": status} if signal is None else {"signal": signal}
    return {"type": "exit", **outcome, "message": message}


def send(sock: socket.socket, obj: Mapping[str, Any], fds: Sequence[int] = (), deadline: float | None = None) -> None:
    """Send one message; fds travel with its first bytes.

    :param deadline: `time.monotonic()` seconds; None waits as long as the socket's own time-out does.
    :raise ProtocolError: the message is too long, the peer is gone or did not read in time.
    """
    body = json.dumps(obj, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    if len(body) > MAX_BODY_BYTES:
        raise _error(str(obj.get("type", "message")), f"{len(body)} bytes are more than the bound of {MAX_BODY_BYTES}")
    frame = memoryview(len(body).to_bytes(_HEADER_BYTES, "big") + body)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    # With a deadline no call may block: a ready socket takes part of a frame, and would wait for room for the rest.
    flags = 0 if deadline is None else socket.MSG_DONTWAIT
    try:
        while frame:
            _await(sock, select.POLLOUT, deadline)
            try:
                frame = frame[sock.sendmsg([frame], ancillary, flags) :]
            except BlockingIOError:
                if deadline is None:
                    raise
                continue
            ancillary = []
    except OSError as error:
        raise _error(str(obj.get("type", "message")), error.strerror or error) from error


def receive(sock: socket.socket, deadline: float | None = None) -> tuple[dict[str, Any], list[int]]:
    """Return the next message and the descriptors that came with it (close-on-exec, owned by the caller).

    :param deadline: `time.monotonic()` seconds; None waits as long as the socket's own time-out does.
    :raise EOFError: the peer closed the connection between two messages.
    :raise ProtocolError: what came is no message, is too long, is cut off, or did not come in time. No
        descriptor stays open then.
    """
    fds: list[int] = []
    try:
        header = _exactly(sock, _HEADER_BYTES, fds, deadline, first=True)
        return _decode(_exactly(sock, _length(header), fds, deadline)), fds
    except OSError as error:
        _close(fds)
        raise _error("frame", error.strerror or error) from error
    except BaseException:
        _close(fds)
        raise


def _length(header: bytes) -> int:
    """Return the body's length in bytes that a header announces."""
    length = int.from_bytes(header, "big")
    if length > MAX_BODY_BYTES:
        raise _error("frame", f"{length} bytes are more than the bound of {MAX_BODY_BYTES}")
    return length


def _decode(body: bytes) -> dict[str, Any]:
    """Return the JSON object in body."""
    try:
        obj = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _error("frame", f"not JSON: {error}") from error
    if not isinstance(obj, dict) or not isinstance(obj.get("type"), str):
        raise _error("frame", "not an object with a type")
    return obj


def _exactly(sock: socket.socket, size: int, fds: list[int], deadline: float | None, *, first: bool = False) -> bytes:
    """Return size bytes from sock, adding descriptors that come along to fds."""
    got = bytearray()
    while len(got) < size:
        _await(sock, select.POLLIN, deadline)
        room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = sock.recvmsg(size - len(got), room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # the peer died with something of ours unread: an end like any other
            data, ancillary, flags = b"", [], 0
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = array.array("i")
                whole.frombytes(payload[: len(payload) - len(payload) % whole.itemsize])
                fds.extend(whole)
        if flags & socket.MSG_CTRUNC or len(fds) > MAX_FDS:
            raise _error("frame", f"more than {MAX_FDS} file descriptors")
        if not data:
            if first and not got:
                raise EOFError
            raise _error("frame", f"cut off after {len(got)} of {size} bytes")
        got += data
    return bytes(got)


def _await(sock: socket.socket, event: int, deadline: float | None) -> None:
    """Wait until sock is ready for event, or raise TimeoutError at the deadline."""
    if deadline is None:
        return
    poll = select.poll()
    poll.register(sock, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError("no answer in time")


def _close(fds: list[int]) -> None:
    """Close descriptors that nobody will get."""
    for fd in fds:
        os.close(fd)
    fds.clear()
