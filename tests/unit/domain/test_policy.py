"""What is launched: overrides, the profile's defaults, and what cannot be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.domain.model import Accel, Arch, Disk, Domain, FileSource, Loader
from orchestrator.domain.policy import (
    CONTROL_CHANNEL,
    GUESTFSD_CHANNEL,
    BootFiles,
    Machine,
    Ports,
    appliance_root,
    choose_cpu,
    design,
)
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError, FirmwareError

UEFI = load_profile("aarch64-uefi")
BIOS = load_profile("x86_64-seabios")
LOADER = Loader(code="/c", nvram="/n")


def designed(profile: str = "aarch64-uefi", **changes: Any) -> Domain:  # noqa: ANN401 - of any of the three
    """Return a design with changes of machine, files or ports."""
    values = {"accel": Accel.TCG, "host_arch": Arch.X86_64, "loader": LOADER} | changes

    def given(kind: type[Any]) -> dict[str, Any]:
        return {field.name: values.pop(field.name) for field in dataclasses.fields(kind) if field.name in values}

    machine = Machine(profile=load_profile(profile), emulator="/q", **given(Machine))
    made = design("n", "u", machine, BootFiles(**given(BootFiles)), Ports(**given(Ports)))
    assert not values
    return made


def test_profile_decides_what_nobody_asked_for() -> None:
    """Memory, CPUs and CPU model come from the profile."""
    made = designed()
    assert (made.memory_mib, made.vcpus, made.cpu) == (UEFI.memory_mib, UEFI.vcpus, UEFI.cpu_tcg)
    assert designed(host_arch=Arch.AARCH64, accel=Accel.KVM).cpu == UEFI.cpu_kvm


def test_what_is_asked_for_wins() -> None:
    """Memory, CPUs and CPU model can be asked for."""
    made = designed(memory_mib=1, vcpus=2, cpu="max")
    assert (made.memory_mib, made.vcpus, made.cpu) == (1, 2, "max")


def test_no_host_cpu_without_kvm() -> None:
    """`host` under TCG is an error with the profile's CPU as the hint."""
    assert choose_cpu(UEFI, Accel.KVM, "host,pmu=off") == "host,pmu=off"
    with pytest.raises(CapabilityError, match="cpu=cortex-a57"):
        choose_cpu(UEFI, Accel.TCG, "host,pmu=off")


@pytest.mark.parametrize(("profile", "host"), [("aarch64-uefi", Arch.X86_64), ("x86_64-ovmf", Arch.AARCH64)])
def test_no_kvm_for_another_arch(profile: str, host: Arch) -> None:
    """KVM runs the host's arch only."""
    with pytest.raises(CapabilityError, match=f"the host's arch only, which is {host}"):
        designed(profile, accel=Accel.KVM, host_arch=host)


def test_firmware_is_needed_where_it_is() -> None:
    """A UEFI profile needs its loader; others leave one out that is there."""
    with pytest.raises(FirmwareError, match="profile aarch64-uefi"):
        designed(loader=None)
    assert designed().loader == LOADER
    assert designed("x86_64-seabios").loader is None
    assert designed("aarch64-bare", loader=None).loader is None


def test_root_comes_last() -> None:
    """The user's disks keep their numbers; the root is behind them, or missing."""
    disk = Disk(source=FileSource(path="/a"))
    root = appliance_root("/r", name="s")
    assert designed(disks=(disk, disk), root=root).disks == (disk, disk, root)
    assert designed(disks=(disk,)).disks == (disk,)
    assert (root.format, root.described, root.alias, root.serial, root.readonly) == ("qcow2", True, "ua-s", None, False)


def test_channels() -> None:
    """Guestfsd's channel and the control channel, each when there is somebody at the other end."""
    made = designed(guestfsd_path="/g", control_path="/c").channels
    assert [(c.name, c.path) for c in made] == [(GUESTFSD_CHANNEL, "/g"), (CONTROL_CHANNEL, "/c")]
    assert [c.name for c in designed(control_path="/c").channels] == [CONTROL_CHANNEL]
    assert designed().channels == ()


def test_cmdline_is_the_guests() -> None:
    """Libguestfs's command line is fixed up for the profile."""
    arm = designed(cmdline="console=ttyS0 edd=off")
    assert arm.cmdline == "console=ttyAMA0 mitigations=off kpti=off norandmaps"
    x86 = designed("x86_64-seabios", cmdline="console=ttyS0 edd=off")
    assert x86.cmdline == "console=ttyS0 edd=off mitigations=off norandmaps"
