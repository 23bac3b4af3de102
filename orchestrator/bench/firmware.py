"""The firmware of a benchmark's sides: which file it is, and how one side gets another build than the host's usual."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from orchestrator.domain.model import FirmwareKind, Profile
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.firmware.descriptors import descriptor_dirs, find_firmware
from orchestrator.hypervisor.emulator import find_emulator
from orchestrator.hypervisor.pflash import flash_formats

# QEMU's default BIOS of its PC machines (hw/i386/pc.c), in one of the directories that it names itself.
_SEABIOS = "bios-256k.bin"
# Sorts before every other: descriptors are looked at in the order of their names.
_FIRST = "00-guestlaunch-bench.json"
_ANSWER_S = 20


def firmware_file(profile: Profile, environ: Mapping[str, str]) -> str | None:
    """Return the file of the firmware that a launch uses; None for a profile without, or where it is not found.

    :raise FirmwareError: no descriptor fits a UEFI profile.
    :raise CapabilityError: QEMU, which knows where SeaBIOS is, does not answer.
    """
    if profile.firmware is FirmwareKind.UEFI:
        return find_firmware(profile.arch, profile.machine, descriptor_dirs(environ), formats=flash_formats()).code
    if profile.firmware is FirmwareKind.NONE:
        return None
    emulator = find_emulator(profile.arch)
    try:
        asked = [emulator, "-L", "help"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=_ANSWER_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CapabilityError("cannot run QEMU", emulator, error) from error
    candidates = (Path(line, _SEABIOS) for line in answer.splitlines())
    return next((os.fspath(path.resolve()) for path in candidates if path.exists()), None)


def with_firmware(descriptor: Path, folder: Path, profile: Profile, environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a launch takes the firmware that a descriptor names.

    A directory that differs in nothing but this descriptor stands in for the user's configuration directory. A running
    daemon would not know of it: the launch is served by the command itself.

    :param folder: where the directory is made; it is the caller's to remove.
    :raise UsageError: it is no descriptor, or not one of firmware that the profile can start with.
    """
    home = folder / "config"
    target = home / "qemu" / "firmware"
    target.mkdir(parents=True)
    usual = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/nonexistent") / ".config")
    _link_all(usual, home, but="qemu")
    _link_all(usual / "qemu", home / "qemu", but="firmware")
    _link_all(usual / "qemu" / "firmware", target, but=_FIRST)
    try:
        text = descriptor.read_text("utf-8")
        json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        hint = "name a firmware descriptor, such as those in /usr/share/qemu/firmware"
        raise UsageError("cannot use the firmware descriptor", descriptor, why, hint) from error
    (target / _FIRST).write_text(text, "utf-8")
    changed = {**environ, "XDG_CONFIG_HOME": os.fspath(home), "GUESTLAUNCH_RUNTIME_DIR": os.fspath(folder / "run")}
    found = find_firmware(profile.arch, profile.machine, descriptor_dirs(changed), formats=flash_formats())
    if found.descriptor.name != _FIRST:
        why = next((s.reason for s in found.skipped if s.descriptor.name == _FIRST), "it was passed over")
        raise UsageError("cannot use the firmware descriptor", descriptor, f"for profile {profile.name}: {why}")
    return changed


def _link_all(source: Path, target: Path, *, but: str) -> None:
    """Link everything in a directory into another one, except what has one name."""
    if source.is_dir():
        for entry in source.iterdir():
            if entry.name != but:
                (target / entry.name).symlink_to(entry.absolute())
