"""Firmware for a guest, chosen by QEMU's firmware descriptors (docs/interop/firmware.json in QEMU).

Reads the descriptors in the precedence that the specification gives, and picks the first UEFI build in pflash
that a throw-away appliance can start from. A build with Secure Boot, which an appliance has no use for, is taken from
the packages' directory only where there is no other; one that a user or an administrator has put first is taken.
Says why each other candidate was passed over, whatever is in it: a descriptor is somebody else's file.

Making the NVRAM copy is `nvram`'s business.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import FirmwareError
from orchestrator.values import dataclass

# What every libvirt can hand to QEMU as pflash (`hypervisor.pflash.flash_formats`).
RAW_ONLY = ("raw",)
# Descriptors are about a kilobyte long; what is longer is none.
_LONGEST_BYTES = 256 << 10
_LONGEST_REASON = 200

_SECURE_BOOT = "secure-boot"

# Features that make a build unsuitable, and why.
_UNSUITABLE = {
    "requires-smm": "it requires SMM, which the profiles do not switch on",
    "enrolled-keys": "it has keys enrolled and enforces Secure Boot, for which an appliance's kernel is not signed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A descriptor that was not chosen, and why."""

    descriptor: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """A UEFI build: its code, the template of its variable store, and how it was found."""

    code: str
    code_format: str
    nvram_template: str
    nvram_format: str
    description: str
    descriptor: Path
    skipped: tuple[Skipped, ...] = ()


class _UnsuitableError(Exception):
    """The descriptor at hand does not fit; the text says why."""


def descriptor_dirs(environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Return the descriptor directories, most important first: the user's, the administrator's, the packages'."""
    environ = os.environ if environ is None else environ
    config_home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or "/nonexistent") / ".config")
    return (
        Path(config_home) / "qemu/firmware",
        Path("/etc/qemu/firmware"),
        Path("/usr/share/qemu/firmware"),
    )


def descriptor_files(dirs: Iterable[Path]) -> list[Path]:
    """Return the descriptors to consider, in order.

    Sorted by file name over all directories; a file masks those of the same name in less important directories, and
    an empty one only masks.
    """
    by_name: dict[str, Path] = {}
    for directory in dirs:
        try:
            found = [p for p in directory.iterdir() if p.suffix == ".json" and p.is_file()]
        except OSError:
            continue  # a directory that is not there, or not ours to read, holds no descriptors for us
        for path in found:
            by_name.setdefault(path.name, path)
    return [by_name[name] for name in sorted(by_name) if not _only_masks(by_name[name])]


def _only_masks(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False  # it has gone since: reading it says so


def find_firmware(
    arch: str,
    machine: str,
    dirs: Sequence[Path] | None = None,
    *,
    formats: Sequence[str] = RAW_ONLY,
) -> Firmware:
    """Return the UEFI firmware to start (arch, machine) with.

    :param arch: guest architecture in QEMU's spelling, for example "aarch64".
    :param machine: machine type or alias, for example "virt", "q35" or "pc-q35-7.2".
    :param dirs: descriptor directories, most important first, the packages' last; None for the specified ones.
    :param formats: image formats that the caller's libvirt can hand to QEMU as pflash.
    :raise FirmwareError: no descriptor fits; the message names each candidate for the arch and its reason.
    """
    dirs = descriptor_dirs() if dirs is None else dirs
    skipped: list[Skipped] = []
    secure: Firmware | None = None
    for path in descriptor_files(dirs):
        try:
            found, features = _accept(path, arch, machine, formats)
        except _UnsuitableError as e:
            skipped.append(Skipped(descriptor=path, reason=_short(str(e))))
            continue
        if _SECURE_BOOT not in features or path.parent != dirs[-1]:
            return replace(found, skipped=tuple(skipped))
        secure = secure or found
        skipped.append(Skipped(descriptor=path, reason="it has Secure Boot, which nobody asked for"))
    if secure is not None:
        return replace(secure, skipped=tuple(s for s in skipped if s.descriptor != secure.descriptor))
    from orchestrator.distributions import UEFI, hint  # here: no launch that works needs it

    how = hint(UEFI[arch]) if arch in UEFI else "install UEFI firmware for it"
    searched = ", ".join(str(directory) for directory in dirs)
    reasons = "; ".join(f"{s.descriptor.name}: {s.reason}" for s in skipped if s.reason != _other_arch(arch))
    raise FirmwareError(f"no firmware descriptor for {arch}", f"machine {machine}", reasons or searched, how)


def firmware_with_code(
    code: str, arch: str, machine: str, dirs: Sequence[Path] | None = None, *, formats: Sequence[str] = RAW_ONLY
) -> Firmware | None:
    """Return the firmware for (arch, machine) whose code is that file, None when no descriptor says so."""
    for path in descriptor_files(descriptor_dirs() if dirs is None else dirs):
        with contextlib.suppress(_UnsuitableError):
            found, _ = _accept(path, arch, machine, formats)
            if os.path.realpath(found.code) == os.path.realpath(code):
                return found
    return None


def _other_arch(arch: str) -> str:
    """Return the reason for a descriptor that has nothing to do with arch."""
    return f"not for {arch}"


def _short(reason: str) -> str:
    """Return a reason short enough for a message: it may quote the descriptor."""
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"


def _read(path: Path) -> object:
    """Return a descriptor's content, or raise _UnsuitableError."""
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_BYTES + 1)
        if len(text) > _LONGEST_BYTES:
            raise _UnsuitableError(f"cannot be read: it has over {_LONGEST_BYTES >> 10} KiB")
        return json.loads(text.decode("utf-8"))
    except RecursionError as e:
        raise _UnsuitableError("cannot be read: its brackets are nested too deeply") from e
    except (OSError, ValueError) as e:
        raise _UnsuitableError(f"cannot be read: {e}") from e


def _accept(path: Path, arch: str, machine: str, formats: Sequence[str]) -> tuple[Firmware, frozenset[str]]:
    """Return the firmware that path describes and its features, or raise _UnsuitableError."""
    document = _read(path)
    if not isinstance(document, dict):
        raise _UnsuitableError(f"not a valid firmware descriptor: a {type(document).__name__}, not an object")
    try:
        _check_target(document["targets"], arch, machine)
        if "uefi" not in document["interface-types"]:
            raise _UnsuitableError("not UEFI")
        features = frozenset(map(str, document["features"]))
        for feature, reason in _UNSUITABLE.items():
            if feature in features:
                raise _UnsuitableError(reason)
        mapping = document["mapping"]
        if mapping["device"] != "flash":
            raise _UnsuitableError(f"mapped as {mapping['device']}, not as flash")
        # Descriptors older than QEMU 7.0 have no mode: it was always what is called split now.
        if mapping.get("mode", "split") != "split":
            raise _UnsuitableError(f"flash mode {mapping['mode']}, not split")
        code, code_format = _image(mapping["executable"], "code", formats)
        template, nvram_format = _image(mapping["nvram-template"], "NVRAM template", formats)
        description = str(document.get("description", ""))
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as e:
        raise _UnsuitableError(f"not a valid firmware descriptor: {type(e).__name__} {e}") from e
    firmware = Firmware(
        code=code,
        code_format=code_format,
        nvram_template=template,
        nvram_format=nvram_format,
        description=description,
        descriptor=path,
    )
    return firmware, features


def _check_target(targets: object, arch: str, machine: str) -> None:
    """Raise _UnsuitableError unless one of targets is (arch, machine)."""
    if not isinstance(targets, list):
        raise TypeError("targets is not a list")
    globs = [str(glob) for target in targets if target["architecture"] == arch for glob in target["machines"]]
    if not globs:
        raise _UnsuitableError(_other_arch(arch))
    if not any(fnmatch.fnmatchcase(name, glob) for name in _versioned_names(machine) for glob in globs):
        raise _UnsuitableError(f"not for machine {machine}, only {', '.join(globs)}")


def _versioned_names(machine: str) -> tuple[str, ...]:
    """Return the names under which descriptors may know machine.

    They match versioned machine types (`virt-7.2`, `pc-q35-7.2`); QEMU's aliases name the newest of those.
    """
    aliases = {"virt": "virt-0.0", "q35": "pc-q35-0.0", "pc": "pc-i440fx-0.0"}
    return (machine, aliases[machine]) if machine in aliases else (machine,)


def _image(entry: Mapping[str, object], what: str, formats: Sequence[str]) -> tuple[str, str]:
    """Return (path, format) of a mapping's file, which must exist and be readable."""
    filename, image_format = entry["filename"], entry["format"]
    if not isinstance(filename, str) or not isinstance(image_format, str):
        raise TypeError(f"{what}: filename and format must be strings")
    if image_format not in formats:
        raise _UnsuitableError(f"{what} format {image_format}, not {' or '.join(formats)}")
    if not Path(filename).is_file():
        raise _UnsuitableError(f"{what} {filename} does not exist")
    if not os.access(filename, os.R_OK):
        raise _UnsuitableError(f"{what} {filename} is not readable")
    return filename, image_format
