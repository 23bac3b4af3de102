"""Domain XML element by element: the choices that the golden files show only once."""

from __future__ import annotations

import dataclasses
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from orchestrator.domain.devices import disk_element, letters
from orchestrator.domain.layout import DiskPlace
from orchestrator.domain.model import Accel, Channel, Disk, DiskBus, Domain, FileSource, Loader
from orchestrator.domain.profiles import load_profile
from orchestrator.domain.xml import NAME_BYTES, cpu_element, disk_xml, domain_xml
from orchestrator.errors import DiskError, UsageError


def parsed(profile: str = "aarch64-uefi", **changes: object) -> ET.Element:
    """Return the XML of a small domain with changes, read back."""
    plain = Domain(
        name="d",
        uuid="u",
        profile=load_profile(profile),
        accel=Accel.TCG,
        emulator="/q",
        memory_mib=1,
        vcpus=1,
        cpu="max",
    )
    return ET.fromstring(domain_xml(dataclasses.replace(plain, **changes)))  # type: ignore[arg-type]


def text(root: ET.Element, path: str) -> str | None:
    """Return the text of the element at path."""
    return root.findtext(path)


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "x" * (NAME_BYTES + 1), "ü" * (NAME_BYTES // 2 + 1)])
def test_bad_names(name: str) -> None:
    """Names that libvirt or QEMU cannot use are refused; the limit counts bytes."""
    with pytest.raises(UsageError, match="bad domain name"):
        parsed(name=name)


def test_longest_name() -> None:
    """A name of exactly the limit is taken."""
    assert text(parsed(name="x" * NAME_BYTES), "name") == "x" * NAME_BYTES


def test_every_end_is_the_end() -> None:
    """Power-off, reboot and crash all end the domain."""
    root = parsed()
    assert [text(root, f"on_{event}") for event in ("poweroff", "reboot", "crash")] == ["destroy"] * 3


def test_a_guest_that_may_restart() -> None:
    """Its own resets are no end; anything else is."""
    root = parsed(restarts=True)
    assert [text(root, f"on_{event}") for event in ("poweroff", "reboot", "crash")] == ["destroy", "restart", "destroy"]


_USERS_PORT = ("-chardev", "null,id=c", "-device", "virtserialport,chardev=c,name=x")


@pytest.mark.parametrize(
    ("changes", "ports"),
    [
        ({}, "8"),
        ({"extra_args": ("-chardev", "null,id=virtserialport")}, "8"),
        ({"extra_args": _USERS_PORT}, None),
        ({"kept": True}, None),
        ({"channels": tuple(Channel(name=str(i), path="/s") for i in range(9))}, "10"),
    ],
)
def test_ports(changes: dict[str, Any], ports: str | None) -> None:
    """There are few virtio-serial ports, unless somebody else may add some."""
    (controller,) = (one for one in parsed(**changes).iter("controller") if one.get("type") == "virtio-serial")
    assert controller.get("ports") == ports


@pytest.mark.parametrize(
    ("profile", "accel", "vcpus", "loader", "gic", "acpi"),
    [
        ("aarch64-uefi", Accel.TCG, 8, True, "2", True),
        ("aarch64-uefi", Accel.TCG, 9, True, "3", True),
        ("aarch64-uefi", Accel.KVM, 1, True, "host", True),
        ("aarch64-uefi", Accel.TCG, 1, False, "2", False),
        ("aarch64-bare", Accel.TCG, 1, False, "2", False),
        ("x86_64-seabios", Accel.TCG, 1, False, None, True),
        ("x86_64-bare", Accel.TCG, 1, False, None, True),
        ("x86_64-ovmf", Accel.KVM, 1, True, None, True),
    ],
)
def test_features(profile: str, accel: Accel, vcpus: int, loader: bool, gic: str | None, acpi: bool) -> None:
    """ACPI needs UEFI flash on aarch64; the interrupt controller follows accelerator and number of CPUs."""
    root = parsed(profile, accel=accel, vcpus=vcpus, loader=Loader(code="/c", nvram="/n") if loader else None)
    assert root.get("type") == ("kvm" if accel is Accel.KVM else "qemu")
    found = root.find("features/gic")
    assert (found.get("version") if found is not None else None) == gic
    assert (root.find("features/acpi") is not None) == acpi


@pytest.mark.parametrize(
    ("cpu", "mode", "model", "features"),
    [
        ("cortex-a57", "custom", "cortex-a57", {}),
        ("host", "host-passthrough", None, {}),
        ("max,la57=off", "maximum", None, {"la57": "disable"}),
        (
            "Haswell,+vmx,-hle,avx2=on,sse4.1=off",
            "custom",
            "Haswell",
            {"vmx": "require", "hle": "disable", "avx2": "require", "sse4.1": "disable"},
        ),
    ],
)
def test_cpu(cpu: str, mode: str, model: str | None, features: dict[str, str]) -> None:
    """QEMU's spelling of CPUs becomes libvirt's."""
    element = cpu_element(cpu)
    assert element.get("mode") == mode
    assert element.findtext("model") == model
    assert {f.get("name"): f.get("policy") for f in element.findall("feature")} == features


@pytest.mark.parametrize("cpu", ["", ",x=on", "max,", "max,x", "max,x=1", "max,+x=on", "max,x=on=off", "max,a b=on"])
def test_bad_cpu(cpu: str) -> None:
    """What is no CPU and no feature is refused by name."""
    with pytest.raises(UsageError, match="bad CPU"):
        cpu_element(cpu)


@pytest.mark.parametrize("bad", ["\x00", "\x1b", "\x0b", "\ud800", "\ufffe"])
def test_unspeakable_characters(bad: str) -> None:
    """A character that XML cannot hold is an error that says so, in texts and in attributes."""
    with pytest.raises(UsageError, match="cannot be written in domain XML"):
        parsed(kernel=f"/k{bad}")
    with pytest.raises(UsageError, match="cannot be written in domain XML"):
        parsed(channels=(Channel(name="c", path=f"/s{bad}"),))


def test_loader_formats() -> None:
    """Raw, which every libvirt knows, is not said; other formats are."""
    root = parsed(loader=Loader(code="/c", nvram="/n"))
    assert [element.get("format") for element in root.findall("os/*") if element.tag != "type"] == [None, None]
    root = parsed(loader=Loader(code="/c", nvram="/n", code_format="qcow2", nvram_format="qcow2"))
    assert [element.get("format") for element in root.findall("os/*") if element.tag != "type"] == ["qcow2", "qcow2"]


def test_nothing_unasked_for() -> None:
    """No USB, balloon, video or input; without sockets no serial port and no channels."""
    root = parsed(rng=False)
    assert {c.get("type"): c.get("model") for c in root.findall("devices/controller")}["usb"] == "none"
    assert [e.get("model") for e in root.findall("devices/memballoon")] == ["none"]
    for tag in ("video", "graphics", "input", "serial", "channel", "rng", "interface", "disk"):
        assert root.find(f"devices/{tag}") is None


@pytest.mark.parametrize(
    "disk",
    [
        Disk(source=FileSource(path="/a"), format="raw", snapshot=True),
        Disk(source=FileSource(path="/a")),
    ],
)
def test_undescribable_disk(disk: Disk) -> None:
    """A disk element is never made of what it could not say."""
    with pytest.raises(DiskError, match="cannot describe disk"):
        disk_element(disk, 0, DiskPlace(bus=DiskBus.SCSI))


def test_disk_xml_is_complete() -> None:
    """A single disk's XML stands on its own, for attaching it to a running domain."""
    disk = Disk(source=FileSource(path="/a"), format="raw", readonly=True)
    root = ET.fromstring(disk_xml(disk, 27, DiskPlace(bus=DiskBus.SCSI, unit=27)))
    assert root.tag == "disk"
    target, address = root.find("target"), root.find("address")
    assert target is not None
    assert target.get("dev") == "sdab"
    assert address is not None
    assert address.get("target") == "27"


def test_letters() -> None:
    """Drive letters count as the kernel's."""
    assert [letters(i) for i in (0, 25, 26, 27, 51, 52, 701, 702)] == ["a", "z", "aa", "ab", "az", "ba", "zz", "aaa"]
