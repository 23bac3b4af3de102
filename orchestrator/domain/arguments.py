"""What libvirt has no words for, as QEMU arguments: the only module that fills `qemu:commandline`.

fw_cfg's DMA switch and trace, QEMU's own rights, a template's memory and state, the network that libguestfs asks for,
disks that QEMU itself must open (`passthrough`), and the user's own arguments. What libvirt can say is in `xml` and
`devices`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from orchestrator.domain.layout import (
    NETWORK_SLOT,
    PANIC_SLOT,
    TARGETS_PER_SCSI,
    DiskPlace,
    Layout,
    PciAddress,
    lay_out_beside,
)
from orchestrator.domain.model import Arch, DiskBus, Domain, Loader, Network, Privileges, Rom
from orchestrator.domain.passthrough import (
    device_properties,
    drive_option,
    join_options,
    native,
    pci_properties,
    scsi_properties,
    secret_objects,
)

# QEMU's class of the fw_cfg device, whose property is the DMA switch.
FW_CFG_DRIVER = {Arch.AARCH64: "fw_cfg_mem", Arch.X86_64: "fw_cfg_io"}

# QEMU's hw/arm/virt.c: where the guest sees the flash of the variables.
_SECOND_FLASH = 64 << 20

# The id of the disk that stands at the first disk's place in a template (2026-11-25): a disk that is plugged in makes
# eleven events for udev and a scan, looking again at one that is known makes two.
SLOT = "slot"

# Cache modes that a device tells its guest of: it has no write cache then.
WITHOUT_WRITE_CACHE = frozenset({"writethrough", "directsync"})

# QEMU's trace events that date a launch: the fw_cfg transfer, which files it is of, guestfsd's port and launch flag.
# Some 80 lines a boot.
TRACE_EVENTS = (
    "fw_cfg_add_file",
    "fw_cfg_select",
    "virtio_serial_handle_control_message",
    "virtio_serial_handle_control_message_port",
    "virtio_console_flush_buf",
)


def qemu_arguments(domain: Domain, layout: Layout) -> list[str]:
    """Return the arguments to add to QEMU's command line, in order.

    :raise DiskError: a network disk's secret has no file in `domain.secret_paths`.
    """
    state = "on" if domain.fw_cfg_dma else "off"
    arguments = ["-global", f"{FW_CFG_DRIVER[domain.profile.arch]}.dma_enabled={state}"]
    if domain.interface is not None and domain.kernel is None and domain.fw_cfg_dma:
        arguments = []  # QEMU's default, of a domain that libvirt can describe whole
    if domain.trace_path is not None:
        for event in TRACE_EVENTS:
            arguments += ["-trace", f"enable={event}"]
        arguments += ["-D", domain.trace_path]
    if domain.privileges is not None:
        arguments += privilege_arguments(domain.privileges)
    arguments += _memory_arguments(domain) + _incoming_arguments(domain)
    if domain.slot:
        arguments += _slot_arguments()
    arguments += _later_arguments(domain) + _told_arguments(domain)
    arguments += _rom_arguments(domain.rom)
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


def _told_arguments(domain: Domain) -> list[str]:
    """Return the arguments for what the guest is told, and can tell, beyond what every guest of ours has.

    libvirt has words for fw_cfg files and OEM strings. It leaves commas in the former as they are (9.0), so that a
    value could name further options; and it puts the latter on the command line, where everybody can read them, though
    they may be credentials. Of panic devices it knows the one on PCI since 9.1.
    """
    arguments = []
    for file in domain.fw_cfg_files:
        arguments += ["-fw_cfg", join_options([("name", file.name), ("file", file.path)])]
    for path in domain.oem_strings:
        arguments += ["-smbios", join_options([("type", "11"), ("path", path)])]
    if domain.panic_device:
        place = pci_properties(PciAddress(slot=PANIC_SLOT))
        arguments += _device_arguments({"driver": "pvpanic-pci", "id": "panic0"} | place)
    return arguments


def _slot_arguments() -> list[str]:
    """Return the arguments for a disk of zeros, backed by nothing, in the first disk's place.

    The guest gets no events for disks that are plugged in: its gate looks for them itself, in order.
    """
    drive = f"id={SLOT},if=none,driver=null-co,size=1M,read-zeroes=on"
    properties = {"driver": "scsi-hd", **scsi_properties(DiskPlace(bus=DiskBus.SCSI)), "id": SLOT, "drive": SLOT}
    return ["-global", "virtio-scsi-device.hotplug=off", "-drive", drive, *_device_arguments(properties)]


def _later_arguments(domain: Domain) -> list[str]:
    """Return the arguments for devices on the PCI bus behind which a clone's disks are put once it runs.

    A device there can only be added when QEMU starts, and the guest sees it when it is told to look. A disk that was
    behind it at once would not be locked (`orchestrator.launch.clone.restore`).
    """
    layout, arguments = lay_out_beside(domain.later, domain.profile.arch), []
    for controller in layout.controllers[1:]:
        device = {"driver": "virtio-scsi-pci-non-transitional", "id": f"scsi{controller.index}"}
        arguments += _device_arguments(device | pci_properties(controller.pci))
    for i, (disk, place) in enumerate(zip(domain.later, layout.places, strict=True)):
        if place.pci is not None:
            empty = [("id", f"later{i}"), ("if", "none"), ("driver", "null-co"), ("size", "1M"), ("read-zeroes", "on")]
            empty += [("read-only", "on")] if disk.readonly else []
            empty += [("cache", disk.cache)] if disk.cache in WITHOUT_WRITE_CACHE else []
            properties = device_properties(disk, i, place) | {"drive": f"later{i}"}
            arguments += ["-drive", join_options(empty), *_device_arguments(properties)]
    return arguments


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


def _rom_arguments(rom: Rom | None) -> list[str]:
    """Return the arguments for UEFI firmware that QEMU copies into the flash of its Arm machine.

    A flash with a file behind it is read whole, 64 MiB each (QEMU 7.2), which is most of what QEMU's start takes on an
    idle host (2026-11-27). libvirt would allow no ACPI without one.
    """
    if rom is None:
        return []
    variables = {"driver": "loader", "file": rom.variables, "addr": _SECOND_FLASH, "force-raw": True}
    return ["-bios", rom.code, "-machine", "acpi=on", *_device_arguments(variables)]


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
    place = pci_properties(PciAddress(slot=NETWORK_SLOT))
    return ["-netdev", join_options(netdev), *_device_arguments(device | place)]


def _device_arguments(properties: Mapping[str, object]) -> list[str]:
    """Return `-device` in its JSON form.

    QEMU creates devices given in JSON, as libvirt gives its own, after all others: a device in the old form would
    not find libvirt's controllers.
    """
    return ["-device", json.dumps(properties, ensure_ascii=False)]
