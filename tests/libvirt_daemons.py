"""libvirt daemons of a test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.locks import locked_file

_ALONE = Path("/run/lock/guestlaunch-tests-libvirtd")
_NOBODY = 65534
_ALONE_SECONDS = 240.0


@contextlib.contextmanager
def running(
    command: list[str], ready: Path, *, environ: dict[str, str] | None = None, user: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon until the end of the block; its socket shows that it is ready."""
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, **(environ or {})},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    ) as daemon:
        try:
            end = time.monotonic() + 30
            while not ready.exists() and daemon.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            assert ready.exists(), f"{command[0]} did not start"
            yield daemon
        finally:
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()


@contextlib.contextmanager
def system_daemon(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a system libvirtd on a socket of its own, in a new folder: its URI and its process.

    What it keeps is where all of them keep it, so there is one at a time, whichever worker's.
    """
    if os.getuid() != 0:
        pytest.skip("a system libvirtd needs the superuser")
    if Path("/run/libvirt/libvirt-sock").exists():
        pytest.skip("this host runs its own libvirtd, which must not be disturbed")
    with locked_file(_ALONE, seconds=_ALONE_SECONDS) as alone:
        assert alone, "another test has its system libvirtd for too long"
        folder.mkdir()
        yield from _system_daemon(folder)
    shutil.rmtree(folder)


def _system_daemon(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    (folder / "libvirtd.conf").write_text(f'unix_sock_dir = "{folder}"\nauth_unix_rw = "none"\n')
    log_daemon = [program("virtlogd"), "-p", str(folder / "virtlogd.pid")]
    daemon = [program("libvirtd"), "-f", str(folder / "libvirtd.conf"), "-p", str(folder / "libvirtd.pid")]
    with (
        running(log_daemon, Path("/run/libvirt/virtlogd-sock")),
        running(daemon, folder / "libvirt-sock") as process,
    ):
        yield f"qemu+unix:///system?socket={folder}/libvirt-sock", process


@contextlib.contextmanager
def another_users_daemon(folder: Path) -> Iterator[str]:
    """Run the session libvirtd of another user, who has no KVM, in a new folder: its URI."""
    if os.getuid() != 0:
        pytest.skip("another user's libvirtd needs the superuser")
    run = folder / "run"
    for path in (folder, run):
        path.mkdir(mode=0o700)
        os.chown(path, _NOBODY, _NOBODY)
    environ = {key: os.fspath(folder) for key in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    environ["XDG_RUNTIME_DIR"] = os.fspath(run)
    socket = run / "libvirt" / "libvirt-sock"
    with running([program("libvirtd"), "-t", "0"], socket, environ=environ, user=_NOBODY):
        yield f"qemu+unix:///session?socket={socket}"
    shutil.rmtree(folder)


def as_another_host(uri: str, folder: Path) -> str:
    """Return the remote URI of a session daemon on this host: what stands in for ssh leads to its socket."""
    relay = folder / "ssh"
    relay.write_text(_RELAY.format(python=sys.executable, socket=uri.partition("socket=")[2]))
    relay.chmod(0o755)
    return f"qemu+ssh://elsewhere/session?command={relay}"


_RELAY = """#!{python}
import os, socket, threading
daemon = socket.socket(socket.AF_UNIX)
daemon.connect("{socket}")
def copy(read, write):
    while block := read():
        write(block)
    os._exit(0)
threading.Thread(target=copy, args=(lambda: os.read(0, 1 << 16), daemon.sendall)).start()
copy(lambda: daemon.recv(1 << 16), lambda block: os.write(1, block))
"""


def program(name: str) -> str:
    """Return where a daemon is; skip the test where it is not installed."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
