"""libguestfs's `-drive` options and the `-device` options that attach them, turned into disks.

Three shapes exist: a plain `file=`, a read-only drive's qcow2 overlay by `file.file.filename=`, and pflash firmware.
A drive with `if=none` becomes a disk where its `-device` stands; with another `if=`, where it stands itself.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.domain.model import Disk, DiskBus
from orchestrator.errors import TranslationError
from orchestrator.values import dataclass
from orchestrator.wrapper import quoting, sources

Pairs = dict[str, str | None]

# `if=` of libguestfs up to 1.48 (`iface`), and the bus it gets. An IDE disk becomes a SATA one: neither `virt` nor
# `q35` has IDE, and the guest sees /dev/sdX on both.
_INTERFACES = {"scsi": DiskBus.SCSI, "virtio": DiskBus.VIRTIO, "ide": DiskBus.SATA}
_CACHE_MODES = frozenset({"writeback", "unsafe", "none", "writethrough", "directsync"})
_OVERLAY = frozenset({"file.file.filename", "file.driver", "file.backing.file.locking"})
_DRIVE_KEYS = _OVERLAY | {"file", "snapshot", "cache", "format", "copy-on-read", "discard", "id", "if"}
_PFLASH_KEYS = frozenset({"if", "format", "file", "readonly"})
_DEVICE_KEYS = frozenset({"drive", "serial", "physical_block_size", "logical_block_size"})
_FIXED = {
    "snapshot": "on",
    "copy-on-read": "on",
    "discard": "unmap",
    "file.driver": "qcow2",
    "file.backing.file.locking": "off",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """One `-drive`: its id, its options, and the disk it becomes on a bus of its own (None for `if=none`)."""

    id: str
    options: tuple[tuple[str, str | None], ...]
    bus: DiskBus | None

    @property
    def subject(self) -> str:
        """How an error names the drive: without its value, which may hold a password."""
        return f"-drive …,id={self.id}"


def refused(subject: str, why: str) -> TranslationError:
    """Return the error for an argument that cannot be translated."""
    return TranslationError("cannot translate the QEMU argument", subject, why)


def distinct(value: str, subject: str, known: frozenset[str]) -> Pairs:
    """Return an option list as a dictionary.

    :raise TranslationError: a key is not known, or is given twice.
    """
    pairs = quoting.pairs(value)
    options = dict(pairs)
    for key in options:
        if key not in known:
            raise refused(subject, f"unknown option '{key}'")
    if len(options) != len(pairs):
        raise refused(subject, "an option is given twice")
    return options


def drive(value: str) -> Drive:
    """Return the drive that the value of a `-drive` (other than pflash) describes.

    :raise TranslationError: it has no id, an unknown option or interface, or an option with an unexpected value.
    """
    raw = dict(quoting.pairs(value))
    subject = f"-drive …,id={raw.get('id')}"
    options = distinct(value, subject, _DRIVE_KEYS)
    if not options.get("id"):
        raise refused("-drive", "a drive without an id")
    for key, text in options.items():
        expected = _FIXED.get(key)
        if text is None or (expected is not None and text != expected):
            raise refused(subject, f"unexpected value '{text}' of '{key}'")
    if options.get("cache", "writeback") not in _CACHE_MODES:
        raise refused(subject, f"unknown cache mode '{options['cache']}'")
    if ("file" in options) == ("file.file.filename" in options):
        raise refused(subject, "needs file= or file.file.filename=, and not both")
    interface = options.get("if", "none")
    if interface != "none" and interface not in _INTERFACES:
        raise refused(subject, f"unknown interface '{interface}'")
    bus = None if interface == "none" else _INTERFACES[str(interface)]
    return Drive(id=str(options["id"]), options=tuple(options.items()), bus=bus)


def is_pflash(value: str) -> bool:
    """Return whether the value of a `-drive` describes firmware."""
    return ("if", "pflash") in quoting.pairs(value)


def pflash(values: list[str]) -> tuple[str, str] | None:
    """Return (code, variables) named by the pflash drives, in that order; None if there are none.

    :raise TranslationError: an unknown option, a format that is not raw, or other than one of each.
    """
    code: list[str] = []
    variables: list[str] = []
    for value in values:
        options = distinct(value, "-drive if=pflash", _PFLASH_KEYS)
        path = options.get("file")
        if options.get("format") != "raw" or not path:
            raise refused("-drive if=pflash", "needs file= and format=raw")
        (code if "readonly" in options else variables).append(path)
    if not values:
        return None
    if (len(code), len(variables)) != (1, 1):
        raise refused("-drive if=pflash", "needs one code (readonly) and one variable store")
    return code[0], variables[0]


def device_options(value: str, driver: str) -> Pairs:
    """Return the options of a disk's `-device`, the driver's name left out."""
    rest = value.partition(",")[2]
    options = distinct(rest, f"-device {value}", _DEVICE_KEYS)
    if any(text is None for text in options.values()) or not options.get("drive"):
        raise refused(f"-device {value}", f"{driver} needs drive=, and a value for each option")
    return options


def disk(spec: Drive, bus: DiskBus, device: Pairs, cwd: str, is_block_device: Callable[[str], bool]) -> Disk:
    """Return the disk that spec becomes on bus, with the options of its device (empty if it has none).

    :raise TranslationError: its source or a block size cannot be translated.
    """
    options = dict(spec.options)
    overlay = options.get("file.file.filename")
    if overlay is None:
        source = sources.parse(str(options["file"]), cwd, is_block_device, spec.subject)
    else:
        source = sources.local(overlay, cwd, is_block_device)
    return Disk(
        source=source,
        # QEMU would probe the overlay's contents once more here; what libguestfs means is the overlay.
        format=options.get("file.driver", options.get("format")),
        bus=bus,
        snapshot="snapshot" in options,
        shared_read="file.backing.file.locking" in options,
        cache=options.get("cache"),
        serial=device.get("serial"),
        discard="discard" in options,
        copy_on_read="copy-on-read" in options,
        logical_block_size=_block_size(spec, device, "logical_block_size"),
        physical_block_size=_block_size(spec, device, "physical_block_size"),
    )


def _block_size(spec: Drive, device: Pairs, key: str) -> int | None:
    """Return a block size in bytes, None if not given."""
    text = device.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise refused(f"-device …,drive={spec.id}", f"'{key}' is no number of bytes: '{text}'")
    return int(text)
