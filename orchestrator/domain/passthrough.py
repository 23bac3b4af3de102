"""Disks that libvirt has no words for, as QEMU's options for them: on its command line, or for its monitor.

Which these are, their secrets, their drives and devices. A disk that libvirt can describe is in `devices`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from orchestrator.domain.layout import DiskPlace, PciAddress, describe
from orchestrator.domain.model import Disk, DiskBus, FileSource, Handed, NetworkSource, VolumeSource
from orchestrator.errors import DiskError

# Serials that libvirt hands on as they are. It puts a backslash before a space, which QEMU then takes literally.
_PLAIN_SERIAL = re.compile(r"[\w.+-]*", re.ASCII)


def native(disk: Disk) -> bool:
    """Whether libvirt may describe disk; otherwise it is handed to QEMU as libguestfs would.

    libvirt cannot leave the format to QEMU's probing, open a backing file without locks (`locking=off`), or use QEMU's
    network drivers option by option; it follows headers by itself; and it refuses a chain that leaves a format unsaid,
    where QEMU probes. That the tool gets exactly what it asked for comes first (2026-11-22).
    """
    if isinstance(disk.source, VolumeSource):
        return True  # nobody else knows it
    if isinstance(disk.source, NetworkSource) or disk.shared_read or disk.format is None or disk.graph is not None:
        return False
    if _PLAIN_SERIAL.fullmatch(disk.serial or "") is None:
        return False
    return disk.format == "raw" or disk.described


def secret_id(index: int, option: str) -> str:
    """Return the id of the QEMU secret object for one secret option of disk number index."""
    return f"secret{index}-{option}"


def secrets_of(disks: Iterable[Disk]) -> tuple[tuple[str, str], ...]:
    """Return (secret object id, secret text) for every secret of disks.

    Whoever launches writes each text to a private file and names it in `Domain.secret_paths`.
    """
    return tuple(
        (secret_id(i, option), text)
        for i, disk in enumerate(disks)
        if isinstance(disk.source, NetworkSource)
        for option, text in disk.source.secrets
    )


def secret_objects(disk: Disk, index: int, paths: Mapping[str, str]) -> list[tuple[tuple[str, str], ...]]:
    """Return the secret objects that disk number index refers to, as options; the secrets stay in their files.

    :raise DiskError: a secret has no file among `paths` (by object id).
    """
    objects: list[tuple[tuple[str, str], ...]] = []
    if isinstance(disk.source, NetworkSource):
        for option, _ in disk.source.secrets:
            name = secret_id(index, option)
            if name not in paths:
                raise DiskError("cannot attach disk", describe(disk, index), f"its {option} was not stored")
            options = [("qom-type", "secret"), ("id", name), ("file", paths[name])]
            if disk.source.driver == "rbd":
                options.append(("format", "base64"))  # Ceph's keys are, and QEMU wants the key itself
            objects.append(tuple(options))
    return objects


def join_options(pairs: Iterable[tuple[str, str | None]]) -> str:
    """Return QEMU's `key=value,…` spelling of pairs, a lone first word having the value None.

    A comma inside a value is doubled, QEMU's only escape.
    """
    return ",".join(key if value is None else f"{key}={value.replace(',', ',,')}" for key, value in pairs)


def drive_id(index: int) -> str:
    """Return the id of the drive of passed-through disk number index; its device is `disk<index>`."""
    return f"drive{index}"


def drive_option(disk: Disk, index: int, handed: tuple[Handed, ...] = (), *, at_once: bool = False) -> str:
    """Return the value of QEMU's `-drive` (and of the monitor's `drive_add`) for disk number index.

    Without a format QEMU probes, with its protection of block 0 of probed raw images; that is libguestfs's meaning of
    "no format given". With `shared_read` the backing file is opened without locks.

    :param handed: the disk's files, its own first, where QEMU was given them and may open none.
    :param at_once: a file that is written to is opened for that at once; else QEMU opens it anew when a device writes.
    """
    pairs = [("id", drive_id(index)), ("if", "none"), *_image_options(disk, index, handed)]
    if (handed or at_once) and not disk.readonly:
        pairs.append(("file.auto-read-only", "off"))
    switches = (("read-only", disk.readonly), ("copy-on-read", disk.copy_on_read))
    pairs += [(key, "on") for key, wanted in switches if wanted]
    if disk.cache is not None:
        pairs.append(("cache", disk.cache))
    if disk.discard:
        pairs.append(("discard", "unmap"))
    return join_options(pairs)


def _image_options(disk: Disk, index: int, handed: tuple[Handed, ...]) -> list[tuple[str, str]]:
    """Return the options of the image's format, and of what is below it."""
    if disk.graph is not None:
        # What is said beside a graph goes before what it says itself.
        return [("file", f"json:{disk.graph}"), *_handed_options(handed)]
    pairs = _handed_options(handed) if handed else [*_source_options(disk, index)]
    if disk.format is not None:
        pairs.append(("format", disk.format))
    pairs += disk.options
    if disk.shared_read:
        pairs.append(("backing.file.locking", "off"))
    return pairs


def _source_options(disk: Disk, index: int) -> list[tuple[str, str]]:
    """Return the options of the protocol layer: where the image's bytes are."""
    source = disk.source
    if isinstance(source, FileSource):
        # Named by driver and not as file=PATH: a path may hold a colon, which would be read as a protocol.
        driver = "host_device" if source.block_device else "file"
        return [("file.driver", driver), ("file.filename", source.path)]
    assert isinstance(source, NetworkSource)  # libvirt describes volumes
    options = [("driver", source.driver), *source.options]
    options += [(option, secret_id(index, option)) for option, _ in source.secrets]
    return [(f"file.{key}", value) for key, value in options]


def _handed_options(handed: tuple[Handed, ...]) -> list[tuple[str, str]]:
    """Return the options of the protocol layers of a backing chain. The formats are those that the images record."""
    options = []
    for depth, file in enumerate(handed):
        prefix = "backing." * depth + "file"
        driver = "host_device" if file.block_device else "file"
        options += [(f"{prefix}.driver", driver), (f"{prefix}.filename", file.name)]
    return options


def device_properties(disk: Disk, index: int, place: DiskPlace) -> dict[str, object]:
    """Return the properties, typed, for QEMU's `-device` (and the monitor's `device_add`) for disk number index.

    :raise DiskError: the disk still asks for throw-away writes, which is its overlay's job.
    """
    if disk.snapshot:
        raise snapshot_error(disk, index)
    properties: dict[str, object]
    if place.pci is not None:
        properties = {"driver": "virtio-blk-pci-non-transitional", **pci_properties(place.pci)}
    elif place.bus is DiskBus.SATA:
        properties = {"driver": "ide-hd", "bus": f"sata{place.controller}.{place.unit}"}
    else:
        properties = {"driver": "scsi-hd", **scsi_properties(place)}
    properties |= {"id": f"disk{index}", "drive": drive_id(index)}
    more = {
        "serial": disk.serial,
        "logical_block_size": disk.logical_block_size,
        "physical_block_size": disk.physical_block_size,
    }
    return properties | {key: value for key, value in more.items() if value is not None}


def scsi_properties(place: DiskPlace) -> dict[str, object]:
    """Return the properties that make a device a target of a SCSI controller."""
    return {"bus": f"scsi{place.controller}.0", "channel": 0, "scsi-id": place.unit, "lun": 0}


def snapshot_error(disk: Disk, index: int) -> DiskError:
    """Return the error for a disk whose throw-away overlay was not made before the XML is."""
    return DiskError("cannot describe disk", describe(disk, index), "its throw-away overlay was not made")


def pci_properties(pci: PciAddress) -> dict[str, object]:
    """Return the properties that put a device at a place on the root bus."""
    place: dict[str, object] = {"bus": "pcie.0", "addr": f"{pci.slot:#x}.{pci.function:#x}"}
    return place | {"multifunction": True} if pci.multifunction else place
