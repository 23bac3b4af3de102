"""The devices of a domain as libvirt XML elements: one pure function per element.

Elements libvirt has words for. What it lacks is in `arguments`, where things sit in `layout`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from orchestrator.domain.layout import (
    DISPLAY_SLOT,
    NETWORK_SLOT,
    RNG_SLOT,
    SERIAL_SLOT,
    SHARE_SLOT,
    USB_SLOT,
    Controller,
    DiskPlace,
    Layout,
    PciAddress,
)
from orchestrator.domain.model import (
    Arch,
    Backing,
    Channel,
    Disk,
    DiskBus,
    Domain,
    FileSource,
    Graphics,
    Interface,
    InterfaceKind,
    NetworkSource,
    Share,
    VolumeSource,
)
from orchestrator.domain.passthrough import native, snapshot_error
from orchestrator.errors import DiskError

# The first serial port of each arch's machines.
_SERIAL = {Arch.AARCH64: ("system-serial", "pl011"), Arch.X86_64: ("isa-serial", "isa-serial")}

# Modern virtio only: no legacy I/O window, so less for firmware and kernel to set up.
_VIRTIO = "virtio-non-transitional"
# Of QEMU's 31 virtio-serial ports each is two queues, which the guest sets up, and under KVM two of QEMU's descriptors:
# with more than 64 the kernel of its host makes it wait for all CPUs (2026-11-27).
_PORTS = 8
_USERS_PORTS = ("virtserialport", "virtconsole")


def devices_element(domain: Domain, layout: Layout) -> ET.Element:
    """Return `<devices>`."""
    devices = ET.Element("devices")
    if domain.emulator:
        ET.SubElement(devices, "emulator").text = domain.emulator
    for i, (disk, place) in enumerate(zip(domain.disks, layout.places, strict=True)):
        if native(disk):
            devices.append(disk_element(disk, i, place))
    for controller in layout.controllers:
        devices.append(controller_element(controller))
    devices.append(usb_element(of_use=domain.graphics is not None))
    devices.append(virtio_serial_element(_ports(domain)))
    if domain.share is not None:
        devices.append(share_element(domain.share))
    devices.extend(_joined_elements(domain))
    devices.append(memballoon_element())
    if domain.rng:
        devices.append(rng_element())
    return devices


def _joined_elements(domain: Domain) -> Iterator[ET.Element]:
    """Yield the devices that somebody is at the other end of: console, network, ports, display."""
    if domain.console_path is not None or domain.kept:
        yield serial_element(domain.console_path, domain.profile.arch)
    if domain.interface is not None:
        yield interface_element(domain.interface)
    for number, channel in enumerate(domain.channels, start=1):
        yield channel_element(channel, number)
    if domain.graphics is not None:
        yield from display_elements(domain.graphics)


def disk_element(disk: Disk, index: int, place: DiskPlace) -> ET.Element:
    """Return `<disk>` for disk number index; good for hot-plugging, too.

    :raise DiskError: the disk is none that libvirt can describe, or still asks for throw-away writes.
    """
    if disk.snapshot:
        raise snapshot_error(disk, index)
    if isinstance(disk.source, NetworkSource) or disk.format is None:
        raise DiskError("cannot describe disk", f"disk {index}", "libvirt has no words for it")
    kind, source = _source_words(disk.source)
    element = ET.Element("disk", type=kind, device="disk")
    if place.bus is DiskBus.VIRTIO:
        element.set("model", _VIRTIO)
    element.append(_driver_element(disk))
    ET.SubElement(element, "source", source)
    if disk.backing is not None:
        element.append(backing_element(disk.backing))
    sizes = {"logical_block_size": disk.logical_block_size, "physical_block_size": disk.physical_block_size}
    if any(sizes.values()):
        ET.SubElement(element, "blockio", {key: str(size) for key, size in sizes.items() if size})
    prefix = "vd" if place.bus is DiskBus.VIRTIO else "sd"
    ET.SubElement(element, "target", dev=prefix + letters(index), bus=place.bus.value)
    if disk.readonly:
        ET.SubElement(element, "readonly")
    if disk.serial is not None:
        ET.SubElement(element, "serial").text = disk.serial
    if disk.boot_order is not None:
        ET.SubElement(element, "boot", order=str(disk.boot_order))
    if disk.alias is not None:
        ET.SubElement(element, "alias", name=disk.alias)
    element.append(_disk_address(place))
    return element


def _source_words(source: FileSource | VolumeSource) -> tuple[str, dict[str, str]]:
    """Return the type of a disk, and the attributes of its `<source>`."""
    if isinstance(source, VolumeSource):
        return "volume", {"pool": source.pool, "volume": source.volume}
    return ("block", {"dev": source.path}) if source.block_device else ("file", {"file": source.path})


def backing_element(backing: Backing) -> ET.Element:
    """Return the `<backingStore>` of an overlay. The system's daemon would give the file to QEMU's user, for good."""
    element = ET.Element("backingStore", type="file")
    ET.SubElement(element, "format", type=backing.format)
    source = ET.SubElement(element, "source", file=backing.path)
    if not backing.pooled:
        ET.SubElement(source, "seclabel", model="dac", relabel="no")
    return element


def interface_element(interface: Interface) -> ET.Element:
    """Return `<interface>`. Its option ROM would have the firmware load a network boot loader."""
    element = ET.Element("interface", type=interface.kind.value)
    if interface.source is not None:
        attribute = "bridge" if interface.kind is InterfaceKind.BRIDGE else "network"
        ET.SubElement(element, "source", {attribute: interface.source})
    ET.SubElement(element, "model", type=_VIRTIO)
    ET.SubElement(element, "rom", enabled="no")
    element.append(pci_element(PciAddress(slot=NETWORK_SLOT)))
    return element


def _driver_element(disk: Disk) -> ET.Element:
    """Return a disk's `<driver>`."""
    options = {
        "type": disk.format,
        "cache": disk.cache,
        "discard": "unmap" if disk.discard else None,
        "copy_on_read": "on" if disk.copy_on_read else None,
    }
    return ET.Element("driver", {"name": "qemu", **{key: value for key, value in options.items() if value}})


def _disk_address(place: DiskPlace) -> ET.Element:
    """Return the `<address>` of a disk."""
    if place.pci is not None:
        return pci_element(place.pci)
    target, unit = (place.unit, 0) if place.bus is DiskBus.SCSI else (0, place.unit)
    attributes = {"controller": place.controller, "bus": 0, "target": target, "unit": unit}
    return ET.Element("address", {"type": "drive", **{key: str(value) for key, value in attributes.items()}})


def letters(index: int) -> str:
    """Return the drive letters of number index: a … z, aa, ab … (as `/dev/sdX` counts)."""
    name = ""
    index += 1
    while index > 0:
        index, rest = divmod(index - 1, 26)
        name = chr(ord("a") + rest) + name
    return name


def pci_element(pci: PciAddress) -> ET.Element:
    """Return the `<address>` of a device on the root bus."""
    place = {"domain": "0x0000", "bus": "0x00", "slot": f"{pci.slot:#04x}", "function": f"{pci.function:#x}"}
    element = ET.Element("address", {"type": "pci", **place})
    if pci.multifunction:
        element.set("multifunction", "on")
    return element


def controller_element(controller: Controller) -> ET.Element:
    """Return `<controller>` for disks."""
    element = ET.Element("controller", type=controller.bus.value, index=str(controller.index))
    if controller.bus is DiskBus.SCSI:
        element.set("model", _VIRTIO)
    element.append(pci_element(controller.pci))
    return element


def usb_element(*, of_use: bool) -> ET.Element:
    """Return the `<controller>` of USB, or the one that keeps libvirt from adding any."""
    element = ET.Element("controller", type="usb", index="0", model="qemu-xhci" if of_use else "none")
    if of_use:
        element.append(pci_element(PciAddress(slot=USB_SLOT)))
    return element


def display_elements(graphics: Graphics) -> list[ET.Element]:
    """Return the elements of a display, and of what is typed and pointed at there.

    It is looked at by a unix socket, which only its user or libvirt's clients get at: a port would be everybody's.
    """
    shown = ET.Element("graphics", type=graphics.kind.value)
    listens = {"type": "socket"} | ({"socket": graphics.path} if graphics.path is not None else {})
    ET.SubElement(shown, "listen", listens)
    video = ET.Element("video")
    ET.SubElement(video, "model", type="virtio", heads="1", primary="yes")
    video.append(pci_element(PciAddress(slot=DISPLAY_SLOT)))
    return [
        ET.Element("input", type="tablet", bus="usb"),
        ET.Element("input", type="keyboard", bus="usb"),
        shown,
        video,
    ]


def share_element(share: Share) -> ET.Element:
    """Return the `<filesystem>` of a directory that the guest may read."""
    if share.socket is not None:  # who serves it sees to it that it is only read: libvirt knows no such thing
        element = ET.Element("filesystem", type="mount")
        ET.SubElement(element, "driver", type="virtiofs")
        ET.SubElement(element, "source", socket=share.socket)
        ET.SubElement(element, "target", dir=share.tag)
    else:
        element = ET.Element("filesystem", type="mount", accessmode="passthrough", model=_VIRTIO)
        ET.SubElement(element, "source", dir=share.path)
        ET.SubElement(element, "target", dir=share.tag)
        ET.SubElement(element, "readonly")
    element.append(pci_element(PciAddress(slot=SHARE_SLOT)))
    return element


def _ports(domain: Domain) -> int | None:
    """Return how many virtio-serial ports there need be; None where the user has or may add some."""
    options = itertools.pairwise(domain.extra_args)
    users = any(option == "-device" and name in value for option, value in options for name in _USERS_PORTS)
    return None if domain.kept or users else max(_PORTS, 1 + len(domain.channels))


def virtio_serial_element(ports: int | None) -> ET.Element:
    """Return the `<controller>` of the virtio-serial ports; None leaves their number to QEMU."""
    element = ET.Element("controller", type="virtio-serial", index="0", model=_VIRTIO)
    if ports is not None:
        element.set("ports", str(ports))
    element.append(pci_element(PciAddress(slot=SERIAL_SLOT)))
    return element


def serial_element(path: str | None, arch: Arch) -> ET.Element:
    """Return `<serial>`: the console, joined to the unix socket path, on which somebody listens; else a terminal's."""
    target_type, model = _SERIAL[arch]
    element = ET.Element("serial", type="pty" if path is None else "unix")
    if path is not None:
        ET.SubElement(element, "source", mode="connect", path=path)
    target = ET.SubElement(element, "target", type=target_type, port="0")
    ET.SubElement(target, "model", name=model)
    return element


def channel_element(channel: Channel, port: int) -> ET.Element:
    """Return `<channel>`: virtio-serial port number port (from 1; 0 is the console's), and its socket if any."""
    element = ET.Element("channel", type="null" if channel.path is None and not channel.kept else "unix")
    if channel.path is not None:
        ET.SubElement(element, "source", mode="connect", path=channel.path)
    ET.SubElement(element, "target", type="virtio", name=channel.name)
    ET.SubElement(element, "address", type="virtio-serial", controller="0", bus="0", port=str(port))
    return element


def memballoon_element() -> ET.Element:
    """Return the `<memballoon>` that keeps libvirt from adding one."""
    return ET.Element("memballoon", model="none")


def rng_element() -> ET.Element:
    """Return `<rng>`, fed from the host's urandom."""
    element = ET.Element("rng", model=_VIRTIO)
    ET.SubElement(element, "backend", model="random").text = "/dev/urandom"
    element.append(pci_element(PciAddress(slot=RNG_SLOT)))
    return element
