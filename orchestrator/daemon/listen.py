"""Listening sockets: a daemon's public one, which nobody can hijack, and a command's private one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator import sockets
from orchestrator.errors import ProtocolError, UsageError
from orchestrator.settings import private_directory, remove_own_folder

SOCKET_NAME = "guestlaunchd.sock"
_BACKLOG = 128
_CONNECT_SECONDS = 5.0


def check_length(path: Path) -> Path:
    """Return the path of a socket unless it is too long for the kernel.

    :raise UsageError: with both lengths.
    """
    if why := sockets.too_long(path):
        raise UsageError("socket path too long", path, why, "set GUESTLAUNCH_RUNTIME_DIR to a shorter directory")
    return path


@contextlib.contextmanager
def public(path: Path) -> Iterator[socket.socket]:
    """Listen on a well-known path; one daemon at a time.

    The directory must be ours alone to write to, a lock file beside the socket is held for as long as we
    listen, and a socket that is there already is replaced only when nobody answers on it.

    :raise ProtocolError: when another daemon listens there.
    :raise SettingsError: when the directory is not safe.
    :raise UsageError: when the path is too long, or something else than a socket of ours is there.
    """
    check_length(path)
    private_directory(path.parent)
    with _locked(path.with_name(path.name + ".lock")):
        _clear_stale(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            mask = os.umask(0o117)  # born with mode 0660: no moment at which it is open to more
            try:
                sock.bind(os.fspath(path))
            except OSError as error:
                raise UsageError("cannot listen", path, error.strerror or error) from error
            finally:
                os.umask(mask)
            made = path.lstat().st_ino
            try:
                sock.listen(_BACKLOG)
                yield sock
            finally:
                with contextlib.suppress(FileNotFoundError):
                    if path.lstat().st_ino == made:
                        path.unlink()


@contextlib.contextmanager
def private(runtime_dir: Path) -> Iterator[tuple[socket.socket, Path]]:
    """Listen on a socket in a fresh directory that only we can enter; yield it and its path.

    Leaving the context closes our descriptor. The directory goes with `remove_private`, by whoever serves.

    :raise SettingsError: when the runtime directory is not safe.
    :raise UsageError: when the path is too long.
    """
    parent = private_directory(runtime_dir)
    check_length(parent / "c-12345678" / "socket")
    directory = Path(tempfile.mkdtemp(prefix="c-", dir=parent))
    path = directory / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(os.fspath(path))
            sock.listen(_BACKLOG)
        except OSError as error:
            remove_private(path)
            raise UsageError("cannot listen", path, error.strerror or error) from error
        yield sock, path


def remove_private(path: Path) -> None:
    """Remove a private socket with its directory."""
    shutil.rmtree(path.parent, ignore_errors=True)
    remove_own_folder(path.parent.parent)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file that says that a daemon lives here."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError("cannot lock", path, error.strerror or error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise ProtocolError("guestlaunchd already runs", path.with_suffix(""), f"pid {holder}") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                break
        os.close(descriptor)  # the holder before us removed the file between our open and our lock
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock goes: whoever waits for it then sees that the file is gone
        os.close(descriptor)


def _clear_stale(path: Path) -> None:
    """Remove a socket that a daemon left behind.

    :raise ProtocolError: when somebody answers on it.
    :raise UsageError: when it is no socket, or not ours.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise UsageError("cannot listen", path, "something else than a socket of ours is there", "move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ProtocolError("cannot listen", path, f"a server is there: {error.strerror or error}") from error
    raise ProtocolError("guestlaunchd already runs", path, "a server answers there")
