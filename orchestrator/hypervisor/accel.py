"""Decides whether a guest runs under KVM or TCG, and proves it first: /dev/kvm may open and yet hang every guest.

`auto` means KVM only for a guest of the host's own arch and after a probe guest has booted (2026-11-22). It starts QEMU
directly: nothing of it shows in libvirt. Its verdict holds for this boot of the host, this device and this
QEMU. That a probe guest took too long proves little on a loaded host: it is tried again, ever more seldom.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.domain.model import Accel, Arch
from orchestrator.errors import CapabilityError, UsageError, nearest
from orchestrator.hypervisor.emulator import host_arch
from orchestrator.hypervisor.tether import Tether

DEVICE = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROBE_DEADLINE_S = 10.0
ASKED_FOR = "asked for"
_CREATE_VM = 0xAE01  # linux/kvm.h: KVM_CREATE_VM
_FORMAT = 2
_KEPT = 16  # verdicts: a state directory may be shared by containers, each with a device of its own
# A first time-out is not believed at all, the second one for this long, each later one four times as long.
_FIRST_BELIEF_S = 60.0
_LONGEST_BELIEF_S = 86400.0
# QEMU's and libvirt's ways of saying that KVM cannot be had after all.
_REFUSAL = re.compile(r"\bkvm\b|\bkvm_", re.IGNORECASE)
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


class AccelPolicy(StrEnum):
    """What the user asked for."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccelVerdict:
    """What a guest will run under, and why. `cached`: the reason was found out earlier in this boot of the host."""

    accel: Accel
    reason: str
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Whether a probe guest booted, and what was seen. `timed_out`: it might have, given more time."""

    booted: bool
    reason: str
    timed_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """What a stored verdict is valid for: device and emulator by what the kernel knows them by."""

    boot_id: str
    device: tuple[int, int, int, int]
    emulator: str
    program: tuple[int, int, int, int, int]


def choose_accel(
    policy: str,
    arch: Arch,
    *,
    emulator: str,
    kernel: Path,
    state_dir: Path,
    deadline_s: float = PROBE_DEADLINE_S,
) -> AccelVerdict:
    """Return the accelerator for a guest.

    :param policy: "auto", "kvm" or "tcg". Whoever insists on KVM is not asked for a proof.
    :param emulator: absolute path of QEMU; :param kernel: a kernel of the guest's arch, for the probe.
    :param deadline_s: how long a probe guest may take; a probe is made at most once a boot of the host.
    :raise CapabilityError: KVM was insisted on and cannot be had.
    """
    try:
        wanted = AccelPolicy(policy)
    except ValueError as error:
        raise UsageError("unknown accelerator policy", policy, "", nearest(policy, AccelPolicy)) from error
    if wanted is AccelPolicy.TCG:
        return AccelVerdict(accel=Accel.TCG, reason=ASKED_FOR)
    obstacle = _obstacle(arch)
    if wanted is AccelPolicy.KVM:
        if obstacle:
            raise CapabilityError("cannot use KVM for a guest of arch", arch, obstacle, "use --accel auto or tcg")
        return AccelVerdict(accel=Accel.KVM, reason=ASKED_FOR)
    if obstacle:
        return AccelVerdict(accel=Accel.TCG, reason=obstacle)
    return _proven(arch, emulator, kernel, state_dir, deadline_s)


def forget_verdicts(state_dir: Path) -> None:
    """Have the next `auto` probe again, after the host's KVM was repaired without a restart.

    :raise CapabilityError: what is stored cannot be removed.
    """
    try:
        _file(state_dir).unlink(missing_ok=True)
    except OSError as error:
        raise CapabilityError("cannot forget the verdict on KVM", error.filename, error.strerror or error) from error


def is_refusal(why: str) -> bool:
    """Tell whether a start failed because QEMU or libvirt could not have KVM."""
    return _REFUSAL.search(why) is not None


def note_refusal(emulator: str, state_dir: Path, why: str) -> None:
    """Remember that QEMU refused KVM for a launch, whatever a probe guest has shown: `auto` then means TCG."""
    with contextlib.suppress(OSError, CapabilityError):
        _write(_file(state_dir), _key(emulator), ProbeResult(booted=False, reason=f"QEMU refused KVM: {why}"))


def _file(state_dir: Path) -> Path:
    return state_dir / "kvm-verdict.json"


def _obstacle(arch: Arch) -> str:
    """Return what rules KVM out without any trial, or an empty string."""
    host = host_arch()
    if arch != host:
        return f"the guest's arch {arch} is not the host's ({host or os.uname().machine})"
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{DEVICE}: {error.strerror}"
    try:
        _make_machine(descriptor)
    except OSError as error:
        return f"{DEVICE} opens but gives no machine: {error.strerror}"
    finally:
        os.close(descriptor)
    return ""


def _make_machine(device: int) -> None:
    """Have the kernel make an empty virtual machine, which is where most of what it may hold against KVM comes up.

    :raise OSError: it does not.
    """
    os.close(fcntl.ioctl(device, _CREATE_VM, 0))


def _proven(arch: Arch, emulator: str, kernel: Path, state_dir: Path, deadline_s: float) -> AccelVerdict:
    """Return the stored verdict, or find it out; one process does that, and the others wait for it."""
    file, key = _file(state_dir), _key(emulator)
    asked_ns = time.monotonic_ns()
    stored = _believed(file, key, asked_ns)
    if stored is not None:
        return _verdict(stored, cached=True)
    with _one_prober(state_dir, deadline_s + 5.0) as ours:
        stored = _believed(file, key, asked_ns)
        if stored is not None:
            return _verdict(stored, cached=True)
        if not ours:
            return AccelVerdict(accel=Accel.TCG, reason="another process still probes KVM")
        result = probe(arch, emulator, kernel, deadline_s=deadline_s)
        with contextlib.suppress(OSError):  # the verdict holds without its copy; the next launch probes again
            _write(file, key, result)
        return _verdict(result, cached=False)


def _verdict(result: ProbeResult, *, cached: bool) -> AccelVerdict:
    return AccelVerdict(accel=Accel.KVM if result.booted else Accel.TCG, reason=result.reason, cached=cached)


def _key(emulator: str) -> _Key:
    try:
        program = Path(emulator).stat()
    except OSError as error:
        raise CapabilityError("cannot run QEMU", emulator, error.strerror or error) from error
    try:
        device = DEVICE.stat()
    except OSError as error:
        raise CapabilityError("cannot use KVM", DEVICE, error.strerror or error) from error
    return _Key(
        boot_id=BOOT_ID.read_text().strip(),
        device=(device.st_dev, device.st_ino, device.st_rdev, device.st_ctime_ns),
        emulator=emulator,
        program=(program.st_dev, program.st_ino, program.st_size, program.st_mtime_ns, program.st_ctime_ns),
    )


def _entries(file: Path) -> list[dict[str, Any]]:
    """Return all that is stored; a damaged file is as good as none."""
    try:
        stored = json.loads(file.read_bytes())
        if stored["format"] == _FORMAT:
            return [entry for entry in stored["verdicts"] if isinstance(entry["key"], dict)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return []


def _find(file: Path, key: _Key) -> dict[str, Any]:
    """Return what is stored for a key; nothing is an empty dictionary."""
    wanted = json.loads(json.dumps(asdict(key)))
    return next((entry for entry in _entries(file) if entry.get("key") == wanted), {})


def _believed(file: Path, key: _Key, asked_ns: int) -> ProbeResult | None:
    """Return the stored result for this key unless it is time to try again.

    :param asked_ns: when the launch asked; what was found out while it waited is not found out twice.
    """
    entry = _find(file, key)
    try:
        result = ProbeResult(booted=entry["booted"] is True, reason=str(entry["reason"]))
        times, at_ns = int(entry["timed_out_times"]), int(entry["at_ns"])
    except (KeyError, TypeError, ValueError):
        return None
    if times and at_ns < asked_ns:
        believed_s = 0.0 if times == 1 else min(_FIRST_BELIEF_S * 4.0 ** min(times - 2, 20), _LONGEST_BELIEF_S)
        if asked_ns - at_ns >= believed_s * 1e9:
            return None
    return result


def _write(file: Path, key: _Key, result: ProbeResult) -> None:
    """Store a result in front of those for other keys of this boot of the host."""
    before = _find(file, key)
    times = int(before.get("timed_out_times") or 0) + 1 if result.timed_out else 0
    entry = {
        "key": asdict(key),
        "booted": result.booted,
        "reason": result.reason,
        "timed_out_times": times,
        "at_ns": time.monotonic_ns(),
    }
    others = [one for one in _entries(file) if one != before and one["key"].get("boot_id") == key.boot_id]
    files.write_whole(file, json.dumps({"format": _FORMAT, "verdicts": [entry, *others][:_KEPT]}).encode())


@contextlib.contextmanager
def _one_prober(state_dir: Path, deadline_s: float) -> Iterator[bool]:
    """Wait for our turn to probe, up to deadline_s seconds; tell whether it came."""
    with contextlib.ExitStack() as stack:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            taken = stack.enter_context(files.locked_file(state_dir / "kvm-verdict.lock", seconds=deadline_s))
        except OSError:
            taken = True  # nowhere to store a verdict either
        yield taken


def probe(
    arch: Arch, emulator: str, kernel: Path, *, deadline_s: float = PROBE_DEADLINE_S, accel: Accel = Accel.KVM
) -> ProbeResult:
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
