"""Whether a client and this server mean the same files: names lead elsewhere in a chroot or another mount namespace.

The server names every file that it would open for a launch, those that images name included; the client says which
files these are for it (device and inode), and the server compares them with its own. If they differ it does not
launch, and the client gets a server of its own.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.domain.model import Disk, FileSource, NetworkSource
from orchestrator.errors import ProtocolError
from orchestrator.images.chain import read_chain
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.wrapper import protocol

# A client answers at once, unless a file system of its own hangs.
_ANSWER_SECONDS = 60.0
_NAMES_A_MESSAGE = 200
# In these, each process sees its own files. The user's own QEMU arguments may name files that we know nothing of.
_ROOT = ("/", "/proc/self/ns/mnt")
_NETWORK = "/proc/self/ns/net"


class ElsewhereError(ProtocolError):
    """A name leads to another file here than for the client."""


def said_files(request: LaunchRequest, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names, absolute, of what a client itself says that it wants opened or connected to.

    Nothing need be opened here to know them. Once they are known to be the client's own files, they may be opened.
    """
    return tuple(dict.fromkeys(_said(request, environ)))


def _said(request: LaunchRequest, environ: Mapping[str, str]) -> Iterator[str]:
    yield from (request.kernel, request.initrd)
    yield from (path for path in (request.root, request.guestfsd_path) if path is not None)
    yield from request.pflash or ()
    networked = False
    for disk in request.disks:
        if isinstance(disk.source, FileSource):
            yield disk.source.path
        elif isinstance(disk.source, NetworkSource):
            networked = True
            yield from (value for key, value in disk.source.options if key == "server.path")
    if request.network is not None:
        networked = True
        yield from (path for path in (request.network.stream_path,) if path is not None)
    if networked:
        yield _NETWORK
    if request.extra_args:
        yield from _ROOT
    if environ.get("GUESTLAUNCH_CONFIG"):
        yield str(Path(request.cwd, environ["GUESTLAUNCH_CONFIG"]))


def named_files(request: LaunchRequest, settings: Settings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names, absolute, of what images and settings name in their turn.

    :raise ImagePolicyError: an untrusted image names what it may not.
    """
    disks = [(disk, disk.source.path) for disk in request.disks if isinstance(disk.source, FileSource)]
    names = dict.fromkeys(name for disk, path in disks for name in _disk_files(disk, path, request.cwd, settings))
    if environ.get("GUESTLAUNCH_TIMELINE") and settings.timeline not in {None, "-"}:
        names |= dict.fromkeys((str(settings.timeline), str(Path(str(settings.timeline)).parent)))
    said = set(said_files(request, environ))
    return tuple(name for name in names if name not in said)


def _disk_files(disk: Disk, path: str, cwd: str, settings: Settings) -> tuple[str, ...]:
    """Return all files of a disk; none is read that an image may not name.

    :raise ImagePolicyError: it names such a file.
    """
    if settings.trusts_images:
        return read_chain(path, disk.format, cwd).files
    from orchestrator.images.policy import confine_disk  # here: most launches trust their images

    return confine_disk(path, disk.format, cwd, settings, overlay=disk.shared_read).files


def require_same(sock: socket.socket, names: Sequence[str], stop: Stop) -> None:
    """Ask a client which files these names lead to, and compare.

    :param stop: requested when the client says so meanwhile.
    :raise ElsewhereError: one of them leads elsewhere.
    :raise ProtocolError: the client has gone, or answered something else.
    """
    for start in range(0, len(names), _NAMES_A_MESSAGE):
        some = names[start : start + _NAMES_A_MESSAGE]
        for name, theirs in zip(some, _ask(sock, some, stop), strict=True):
            if theirs != protocol.identity(name):
                raise ElsewhereError(
                    "launch refused", name, "that is another file to this server than to the tool", "see its log"
                )


def _ask(sock: socket.socket, names: Sequence[str], stop: Stop) -> list[object]:
    deadline = time.monotonic() + _ANSWER_SECONDS
    wired = [protocol.wire_text(name) for name in names]
    protocol.send(sock, {"type": "files", "names": wired}, deadline=deadline)
    while True:
        try:
            message, fds = protocol.receive(sock, deadline)
        except EOFError:
            stop.request("client gone")
            raise ProtocolError("launch refused", "the client", "it has gone") from None
        for descriptor in fds:
            os.close(descriptor)
        if message["type"] == "terminate":
            stop.request("terminate")
            continue
        found = message.get("identities")
        if message["type"] != "files" or not isinstance(found, list) or len(found) != len(names):
            raise ProtocolError("launch refused", "message", "it does not say which files are meant")
        return found
