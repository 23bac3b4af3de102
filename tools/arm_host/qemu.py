"""Runs one QEMU for as long as somebody wants it: its files have no names, and it ends with whoever started it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator import priority
from orchestrator.appliance.command import require
from orchestrator.domain.model import Arch
from orchestrator.errors import HypervisorError, MonitorError
from orchestrator.hypervisor.emulator import find_emulator
from tools.arm_host.machine import Parts, Shape, command_line
from tools.arm_host.monitor import Monitor

_PR_SET_PDEATHSIG = 1
_END_S = 30
_CONSOLE_TAIL = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A folder with a machine that was saved, or that is being made: its names.

    :ivar disks: one for each image that it builds upon, in that order.
    """

    folder: Path

    @property
    def ram(self) -> Path:
        """The memory, as large as the machine's, with holes."""
        return self.folder / "ram"

    @property
    def state(self) -> Path:
        """Everything else that QEMU knows of it."""
        return self.folder / "state"

    @property
    def initrd(self) -> Path:
        """What it was booted with; QEMU wants to see it again."""
        return self.folder / "initrd"

    @property
    def disks(self) -> tuple[Path, Path]:
        """What it wrote to the system's image, and to that of the appliances."""
        return self.folder / "system.qcow2", self.folder / "appliances.qcow2"


class Machine:
    """A machine that runs."""

    def __init__(self, process: subprocess.Popen[bytes], monitor: Monitor, agent: socket.socket) -> None:
        self._process = process
        self._monitor = monitor
        self.agent = agent

    def restore(self, state: Path) -> None:
        """Let it go on where the one that was saved was stopped.

        :raise MonitorError: it is not of such a machine.
        """
        with state.open("rb") as file:
            self._monitor.restore(file.fileno())

    def save(self, state: Path) -> None:
        """Stop it, write its state, and end it in order, so that memory and disks are whole.

        :raise MonitorError: it cannot be saved.
        """
        with state.open("wb") as file:
            self._monitor.save(file.fileno())
        self._monitor.execute("quit")
        self._process.wait(_END_S)


def new_overlay(backing: Path, backing_format: str, overlay: str, keep: Sequence[int] = ()) -> None:
    """Make a qcow2 image that holds what is written above another.

    :raise HypervisorError: it cannot be made.
    """
    program = require("qemu-img", "qemu-utils", what="cannot make a disk")
    base = ["-b", str(backing), "-F", backing_format]
    done = subprocess.run(
        [program, "create", "-q", "-f", "qcow2", *base, overlay], capture_output=True, pass_fds=keep, check=False
    )
    if done.returncode:
        raise HypervisorError("cannot make a disk", backing, done.stderr.decode(errors="replace").strip())


@contextlib.contextmanager
def nameless_overlays(images: Sequence[Path], backing_format: str, folder: Path) -> Iterator[dict[str, int]]:
    """Yield overlays that nothing is left of, whoever is killed: paths that hold for our children, and descriptors.

    :raise HypervisorError: one cannot be made.
    """
    with contextlib.ExitStack() as stack:
        overlays: dict[str, int] = {}
        for image in images:
            descriptor = stack.enter_context(tempfile.TemporaryFile(dir=folder)).fileno()
            path = f"/proc/self/fd/{descriptor}"
            new_overlay(image, backing_format, path, keep=[descriptor])
            overlays[path] = descriptor
        yield overlays


@contextlib.contextmanager
def running(
    shape: Shape,
    saved: Saved,
    kernel: Path,
    disks: Sequence[str],
    *,
    keep: Sequence[int] = (),
    writes_ram: bool,
    incoming: bool,
) -> Iterator[Machine]:
    """Run a machine with the memory and initrd of a folder; it is ended when the context ends, or this process.

    :param keep: descriptors that the disks' paths stand for.
    :raise HypervisorError: it does not start, or ended while it was used: says what it said last.
    """
    with contextlib.ExitStack() as stack:
        console = stack.enter_context(tempfile.TemporaryFile())
        complaints = stack.enter_context(tempfile.TemporaryFile())
        agent, theirs = (stack.enter_context(end) for end in socket.socketpair())
        monitor, its = (stack.enter_context(end) for end in socket.socketpair())
        parts = Parts(
            kernel=str(kernel),
            initrd=str(saved.initrd),
            disks=disks,
            ram=str(saved.ram),
            writes_ram=writes_ram,
            console=f"/proc/self/fd/{console.fileno()}",
            agent=theirs.fileno(),
            monitor=its.fileno(),
            incoming=incoming,
        )
        process = subprocess.Popen(
            [find_emulator(Arch.AARCH64), *command_line(shape, parts)],
            stdin=subprocess.DEVNULL,
            stdout=complaints,
            stderr=complaints,
            pass_fds=[console.fileno(), theirs.fileno(), its.fileno(), *keep],
            start_new_session=True,  # Ctrl-C is ours to hear
            preexec_fn=_ending_with(os.getpid()),  # noqa: PLW1509 - one system call
        )
        stack.callback(_end, process)
        priority.pass_on(process.pid)
        theirs.close()
        its.close()
        try:
            yield Machine(process, Monitor(monitor), agent)
        except (MonitorError, ConnectionError) as error:
            raise HypervisorError("the emulated host failed", "QEMU", _last(complaints, console) or error) from error


def _ending_with(parent: int) -> Callable[[], None]:
    """Return what a child does before it becomes QEMU, so that the kernel ends it when this thread's process does."""
    prctl = ctypes.CDLL(None).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _last(complaints: IO[bytes], console: IO[bytes]) -> str:
    """Return what QEMU said, and the end of the console."""
    said = b""
    for file in (complaints, console):
        file.seek(max(0, file.seek(0, os.SEEK_END) - _CONSOLE_TAIL))
        said += file.read()
    return " | ".join(said.decode(errors="replace").split("\n")).strip(" |")
