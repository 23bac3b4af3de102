"""Whether KVM boots guests here: a probe guest's verdict, kept for this boot of the host, this device and this QEMU.

That a probe guest took too long proves little on a loaded host: it is tried again, ever more seldom.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import files, locks
from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError
from orchestrator.hypervisor.kvm_probe import ProbeResult, probe

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FORMAT = 2
_KEPT = 16  # verdicts: a state directory may be shared by containers, each with a device of its own
# A first time-out is not believed at all, the second one for this long, each later one four times as long.
_FIRST_BELIEF_S = 60.0
_LONGEST_BELIEF_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """What a stored verdict is valid for: device and emulator by what the kernel knows them by."""

    boot_id: str
    device: tuple[int, int, int, int]
    emulator: str
    program: tuple[int, int, int, int, int]


def proven(
    arch: Arch, emulator: str, kernel: Path, *, state_dir: Path, device: Path, deadline_s: float
) -> tuple[ProbeResult, bool]:
    """Return whether KVM boots guests, and whether that was found out earlier in this boot of the host.

    One process finds it out, and the others wait for it.

    :param device: KVM's; :param deadline_s: how long a probe guest may take.
    :raise CapabilityError: QEMU or the device cannot be had at all.
    """
    file, key = _file(state_dir), _key(emulator, device)
    asked_ns = time.monotonic_ns()
    stored = _believed(file, key, asked_ns)
    if stored is not None:
        return stored, True
    with _one_prober(state_dir, deadline_s + 5.0) as ours:
        stored = _believed(file, key, asked_ns)
        if stored is not None:
            return stored, True
        if not ours:
            return ProbeResult(booted=False, reason="another process still probes KVM"), False
        result = probe(arch, emulator, kernel, deadline_s=deadline_s)
        with contextlib.suppress(OSError):  # the verdict holds without its copy; the next launch probes again
            _write(file, key, result)
        return result, False


def forget_verdicts(state_dir: Path) -> None:
    """Have the next `auto` probe again, after the host's KVM was repaired without a restart.

    :raise CapabilityError: what is stored cannot be removed.
    """
    try:
        _file(state_dir).unlink(missing_ok=True)
    except OSError as error:
        raise CapabilityError("cannot forget the verdict on KVM", error.filename, error.strerror or error) from error


def note_refusal(emulator: str, state_dir: Path, device: Path, why: str) -> None:
    """Remember that QEMU refused KVM for a launch, whatever a probe guest has shown: `auto` then means TCG."""
    with contextlib.suppress(OSError, CapabilityError):
        _write(_file(state_dir), _key(emulator, device), ProbeResult(booted=False, reason=f"QEMU refused KVM: {why}"))


def _file(state_dir: Path) -> Path:
    return state_dir / "kvm-verdict.json"


def _key(emulator: str, device: Path) -> _Key:
    try:
        program = Path(emulator).stat()
    except OSError as error:
        raise CapabilityError("cannot run QEMU", emulator, error.strerror or error) from error
    try:
        node = device.stat()
    except OSError as error:
        raise CapabilityError("cannot use KVM", device, error.strerror or error) from error
    return _Key(
        boot_id=BOOT_ID.read_text().strip(),
        device=(node.st_dev, node.st_ino, node.st_rdev, node.st_ctime_ns),
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
            taken = stack.enter_context(locks.locked_file(state_dir / "kvm-verdict.lock", seconds=deadline_s))
        except OSError:
            taken = True  # nowhere to store a verdict either
        yield taken
