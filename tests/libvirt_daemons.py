"""libvirt daemons of a test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.locks import locked_file

_ALONE = Path("/run/lock/guestlaunch-tests-libvirtd")
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
    folder.mkdir()
    with locked_file(_ALONE, seconds=_ALONE_SECONDS) as alone:
        assert alone, "another test has its system libvirtd for too long"
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


def program(name: str) -> str:
    """Return where a daemon is; skip the test where it is not installed."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
