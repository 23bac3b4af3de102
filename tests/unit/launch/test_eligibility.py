"""Which launches can be clones of a template, and what parts one template from another."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.appliance.guest_files import scripts_digest
from orchestrator.appliance.manifest import FileRecord, Init, Manifest
from orchestrator.appliance.model import Appliance
from orchestrator.domain.model import Accel, Arch, Disk, DiskBus, FileSource, Network
from orchestrator.domain.profiles import load_profile
from orchestrator.firmware.descriptors import Firmware
from orchestrator.launch import eligibility
from orchestrator.launch.context import LaunchSpec
from orchestrator.launch.eligibility import template_facts, why_not_warm
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest, from_json
from orchestrator.settings import Settings
from orchestrator.template.model import Facts, Template, key_of

SETTINGS = Settings(state_dir=Path("/state"), runtime_dir=Path("/run/gl"))
REQUEST = LaunchRequest(kernel="/a/kernel", initrd="/a/initrd", cmdline="panic=1 console=ttyS0 quiet TERM=linux")
SCSI = Disk(source=FileSource(path="/a"))
VIRTIO = dataclasses.replace(SCSI, bus=DiskBus.VIRTIO)


def manifest(**changes: Any) -> Manifest:  # noqa: ANN401 - of any field
    """Return the manifest of an appliance that was built here and now, with changes."""
    files = {
        name: FileRecord(size=1, mtime_ns=1, inode=1, digest=f"sha256:{name}") for name in ("kernel", "initrd", "root")
    }
    made = Manifest(
        arch=Arch.AARCH64,
        files=files,
        packages={},
        unavailable=(),
        libguestfs="1.48.6",
        kernel="6.1",
        modules=(),
        root_uuid="u",
        built="2026-01-01T00:00:00Z",
        builder="0",
        guest_scripts=scripts_digest(Init.LEAN),
    )
    return dataclasses.replace(made, **changes)


def appliance(said: Manifest | None) -> Appliance:
    """Return an appliance with that manifest."""
    return Appliance(
        path=Path("/a"),
        arch=Arch.AARCH64,
        kernel=Path("/a/kernel"),
        initrd=Path("/a/initrd"),
        root=Path("/a/root"),
        root_format="raw",
        root_uuid="u",
        manifest=said,
        markers=frozenset({"init"}),
    )


def plan(folder: Path, **changes: Any) -> Plan:  # noqa: ANN401 - of any field
    """Return a plan whose emulator and firmware are files in folder, with changes."""
    for name in ("qemu", "code", "vars"):
        if not (folder / name).exists():
            (folder / name).touch()
    firmware = Firmware(
        code=str(folder / "code"),
        code_format="raw",
        nvram_template=str(folder / "vars"),
        nvram_format="raw",
        description="d",
        descriptor=folder,
    )
    made = Plan(
        profile=load_profile("aarch64-uefi"),
        emulator=str(folder / "qemu"),
        host_arch=Arch.X86_64,
        accel=Accel.TCG,
        accel_reason="r",
        firmware=firmware,
        appliance=appliance(manifest()),
        disks=(SCSI,),
        kernel="/a/kernel",
        kernel_bytes=1,
        initrd_bytes=1,
        libguestfs="1.48.6",
    )
    return dataclasses.replace(made, **changes)


def spec(planned: Plan, request: LaunchRequest = REQUEST, settings: Settings = SETTINGS) -> LaunchSpec:
    """Return what is launched."""
    return LaunchSpec(plan=planned, request=request, settings=settings)


def test_an_ordinary_launch_can_be_warm(tmp_path: Path) -> None:
    """Nothing speaks against disks on the SCSI bus, a verbose tool, a network, another size, a local connection."""
    assert why_not_warm(spec(plan(tmp_path))) is None
    request = dataclasses.replace(REQUEST, cmdline="guestfs_verbose=1", memory_mib=4096, vcpus=4, guestfsd_path="/s")
    for uri in (None, "qemu:///embed", "qemu:///system", "qemu:///session", "qemu+unix:///system?socket=/s"):
        settings = dataclasses.replace(SETTINGS, connect=uri, memory_mib=2048, cpu="max", measure=False)
        assert why_not_warm(spec(plan(tmp_path, disks=(SCSI,) * 30), request, settings)) is None
    for network in (Network(net="169.254.0.0/16"), Network(stream_path="/s")):
        networked = dataclasses.replace(REQUEST, network=network, cmdline=f"{REQUEST.cmdline} guestfs_network=1")
        assert why_not_warm(spec(plan(tmp_path), networked)) is None
        # Whoever asks for none is never given another's: it is the clone that has it, not the template.
        assert template_facts(spec(plan(tmp_path), networked)) == template_facts(spec(plan(tmp_path)))


@pytest.mark.parametrize(
    ("on_plan", "on_request", "on_settings", "why"),
    [
        ({"appliance": None}, {}, {}, "no gate"),
        ({"appliance": appliance(None)}, {}, {}, "no gate"),
        ({"appliance": appliance(manifest(init=Init.STOCK))}, {}, {}, "no gate"),
        ({"appliance": appliance(manifest(guest_scripts="sha256:other"))}, {}, {}, "another guestlaunch"),
        ({"appliance": appliance(manifest(guest_scripts=""))}, {}, {}, "another guestlaunch"),
        ({}, {}, {"fw_cfg_dma": False}, "DMA"),
        ({}, {"extra_args": ("-device", "x")}, {}, "arguments of the user's own (-device x)"),
        ({}, {"start_paused": True}, {}, "debugger"),
        ({}, {}, {"connect": "qemu+ssh://host/system"}, "another host"),
        ({"disks": (dataclasses.replace(SCSI, bus=DiskBus.SATA),)}, {}, {}, "sata bus"),
        ({"disks": (VIRTIO,) * 150}, {}, {}, "last PCI slot"),
    ],
)
def test_what_no_template_can_serve(
    tmp_path: Path, on_plan: dict[str, Any], on_request: dict[str, Any], on_settings: dict[str, Any], why: str
) -> None:
    """Each reason is said by name."""
    request = dataclasses.replace(REQUEST, **on_request)
    settings = dataclasses.replace(SETTINGS, **on_settings)
    said = why_not_warm(spec(plan(tmp_path, **on_plan), request, settings))
    assert said is not None
    assert why in said


def test_an_image_that_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is handed to a confined clone as another one is, where root can see afterwards what QEMU has opened."""
    monkeypatch.setattr(eligibility, "confined", lambda *_: True)
    monkeypatch.setattr(eligibility, "unseen", lambda: None)
    graph = '{"driver": "raw", "file": {"driver": "file", "filename": "/a"}}'
    disks = (dataclasses.replace(SCSI, graph=graph),)
    assert why_not_warm(spec(plan(tmp_path, disks=disks))) is None
    monkeypatch.setattr(eligibility, "unseen", lambda: "root cannot see it")
    assert why_not_warm(spec(plan(tmp_path, disks=(SCSI,)))) is None
    assert why_not_warm(spec(plan(tmp_path, disks=disks))) == "root cannot see it"


def other_manifest(name: str) -> Manifest:
    """Return a manifest of which one file is another."""
    files = manifest().files
    return manifest(files={**files, name: dataclasses.replace(files[name], digest="sha256:other")})


@pytest.mark.parametrize(
    ("on_plan", "on_request", "on_settings"),
    [
        ({"profile": load_profile("aarch64-bare"), "firmware": None}, {}, {}),
        ({"profile": dataclasses.replace(load_profile("aarch64-uefi"), machine="virt-7.1")}, {}, {}),
        ({"accel": Accel.KVM}, {}, {}),
        *[({"appliance": appliance(other_manifest(name))}, {}, {}) for name in ("kernel", "initrd", "root")],
        ({"appliance": dataclasses.replace(appliance(manifest()), root=Path("/b/root"))}, {}, {}),
        ({}, {"cmdline": REQUEST.cmdline + " printk.time=0"}, {}),
        ({}, {"memory_mib": 2048}, {}),
        ({}, {"vcpus": 3}, {}),
        ({}, {}, {"memory_mib": 2048}),
        ({}, {}, {"vcpus": 3}),
        ({}, {}, {"cpu": "max"}),
        ({"disks": (SCSI, VIRTIO)}, {}, {}),
        ({"disks": (SCSI,) * 257}, {}, {}),
    ],
)
def test_what_parts_templates(
    tmp_path: Path, on_plan: dict[str, Any], on_request: dict[str, Any], on_settings: dict[str, Any]
) -> None:
    """A template of another machine, firmware, appliance, command line or size has another key."""
    usual = key_of(template_facts(spec(plan(tmp_path))))
    request = dataclasses.replace(REQUEST, **on_request)
    settings = dataclasses.replace(SETTINGS, **on_settings)
    assert key_of(template_facts(spec(plan(tmp_path, **on_plan), request, settings))) != usual


@pytest.mark.parametrize(
    ("on_plan", "on_request", "on_settings"),
    [
        ({"disks": ()}, {}, {}),
        ({}, {"cmdline": REQUEST.cmdline.replace("TERM=linux", "TERM=xterm guestfs_verbose=1")}, {}),
        ({}, {"cmdline": REQUEST.cmdline.replace("ttyS0", "ttyAMA0")}, {}),
        ({}, {"guestfsd_path": "/other"}, {}),
        ({}, {"memory_mib": load_profile("aarch64-uefi").memory_mib}, {}),
        ({}, {}, {"start": "warm", "measure": False, "runtime_dir": Path("/elsewhere")}),
    ],
)
def test_what_needs_no_template_of_its_own(
    tmp_path: Path, on_plan: dict[str, Any], on_request: dict[str, Any], on_settings: dict[str, Any]
) -> None:
    """What a clone is given at its gate, or says the same in other words, needs no template of its own."""
    usual = template_facts(spec(plan(tmp_path)))
    request = dataclasses.replace(REQUEST, **on_request)
    settings = dataclasses.replace(SETTINGS, **on_settings)
    assert template_facts(spec(plan(tmp_path, **on_plan), request, settings)) == usual


def test_what_is_left_of_virtio_disks(tmp_path: Path) -> None:
    """A template is built from a launch without its disks: that they took PCI slots is remembered."""
    whole = spec(plan(tmp_path, disks=(VIRTIO,)))
    bare = whole.without_tool()
    kept = from_json(json.loads(json.dumps(dataclasses.asdict(bare.request))))
    again = spec(plan(tmp_path, disks=()), kept)
    assert template_facts(whole) == template_facts(bare) == template_facts(again)


@pytest.mark.parametrize("name", ["qemu", "code", "vars"])
@pytest.mark.parametrize("change", [lambda file: file.write_text("new"), Path.unlink])
def test_an_upgrade_outdates_templates(tmp_path: Path, name: str, change: Callable[[Path], object]) -> None:
    """With another QEMU or other firmware the template is another; without, there is an error and no template."""
    planned = plan(tmp_path)
    usual = template_facts(spec(planned))
    change(tmp_path / name)
    if (tmp_path / name).exists():
        assert key_of(template_facts(spec(planned))) != key_of(usual)
    else:
        with pytest.raises(FileNotFoundError):
            template_facts(spec(planned))


CPUINFO = """processor\t: {number}
BogoMIPS\t: {speed}
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: {variant}
CPU part\t: 0xd0c
CPU revision\t: 1
"""
KERNEL = os.uname_result(("Linux", "arm", "6.1.0-50-arm64", "#1 SMP Debian 6.1.176-1", "aarch64"))


@pytest.mark.parametrize(
    ("cpuinfo", "kernel", "accel", "same"),
    [
        ({"speed": "50.00"}, {}, Accel.KVM, True),
        ({"variant": "0x4"}, {}, Accel.KVM, False),
        ({}, {"release": "6.1.0-51-arm64"}, Accel.KVM, False),
        ({}, {"version": "#1 SMP Debian 6.1.180-1"}, Accel.KVM, False),
        ({"variant": "0x4"}, {"release": "6.1.0-51-arm64"}, Accel.TCG, True),
    ],
)
def test_what_guests_see_of_the_host(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cpuinfo: dict[str, str],
    kernel: dict[str, str],
    accel: Accel,
    same: bool,
) -> None:
    """Under KVM a guest sees the CPU as the host's kernel shows it, and goes on only where that is the same."""
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(eligibility, "_CPUINFO", file)
    found = []
    for changed, booted in (({}, {}), (cpuinfo, kernel)):
        usual = {"speed": "243.75", "variant": "0x3"}
        file.write_text("\n".join(CPUINFO.format(number=number, **(usual | changed)) for number in range(2)))
        fields = {name: getattr(KERNEL, name) for name in ("sysname", "nodename", "release", "version", "machine")}
        seen = os.uname_result((fields | booted).values())
        monkeypatch.setattr("os.uname", lambda seen=seen: seen)
        found.append(key_of(template_facts(spec(plan(tmp_path, accel=accel)))))
    assert (found[0] == found[1]) is same


def test_a_template_whose_appliance_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another user's folder: it is listed as one that nobody here can use, beside the others."""
    root = tmp_path / "aarch64/one/root"
    monkeypatch.setattr(eligibility, "library_version", lambda: 9)
    facts: Facts = {"libvirt": 9, "accel": "tcg", "root": str(root)}
    template = Template(
        path=tmp_path, key="k", facts=facts, request={}, files={}, built="", seconds=1.0, learned=False
    )  # fmt: skip
    assert eligibility.outdated(template) == f"the appliance {root.parent} is gone"

    def denied(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "exists", denied)
    assert eligibility.outdated(template) == f"the appliance {root.parent} cannot be used: Permission denied"
