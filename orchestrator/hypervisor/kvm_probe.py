"""Boots a probe guest: /dev/kvm may open and yet hang every guest.

QEMU is started directly: nothing of it shows in libvirt.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.domain.model import Accel, Arch
from orchestrator.errors import CapabilityError
from orchestrator.tether import Tether

# The kernel's first line and, with neither an initrd nor a root file system, its last: it ran all the way through.
# A quiet kernel says nothing else, and each byte of a console is a trap. Other panics come from less than a boot.
_LAST = b"Kernel panic - not syncing: VFS"
_CONSOLE = {Arch.X86_64: "ttyS0", Arch.AARCH64: "ttyAMA0"}
_MACHINE = {
    (Arch.X86_64, Accel.KVM): ("q35", "host"),
    (Arch.AARCH64, Accel.KVM): ("virt,gic-version=host", "host"),
    (Arch.X86_64, Accel.TCG): ("q35", "qemu64"),
    (Arch.AARCH64, Accel.TCG): ("virt", "cortex-a57"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Whether a probe guest booted, and what was seen. `timed_out`: it might have, given more time."""

    booted: bool
    reason: str
    timed_out: bool = False


def probe(arch: Arch, emulator: str, kernel: Path, *, deadline_s: float, accel: Accel = Accel.KVM) -> ProbeResult:
    """Boot a kernel with nothing but a serial port until it panics for want of a root, and say whether it got there.

    :raise CapabilityError: QEMU cannot be started at all.
    """
    machine, cpu = _MACHINE[arch, accel]
    command = [
        emulator, "-accel", accel, "-machine", machine, "-cpu", cpu,
        "-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
        "-kernel", str(kernel), "-append", f"console={_CONSOLE[arch]} quiet panic=-1",
    ]  # fmt: skip
    with contextlib.closing(Tether()) as tether:
        try:
            qemu = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True, pass_fds=(tether.reading,),
            )  # fmt: skip
        except OSError as error:
            raise CapabilityError("cannot run QEMU", emulator, error.strerror or error) from error
        with qemu:
            try:
                tether.tie(qemu.pid, signal.SIGKILL)
                return _watch(qemu, deadline_s)
            finally:
                qemu.kill()


def _watch(qemu: subprocess.Popen[bytes], deadline_s: float) -> ProbeResult:
    """Read the probe guest's console until it has booted, ended or used up its time."""
    assert qemu.stdout is not None
    console = qemu.stdout.fileno()
    end = time.monotonic() + deadline_s
    seen = b""
    while (left_s := end - time.monotonic()) > 0:
        if not select.select([console], [], [], left_s)[0]:
            break
        chunk = os.read(console, 65536)
        if not chunk:
            last = seen.decode("utf-8", "replace").strip().rpartition("\n")[2]
            return ProbeResult(booted=False, reason=f"probe guest ended before it had booted: {last or 'no output'}")
        seen += chunk
        if _LAST in seen:
            return ProbeResult(booted=True, reason="probe guest booted")
    reason = f"probe guest did not boot within {deadline_s:g} s"
    return ProbeResult(booted=False, reason=reason, timed_out=True)
