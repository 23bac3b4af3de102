"""What libvirt has no words for, as QEMU arguments: the only module that fills `qemu:commandline`.

fw_cfg's DMA switch and trace, disks that QEMU itself must open, the network that libguestfs asks for, and the
user's own arguments. What libvirt can say is in `xml` and `devices`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from orchestrator.domain.layout import NETWORK_SLOT, TARGETS_PER_SCSI, DiskPlace, Layout, PciAddress, describe
from orchestrator.domain.model import (
    Arch,
    Disk,
    DiskBus,
    Domain,
    FileSource,
    Handed,
    Loader,
    Network,
    NetworkSource,
    Privileges,
)
from orchestrator.errors import DiskError

# QEMU's class of the fw_cfg device, whose property is the DMA switch.
FW_CFG_DRIVER = {Arch.AARCH64: "fw_cfg_mem", Arch.X86_64: "fw_cfg_io"}

# The id of the disk that stands at the first disk's place in a template (2026-11-25): a disk that is plugged in makes
# eleven events for udev and a scan, looking again at one that is known makes two.
SLOT = "slot"

# QEMU's trace events that date a launch: the fw_cfg transfer, which files it is of, guestfsd's port and launch flag.
# Some 80 lines a boot.
TRACE_EVENTS = (
    "fw_cfg_add_file",
    "fw_cfg_select",
    "virtio_serial_handle_control_message",
    "virtio_serial_handle_control_message_port",
    "virtio_console_flush_buf",
)


# Serials that libvirt hands on as they are. It puts a backslash before a space, which QEMU then takes literally.
_PLAIN_SERIAL = re.compile(r"[\w.+-]*", re.ASCII)


def native(disk: Disk) -> bool:
    """Whether libvirt may describe disk; otherwise it is handed to QEMU as libguestfs would.

    libvirt cannot leave the format to QEMU's probing, open a backing file without locks (`locking=off`), or use QEMU's
    network drivers option by option; it follows headers by itself; and it refuses a chain that leaves a format unsaid,
    where QEMU probes. That the tool gets exactly what it asked for comes first (2026-11-22).
    """
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


def qemu_arguments(domain: Domain, layout: Layout) -> list[str]:
    """Return the arguments to add to QEMU's command line, in order.

    :raise DiskError: a network disk's secret has no file in `domain.secret_paths`.
    """
    state = "on" if domain.fw_cfg_dma else "off"
    arguments = ["-global", f"{FW_CFG_DRIVER[domain.profile.arch]}.dma_enabled={state}"]
    if domain.trace_path is not None:
        for event in TRACE_EVENTS:
            arguments += ["-trace", f"enable={event}"]
        arguments += ["-D", domain.trace_path]
    if domain.privileges is not None:
        arguments += privilege_arguments(domain.privileges)
    arguments += _memory_arguments(domain) + _incoming_arguments(domain)
    if domain.slot:
        arguments += _slot_arguments()
    if domain.network is not None:
        arguments += _network_arguments(domain.network)
    paths = dict(domain.secret_paths)
    # Where disks will be plugged in later, leave their names free.
    first = TARGETS_PER_SCSI if domain.slot else 0
    for i, (disk, place) in enumerate(zip(domain.disks, layout.places, strict=True), start=first):
        if not native(disk):
            for options in secret_objects(disk, i, paths):
                arguments += ["-object", join_options([(options[0][1], None), *options[1:]])]
            drive = drive_option(disk, i, at_once=domain.incoming is not None)
            arguments += ["-drive", drive, *_device_arguments(device_properties(disk, i, place))]
    return [*arguments, *domain.extra_args]


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
        return [("file", f"json:{disk.graph}")]
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
        properties = {"driver": "virtio-blk-pci-non-transitional", **_pci_properties(place.pci)}
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


def _pci_properties(pci: PciAddress) -> dict[str, object]:
    """Return the properties that put a device at a place on the root bus."""
    place: dict[str, object] = {"bus": "pcie.0", "addr": f"{pci.slot:#x}.{pci.function:#x}"}
    return place | {"multifunction": True} if pci.multifunction else place


def _device_arguments(properties: Mapping[str, object]) -> list[str]:
    """Return `-device` in its JSON form.

    QEMU creates devices given in JSON, as libvirt gives its own, after all others: a device in the old form would
    not find libvirt's controllers.
    """
    return ["-device", json.dumps(properties, ensure_ascii=False)]


def privilege_arguments(privileges: Privileges) -> list[str]:
    """Return the arguments that take rights from QEMU.

    The filters are libvirt's own; but a QEMU that is to become another user must be able to do so, once. Afterwards it
    has no capability that any of these system calls would need.
    """
    arguments = []
    if privileges.sandbox:
        elevate = "deny" if privileges.user is None else "allow"
        filters = f"on,obsolete=deny,elevateprivileges={elevate},spawn=deny,resourcecontrol=deny"
        arguments += ["-sandbox", filters]
    if privileges.user is not None:
        user = f"{privileges.user}:{privileges.user}"
        arguments += [privileges.option, user if privileges.option == "-runas" else f"user={user}"]
    return arguments


def _memory_arguments(domain: Domain) -> list[str]:
    """Return the arguments that put the guest's memory into a file.

    libvirt's memoryBacking element would choose the file by itself (2026-11-24). What it says of memory stays on the
    command line; QEMU merges the options of both `-machine`, and the memory object that is not used costs nothing.
    """
    if domain.ram is None:
        return []
    share = "off" if domain.ram.private else "on"
    backend: list[tuple[str, str | None]] = [
        ("memory-backend-file", None),
        ("id", "ram"),
        ("mem-path", domain.ram.path),
    ]
    backend += [("size", f"{domain.memory_mib}M"), ("share", share)]
    return ["-object", join_options(backend), "-machine", "memory-backend=ram"]


def _slot_arguments() -> list[str]:
    """Return the arguments for a disk of zeros, backed by nothing, in the first disk's place.

    The guest gets no events for disks that are plugged in: its gate looks for them itself, in order.
    """
    drive = f"id={SLOT},if=none,driver=null-co,size=1M,read-zeroes=on"
    properties = {"driver": "scsi-hd", **scsi_properties(DiskPlace(bus=DiskBus.SCSI)), "id": SLOT, "drive": SLOT}
    return ["-global", "virtio-scsi-device.hotplug=off", "-drive", drive, *_device_arguments(properties)]


def _incoming_arguments(domain: Domain) -> list[str]:
    """Return the arguments for a domain whose state is loaded from elsewhere, over the monitor."""
    incoming = domain.incoming
    if incoming is None:
        return []
    arguments = ["-incoming", "defer"]
    if incoming.firmware is not None:
        # QEMU's Arm machine has ACPI's devices only with firmware; libvirt has ACPI only with flash. Flash is 128 MiB
        # of memory a guest, and its contents come with the state.
        arguments += ["-bios", incoming.firmware, "-machine", "acpi=on"]
    if incoming.flash is not None:
        arguments += _flash_arguments(incoming.flash)
    for rom in incoming.option_roms:
        arguments += ["-option-rom", rom]
    return arguments


def _flash_arguments(flash: Loader) -> list[str]:
    """Return the arguments for UEFI flash, as drives of QEMU's own (2026-11-26).

    libvirt's are opened anew when the state is loaded, which a QEMU without privileges cannot do.
    """
    files = [(flash.code, flash.code_format, ("readonly", "on"))]
    if flash.nvram is not None:
        files.append((flash.nvram, flash.nvram_format, ("file.auto-read-only", "off")))
    arguments = []
    for unit, (path, image_format, mode) in enumerate(files):
        pairs = [("if", "pflash"), ("unit", str(unit)), ("format", image_format), mode]
        arguments += ["-drive", join_options([*pairs, ("file.driver", "file"), ("file.filename", path)])]
    return arguments


def _network_arguments(network: Network) -> list[str]:
    """Return the arguments for the guest's one network interface.

    Not libvirt's interface element: it cannot say an unset net (QEMU's default) next to passt's stream socket, and it
    would roll a new MAC address for each launch.
    """
    netdev: list[tuple[str, str | None]]
    if network.stream_path is not None:
        netdev = [("stream", None), ("id", "net0"), ("server", "off")]
        netdev += [("addr.type", "unix"), ("addr.path", network.stream_path)]
    else:
        netdev = [("user", None), ("id", "net0")]
        netdev += [("net", network.net)] if network.net is not None else []
    # No option ROM: the firmware would load and start a network boot loader that nobody asked for.
    device = {"driver": "virtio-net-pci-non-transitional", "id": "nic0", "netdev": "net0", "romfile": ""}
    place = _pci_properties(PciAddress(slot=NETWORK_SLOT))
    return ["-netdev", join_options(netdev), *_device_arguments(device | place)]
