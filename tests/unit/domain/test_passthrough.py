"""QEMU arguments: what goes past libvirt, exactly as libguestfs would have it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from orchestrator.domain.arguments import qemu_arguments
from orchestrator.domain.layout import DiskPlace, PciAddress, lay_out
from orchestrator.domain.model import (
    Accel,
    Arch,
    Disk,
    DiskBus,
    Domain,
    FileSource,
    Handed,
    Network,
    NetworkSource,
)
from orchestrator.domain.passthrough import (
    device_properties,
    drive_option,
    join_options,
    native,
    secrets_of,
)
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import DiskError

FILE = FileSource(path="/a")
RAW = Disk(source=FILE, format="raw")
HTTPS = NetworkSource(driver="https", options=(("url", "a,b"),), secrets=(("password-secret", "hush"),))
RBD = NetworkSource(driver="rbd", options=(("pool", "p"),), secrets=(("key-secret", "a2V5"),))


def domain(**changes: object) -> Domain:
    """Return a small domain with changes."""
    plain = Domain(
        name="d",
        uuid="u",
        profile=load_profile("aarch64-uefi"),
        accel=Accel.TCG,
        emulator="/q",
        memory_mib=1,
        vcpus=1,
        cpu="max",
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def arguments(**changes: object) -> list[str]:
    """Return the arguments of a small domain with changes."""
    made = domain(**changes)
    return qemu_arguments(made, lay_out(made.disks, made.profile.arch))


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        (RAW, True),
        (Disk(source=FILE), False),
        (Disk(source=FILE, format="qcow2"), False),
        (Disk(source=FILE, format="qcow2", described=True), True),
        (Disk(source=FILE, format="raw", shared_read=True), False),
        (Disk(source=HTTPS, format="raw"), False),
        (Disk(source=FILE, format="raw", serial="Ab-1_x.y"), True),
        (Disk(source=FILE, format="raw", serial="a b"), False),
        (Disk(source=FILE, format="raw", serial="a\\b"), False),
        (Disk(source=FILE, format="raw", serial=""), True),
    ],
)
def test_native(disk: Disk, expected: bool) -> None:
    """Libvirt describes only what it describes without a difference."""
    assert native(disk) is expected


@pytest.mark.parametrize(
    ("disk", "option"),
    [
        (Disk(source=FILE), "id=drive7,if=none,file.driver=file,file.filename=/a"),
        (
            Disk(source=FileSource(path="/dev/x,y", block_device=True), format="raw", readonly=True),
            "id=drive7,if=none,file.driver=host_device,file.filename=/dev/x,,y,format=raw,read-only=on",
        ),
        (
            Disk(source=FILE, format="qcow2", shared_read=True, cache="unsafe"),
            "id=drive7,if=none,file.driver=file,file.filename=/a,format=qcow2,backing.file.locking=off,cache=unsafe",
        ),
        (
            Disk(source=FILE, cache="none", discard=True, copy_on_read=True),
            "id=drive7,if=none,file.driver=file,file.filename=/a,copy-on-read=on,cache=none,discard=unmap",
        ),
        (
            Disk(source=HTTPS, format="raw"),
            "id=drive7,if=none,file.driver=https,file.url=a,,b,file.password-secret=secret7-password-secret,format=raw",
        ),
    ],
)
def test_drive_option(disk: Disk, option: str) -> None:
    """Every option reaches QEMU, none is added: no format means that QEMU probes."""
    assert drive_option(disk, 7) == option


def test_colon_in_path() -> None:
    """A path with a colon stays a path and does not become a protocol."""
    assert "file.filename=nbd:/x" in drive_option(Disk(source=FileSource(path="nbd:/x")), 0)


def test_device_properties() -> None:
    """Each bus has its device; serial and block sizes come typed, as JSON needs them."""
    disk = dataclasses.replace(RAW, serial="s 1", logical_block_size=512, physical_block_size=4096)
    tail = {"id": "disk3", "drive": "drive3", "serial": "s 1", "logical_block_size": 512, "physical_block_size": 4096}
    scsi = {"driver": "scsi-hd", "bus": "scsi1.0", "channel": 0, "scsi-id": 255, "lun": 0}
    place = DiskPlace(bus=DiskBus.SCSI, controller=1, unit=255)
    assert device_properties(disk, 3, place) == scsi | tail
    place = DiskPlace(bus=DiskBus.SATA, controller=1, unit=5)
    assert device_properties(disk, 3, place) == {"driver": "ide-hd", "bus": "sata1.5"} | tail
    place = DiskPlace(bus=DiskBus.VIRTIO, pci=PciAddress(slot=12, function=1))
    virtio = {"driver": "virtio-blk-pci-non-transitional", "bus": "pcie.0", "addr": "0xc.0x1"}
    assert device_properties(disk, 3, place) == virtio | tail
    place = DiskPlace(bus=DiskBus.VIRTIO, pci=PciAddress(slot=12, multifunction=True))
    assert device_properties(disk, 3, place)["multifunction"] is True


def test_no_device_with_throw_away_writes() -> None:
    """A disk whose overlay was not made is refused: its writes would reach the image."""
    with pytest.raises(DiskError, match=r"disk 0 \(/a\): its throw-away overlay was not made"):
        arguments(disks=(Disk(source=FILE, snapshot=True),))


@pytest.mark.parametrize(("profile", "driver"), [("aarch64-uefi", "fw_cfg_mem"), ("x86_64-seabios", "fw_cfg_io")])
def test_fw_cfg_dma_is_said_either_way(profile: str, driver: str) -> None:
    """On and off are both explicit, on the arch's own device."""
    for dma, state in ((True, "on"), (False, "off")):
        found = arguments(profile=load_profile(profile), fw_cfg_dma=dma)
        assert found[:2] == ["-global", f"{driver}.dma_enabled={state}"]


def test_trace() -> None:
    """The trace goes to its file, whose name is an argument of its own; without a file there is no trace."""
    found = arguments(trace_path="/t,1")
    assert found[found.index("-D") + 1] == "/t,1"
    assert "enable=fw_cfg_select" in found
    assert not {"-trace", "-D"} & set(arguments())


@pytest.mark.parametrize(
    ("network", "netdev"),
    [
        (Network(net="169.254.0.0/16"), "user,id=net0,net=169.254.0.0/16"),
        (Network(), "user,id=net0"),
        (Network(stream_path="/p,1"), "stream,id=net0,server=off,addr.type=unix,addr.path=/p,,1"),
    ],
)
def test_network(network: Network, netdev: str) -> None:
    """User-mode and passt networks; the card brings no boot ROM."""
    found = arguments(network=network)
    assert found[found.index("-netdev") + 1] == netdev
    device = json.loads(found[found.index("-device") + 1])
    assert (device["netdev"], device["romfile"]) == ("net0", "")


def test_secrets_travel_by_file() -> None:
    """Secret objects name files; Ceph's are base64; the text itself is nowhere."""
    disks = (RAW, Disk(source=HTTPS, format="raw"), Disk(source=RBD, format="raw"))
    assert secrets_of(disks) == (("secret1-password-secret", "hush"), ("secret2-key-secret", "a2V5"))
    found = arguments(disks=disks, secret_paths=(("secret1-password-secret", "/s,1"), ("secret2-key-secret", "/s2")))
    assert "secret,id=secret1-password-secret,file=/s,,1" in found
    assert "secret,id=secret2-key-secret,file=/s2,format=base64" in found
    assert not [a for a in found if "hush" in a or "a2V5" in a]
    with pytest.raises(DiskError, match=r"disk 1 \(https source\): its password-secret was not stored"):
        arguments(disks=disks)


def test_users_arguments_come_last_and_unchanged() -> None:
    """A user's own arguments are not touched, and follow everything else."""
    extra = ("-device", "x,y=z", "-foo")
    assert tuple(arguments(extra_args=extra, disks=(Disk(source=FILE),))[-3:]) == extra


def test_only_passed_through_disks_are_there() -> None:
    """A disk that libvirt describes is not given to QEMU a second time; numbers stay those of the disks."""
    found = arguments(disks=(RAW, Disk(source=FILE), RAW))
    assert [a for a in found if a.startswith("id=drive")] == ["id=drive1,if=none,file.driver=file,file.filename=/a"]
    devices = [json.loads(a) for a in found if a.startswith("{")]
    assert [d["scsi-id"] for d in devices] == [1]


def test_join_options() -> None:
    """Commas are doubled in values; a lone word stands first."""
    assert join_options([("user", None), ("a", "b,c"), ("d", "=,,")]) == "user,a=b,,c,d==,,,,"


def test_arch_is_known() -> None:
    """Every arch has its fw_cfg device."""
    for profile in ("aarch64-bare", "x86_64-ovmf"):
        assert load_profile(profile).arch in set(Arch)
        assert arguments(profile=load_profile(profile))


def test_a_graph_says_it_all() -> None:
    """An untrusted image's drive is its block graph: no format is given beside it, and no backing file's locks."""
    graph = '{"driver": "qcow2", "file": {"driver": "file", "filename": "/a,b"}, "backing": null}'
    disk = Disk(source=FileSource(path="/x"), format="raw", graph=graph, shared_read=True, cache="unsafe")
    assert not native(disk)
    expected = graph.replace(",", ",,")
    assert drive_option(disk, 0) == f"id=drive0,if=none,file=json:{expected},cache=unsafe"
    # A file that QEMU was given goes before the name of the same file in the graph.
    assert drive_option(disk, 0, (Handed(path="/a,b", name="/dev/fdset/0"),)) == (
        f"id=drive0,if=none,file=json:{expected},file.driver=file,file.filename=/dev/fdset/0,file.auto-read-only=off,"
        "cache=unsafe"
    )


def test_options_below_an_image() -> None:
    """What the working directory would hide is said after the image's own options."""
    disk = Disk(source=FileSource(path="/x"), format="qcow2", options=(("backing.file.filename", "/d,e"),))
    assert drive_option(disk, 0).endswith("format=qcow2,backing.file.filename=/d,,e")
