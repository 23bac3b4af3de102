"""Templates and clones as values: the same devices in the same places, and disks as steps of plugging them in."""

from __future__ import annotations

import dataclasses
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from orchestrator.domain.cloning import (
    GATE_WORD,
    as_clone,
    as_template,
    disk_words,
    empty_slot,
    fits_slot,
    misfit,
    network_words,
    plugs,
    split_cmdline,
    stranger,
    to_look_for,
)
from orchestrator.domain.layout import TARGETS_PER_SCSI, lay_out, lay_out_beside
from orchestrator.domain.model import (
    Accel,
    Arch,
    Channel,
    Disk,
    DiskBus,
    Domain,
    FileSource,
    FirmwareKind,
    Incoming,
    Loader,
    Network,
    NetworkSource,
    Ram,
)
from orchestrator.domain.policy import (
    CONTROL_CHANNEL,
    GUESTFSD_CHANNEL,
    BootFiles,
    Machine,
    Ports,
    appliance_root,
    design,
)
from orchestrator.domain.profiles import load_profile, profile_names
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import DiskError

USERS = Disk(source=FileSource(path="/a"), format="raw")
VIRTIO = dataclasses.replace(USERS, bus=DiskBus.VIRTIO)
HTTPS = NetworkSource(driver="https", options=(("url", "u"),), secrets=(("password-secret", "hush"),))


def booting(profile: str = "aarch64-uefi", *, disks: tuple[Disk, ...] = ()) -> Domain:
    """Return a domain as it would boot for a tool with disks."""
    loaded = load_profile(profile)
    return design(
        "n",
        "3b1e2f3c-6b0e-4e44-9a3c-0123456789ab",
        Machine(profile=loaded, emulator="/q", accel=Accel.TCG, host_arch=Arch.X86_64),
        BootFiles(
            kernel="/kernel",
            initrd="/initrd",
            cmdline="panic=1 quiet",
            loader=Loader(code="/c", nvram="/n") if loaded.firmware is FirmwareKind.UEFI else None,
            disks=disks,
            root=appliance_root("/root.qcow2", name="gl-key"),
        ),
        Ports(guestfsd_path="/guestfsd.sock", control_path="/control", console_path="/console"),
    )


def devices(domain: Domain) -> str:
    """Return the devices of a domain as libvirt is told of them, without the sockets and files behind them."""
    element = ET.fromstring(domain_xml(domain)).find("devices")
    assert element is not None
    for source in element.iter("source"):
        source.attrib.clear()
    return ET.tostring(element, encoding="unicode")


@pytest.mark.parametrize("profile", profile_names())
def test_a_clone_has_the_devices_of_its_template(profile: str) -> None:
    """Devices, their order and their places are the same, or QEMU would refuse the state; so is the machine."""
    template = as_template(booting(profile), "/ram")
    clone = as_clone(template, ram="/ram", firmware="/firmware")
    assert devices(clone) == devices(template)
    same = ("profile", "accel", "emulator", "memory_mib", "vcpus", "cpu", "fw_cfg_dma", "disks", "channels", "rng")
    assert [getattr(clone, name) for name in same] == [getattr(template, name) for name in same]


@pytest.mark.parametrize("profile", profile_names())
def test_a_clone_needs_nothing_to_boot_from(profile: str) -> None:
    """Kernel and initrd are in the state; on Arm the flash is, too, and on x86 the ROM that brought them stays."""
    clone = as_clone(as_template(booting(profile), "/ram"), ram="/ram", firmware="/firmware")
    assert (clone.kernel, clone.initrd, clone.cmdline) == (None, None, "")
    expected = {
        "aarch64-uefi": (None, Incoming(firmware="/firmware")),
        "aarch64-bare": (None, Incoming()),
        "x86_64-seabios": (None, Incoming(option_roms=("linuxboot_dma.bin",))),
        "x86_64-ovmf": (None, Incoming(flash=Loader(code="/c", nvram="/n"), option_roms=("linuxboot_dma.bin",))),
    }
    if profile in expected:
        assert (clone.loader, clone.incoming) == expected[profile]


def test_memory_is_shared_by_the_template_and_private_to_clones() -> None:
    """The template's memory goes to the file; what clones write stays theirs."""
    template = as_template(booting(), "/ram")
    assert template.ram == Ram(path="/ram", private=False)
    assert as_clone(template, ram="/elsewhere", firmware="/f").ram == Ram(path="/elsewhere", private=True)


@pytest.mark.parametrize("network", [None, Network(net="169.254.0.0/16"), Network(stream_path="/s")])
def test_a_clone_has_the_network_that_was_asked_for(network: Network | None) -> None:
    """And none else; the template that it continues has the same devices in any case."""
    users = dataclasses.replace(booting(), network=network)
    template = as_template(users, "/ram")
    assert template == as_template(booting(), "/ram")
    assert as_clone(template, ram="/ram", firmware="/f", network=network).network == network


@pytest.mark.parametrize(
    ("arguments", "strange", "looks"),
    [
        ((), None, False),
        (("-name", "x", "-trace", "enable=y", "-s", "--gdb", "tcp::1"), None, False),
        (("-plugin", "/x/counter.so,out=/y"), None, False),
        (("-object", "filter-dump,id=f,netdev=n,file=/d", "-netdev", "user,id=n"), None, False),
        (("-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"), None, True),
        (("--device", "virtio-balloon-pci"), None, True),
        (("-device", "virtio-balloon-pci", "-device", "usb-ehci"), "-device usb-ehci", True),
        (("-object", "memory-backend-ram,id=m,size=1M"), "-object memory-backend-ram,id=m,size=1M", False),
        (("-cpu", "max"), "-cpu max", False),
        (("-snapshot",), "-snapshot", False),
        (("-s", "-set", "a.b.c=d"), "-set a.b.c=d", False),
    ],
)
def test_what_can_be_added_to_a_saved_guest(arguments: tuple[str, ...], strange: str | None, looks: bool) -> None:
    """What only the host sees, and devices on the bus where the guest can look for more."""
    assert stranger(arguments) == strange
    assert to_look_for(None, arguments, (USERS,)) is looks


def test_what_a_guest_is_told_of_its_network() -> None:
    """The one that libguestfs asks for has fixed addresses; what another has, its server says."""
    told = "guestlaunch.address=169.254.2.15,255.255.0.0,169.254.2.2,169.254.2.3"
    assert network_words(Network(net="169.254.0.0/16")) == (told,)
    for other in (None, Network(net="10.0.0.0/8"), Network(stream_path="/s")):
        assert network_words(other) == ()


def test_a_template_has_nothing_of_a_tools() -> None:
    """Neither disks nor network; guestfsd's port is there and leads nowhere; its init stops at the gate."""
    users = dataclasses.replace(booting(disks=(USERS, USERS)), network=Network(net="169.254.0.0/16"))
    template = as_template(users, "/ram")
    assert [disk.source for disk in template.disks] == [FileSource(path="/root.qcow2")]
    assert template.network is None
    assert template.channels == (
        Channel(name=GUESTFSD_CHANNEL, path=None),
        Channel(name=CONTROL_CHANNEL, path="/control"),
    )
    assert template.cmdline == f"{users.cmdline} {GATE_WORD}"  # not made quiet: what the kernel says is recorded


@pytest.mark.parametrize("arch", Arch)
def test_the_root_takes_no_disks_place(arch: Arch) -> None:
    """The root is no SCSI disk, so that the kernel calls the first one that is plugged in sda; it sorts after all."""
    template = as_template(booting("aarch64-uefi" if arch is Arch.AARCH64 else "x86_64-ovmf"), "/ram")
    layout = lay_out(template.disks, arch)
    most = (USERS,) * TARGETS_PER_SCSI
    assert misfit(most, arch) is None
    assert [disk.bus for disk in template.disks] == [DiskBus.VIRTIO]
    assert layout.places[0].pci is not None
    assert layout.places[0].pci.slot > layout.controllers[0].pci.slot
    assert [(p.controller, p.unit) for p in lay_out(most, arch).places] == [(0, unit) for unit in range(len(most))]


@pytest.mark.parametrize(
    ("cmdline", "booted", "late"),
    [
        ("a TERM=linux b", "a b", ("TERM=linux",)),
        ("guestfs_verbose=1 x guestfs_rescue=1", "x", ("guestfs_verbose=1", "guestfs_rescue=1")),
        ("guestfs_channel=/dev/x guestfs_noreboot=1", "", ("guestfs_channel=/dev/x", "guestfs_noreboot=1")),
        ("guestfs_network=1 a", "a", ("guestfs_network=1",)),
        ("TERMS=1 xTERM=1", "TERMS=1 xTERM=1", ()),
        ("TERM=a TERM=a b TERM=c", "b", ("TERM=a", "TERM=a", "TERM=c")),
        ('q="TERM=1 x" y', 'q="TERM=1 x" y', ()),
        ("quiet a loglevel=6 ignore-loglevel debug", "a", ("quiet", "loglevel=6", "ignore_loglevel", "debug")),
        ('"loglevel=3" b loglevel="2"', "b", ("loglevel=3", "loglevel=2")),
        ("loglevels=1 a.debug debug_objects", "loglevels=1 a.debug debug_objects", ()),
        ("a -- debug loglevel=1 TERM=x", "a -- debug loglevel=1", ("TERM=x",)),  # behind --, the kernel does not look
        ("", "", ()),
    ],
)
def test_split_cmdline(cmdline: str, booted: str, late: tuple[str, ...]) -> None:
    """Words that can be heeded late do not part templates: the clone is told them at its gate."""
    assert split_cmdline(cmdline) == (booted, late)


@pytest.mark.parametrize(
    ("disks", "why"),
    [
        ((), None),
        ((USERS,) * 30, None),
        ((USERS,) * (TARGETS_PER_SCSI + 1), None),
        ((USERS, VIRTIO), None),
        ((VIRTIO,) * 8 * 18, None),
        ((VIRTIO,) * (8 * 18 + 1), "last PCI slot"),
        ((VIRTIO,) * (8 * 19 + 1), "PCI root bus is full"),
        ((dataclasses.replace(USERS, bus=DiskBus.SATA), USERS), "sata bus"),
    ],
)
def test_misfit(disks: tuple[Disk, ...], why: str | None) -> None:
    """What cannot be added to a clone is said."""
    said = misfit(disks, Arch.X86_64)
    assert (said is None) if why is None else (said is not None and why in said)


@pytest.mark.parametrize("profile", ["aarch64-uefi", "x86_64-bare"])
def test_virtio_disks_have_devices_of_their_own(profile: str) -> None:
    """The template's root makes room for their slots; what libvirt knows of is the same in the clone.

    Their devices are there from the start, with nothing behind them but what says the same of write protection and
    cache; SCSI disks behind them are on a controller that comes after them.
    """
    readonly = dataclasses.replace(VIRTIO, readonly=True, cache="writethrough", serial="s")
    disks = (USERS, VIRTIO, readonly, USERS)
    template = as_template(booting(profile), "/ram", slots=True)
    clone = as_clone(template, ram="/ram", firmware="/firmware", disks=disks)
    assert devices(clone) == devices(template)
    arguments = [text for text in domain_xml(clone).splitlines() if "later" in text or "disk256" in text]
    assert sum("null-co" in text for text in arguments) == 2
    (protected,) = [text for text in arguments if "read-only=on" in text]
    assert "cache=writethrough" in protected
    places = lay_out_beside(disks, clone.profile.arch).places
    slots = {place.pci.slot for place in places if place.pci is not None}
    (root,) = [line for line in arguments if "disk256" in line and "scsi-hd" in line]
    assert "scsi1.0" in root
    assert [place.controller for place in places if place.pci is None] == [0, 2]
    assert slots == {0x0C}
    assert as_clone(template, ram="/ram", firmware="/f", disks=(USERS,)).later == ()


def test_virtio_disks_are_put_behind_their_devices() -> None:
    """As the first disk is behind the slot, when the guest runs; one on a controller of QEMU's own is plugged in so."""
    first, second, third = plugs((USERS, VIRTIO, USERS), Arch.AARCH64, ())
    assert first.commands[-1][1]["path"] == "/machine/peripheral/slot"
    change = ("qom-set", {"path": "/machine/peripheral/disk1", "property": "drive", "value": "disk1-disk"})
    assert second.commands[-1] == change
    name, properties = third.commands[-1]
    assert (name, properties["bus"], properties["scsi-id"]) == ("device_add", "scsi2.0", 0)
    assert not fits_slot((VIRTIO, USERS))


def test_what_a_guest_is_told_of_its_disks() -> None:
    """How many on its first controller, on others by their slots, and by themselves."""
    assert disk_words((USERS,) * 3, Arch.AARCH64) == ("guestlaunch.disks=3", "guestlaunch.slot=1")
    said = ("guestlaunch.disks=0", "guestlaunch.slot=0", "guestlaunch.more=0d:2", "guestlaunch.virtio=1")
    assert disk_words((VIRTIO, USERS, USERS), Arch.AARCH64) == said
    assert to_look_for(None, (), (VIRTIO,))


HOSTILE = ["/a,b=c", "/a'b", '/a"b', "/a\\b", "/a\nb", "/a\tb c", "/ü&<>", '/\\"\\\\n"', "/a,,b;#%s$()"]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_disk_that_libvirt_can_describe_is_plugged_by_xml(path: str) -> None:
    """The XML reads back as the path, at the disk's own place."""
    disks = (USERS, dataclasses.replace(USERS, source=FileSource(path=path), readonly=True))
    _, plug = plugs(disks, Arch.AARCH64, ())
    assert plug.commands == ()
    assert plug.xml is not None
    element = ET.fromstring(plug.xml)
    source, address, target = (element.find(tag) for tag in ("source", "address", "target"))
    assert source is not None
    assert address is not None
    assert target is not None
    assert source.get("file") == path
    assert (address.get("controller"), address.get("target"), address.get("unit")) == ("0", "1", "0")
    assert target.get("dev") == "sdb"
    assert element.find("readonly") is not None


def test_a_disk_for_qemu_itself_is_plugged_by_its_monitor() -> None:
    r"""The drive goes by the human monitor, as one word in quotes; the device sits at the disk's place."""
    passed = Disk(source=FileSource(path='/a,"b\\\n'), serial="with space")
    _, plug = plugs((USERS, passed), Arch.X86_64, ())
    assert plug.xml is None
    drive, device = plug.commands
    options = r'"id=drive1,if=none,file.driver=file,file.filename=/a,,\"b\\\n"'
    assert drive == ("human-monitor-command", {"command-line": f"drive_add 0 {options}"})
    properties = {
        "driver": "scsi-hd", "bus": "scsi0.0", "channel": 0, "scsi-id": 1, "lun": 0, "id": "disk1", "drive": "drive1",
        "serial": "with space",
    }  # fmt: skip
    assert device == ("device_add", properties)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"discard": True, "cache": "unsafe", "copy_on_read": True, "shared_read": True, "format": None}, True),
        ({"readonly": True}, False),
        ({"serial": "label"}, False),
        ({"logical_block_size": 4096}, False),
        ({"physical_block_size": 4096}, False),
        ({"cache": "writethrough"}, False),
    ],
)
def test_fits_slot(changes: dict[str, Any], fits: bool) -> None:
    """What the guest knows of the slot's device must hold for the first disk; what is behind it is free."""
    assert fits_slot((dataclasses.replace(USERS, **changes), dataclasses.replace(USERS, serial="other"))) == fits
    assert not fits_slot(())


def test_the_first_disk_goes_behind_the_slot() -> None:
    """It is opened under a node's name, which the slot's device is given; the next one is a device of its own."""
    first, second = plugs((USERS, USERS), Arch.AARCH64, ())
    assert first.xml is None
    drive, change = first.commands
    assert drive[1]["command-line"].endswith(',node-name=slot-disk"')
    assert change == ("qom-set", {"path": "/machine/peripheral/slot", "property": "drive", "value": "slot-disk"})
    assert second.xml is not None
    assert empty_slot().commands == (("device_del", {"id": "slot"}),)


def test_secrets_come_before_the_drive_that_needs_them() -> None:
    """The secret object names a file; its text is nowhere."""
    (plug,) = plugs((Disk(source=HTTPS, format="raw"),), Arch.AARCH64, (("secret0-password-secret", "/s,0"),))
    assert [command for command, _ in plug.commands] == ["object-add", "human-monitor-command", "qom-set"]
    assert plug.commands[0][1] == {"qom-type": "secret", "id": "secret0-password-secret", "file": "/s,0"}
    assert "file.password-secret=secret0-password-secret" in plug.commands[1][1]["command-line"]
    assert "hush" not in repr(plug)


def test_what_was_not_prepared_is_refused() -> None:
    """A secret without a file, and a throw-away disk without its overlay."""
    with pytest.raises(DiskError, match="its password-secret was not stored"):
        plugs((Disk(source=HTTPS, format="raw"),), Arch.AARCH64, ())
    for disk in (USERS, Disk(source=FileSource(path="/a"))):
        with pytest.raises(DiskError, match="overlay was not made"):
            plugs((dataclasses.replace(disk, snapshot=True),), Arch.AARCH64, ())
