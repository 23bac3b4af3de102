"""A directory served to a guest by virtiofs: which program does that, and that it can only read.

libvirt starts such a program only as root, and always has it write, too. So it is started here, in a mount namespace
of its own, in which the directory is read-only; whoever is not root is the root of a user namespace there. File systems
that are mounted below the directory are not among what is served.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from orchestrator.errors import CapabilityError, LaunchError
from orchestrator.tether import Tether

# Where programs say what they are for (QEMU, docs/interop/vhost-user.json), and where distributions have this one.
_DESCRIPTORS = (Path("/etc/qemu/vhost-user"), Path("/usr/share/qemu/vhost-user"))
_USUAL = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd")
_SCRIPT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
_READY = "Waiting for vhost-user socket connection"  # that of QEMU and its successor in Rust alike
_START_S, _END_S, _TICK_S = 20.0, 5.0, 0.01
_MOST_BYTES = 64 << 10


def find_program() -> Path | None:
    """Return the program that serves directories, or None."""
    described = []
    for folder in _DESCRIPTORS:
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                said = json.loads(path.read_text(encoding="utf-8"))
                described += [said["binary"]] if said["type"] == "fs" else []
    return next((Path(name) for name in (*described, *_USUAL) if os.access(name, os.X_OK)), None)


@contextlib.contextmanager
def serving(program: Path, directory: Path, listener: socket.socket) -> Iterator[None]:
    """Serve a directory to the one QEMU that connects to a socket, which is closed here.

    :raise CapabilityError: it cannot be started.
    :raise LaunchError: it ended at once, and why.
    """
    namespaces = ["--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    served = os.fspath(directory)
    command = ["unshare", *namespaces, "--", "sh", "-c", _SCRIPT, "sh", served, os.fspath(program)]
    command += [f"--fd={listener.fileno()}", "-o", f"source={served}"]
    if shutil.which("unshare") is None:
        raise CapabilityError("cannot share the directory", directory, "unshare is not installed")
    with contextlib.ExitStack() as stack:
        said = stack.enter_context(tempfile.TemporaryFile())
        tether = Tether()
        stack.callback(tether.close)
        listener.setblocking(True)
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/",
                pass_fds=(listener.fileno(), tether.reading), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise CapabilityError("cannot share the directory", directory, error.strerror or error) from error
        stack.callback(_end, process)
        tether.tie(process.pid)
        listener.close()  # were it to end, QEMU would wait for it for ever
        why = _wait_until_it_waits(process, said)
        if why is not None:
            raise LaunchError("cannot share the directory", directory, why, "--share-by 9p does without")
        yield


def _wait_until_it_waits(process: subprocess.Popen[bytes], said: IO[bytes]) -> str | None:
    """Wait until it says that it waits for QEMU; return why it never will, None where it does."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        status = process.poll()
        text = os.pread(said.fileno(), _MOST_BYTES, 0).decode("utf-8", "replace")
        if _READY in text:
            return None
        if status is not None:
            lines = text.strip().splitlines()
            return lines[-1] if lines else f"virtiofsd ended with status {status}"
        time.sleep(_TICK_S)
    return f"virtiofsd is not ready after {_START_S:g} s"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it, as far as it has not ended with its QEMU."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
