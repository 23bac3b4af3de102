"""What is said to install, by each distribution's names; each distribution has a name for what a launch takes."""

from __future__ import annotations

import platform

import pytest

from orchestrator.distributions import DISTRIBUTIONS, QEMU, UEFI, Distribution, Part, command, find, hint

# What os-release says there: ID and ID_LIKE.
DEBIAN_12 = {"ID": "debian", "VERSION_ID": "12"}
DEBIAN_13 = {"ID": "debian", "VERSION_ID": "13"}
UBUNTU = {"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_ID": "24.04"}
MINT = {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}
RASPBIAN = {"ID": "raspbian", "ID_LIKE": "debian"}
FEDORA = {"ID": "fedora", "VERSION_ID": "43"}
ROCKY = {"ID": "rocky", "ID_LIKE": "rhel centos fedora"}
TUMBLEWEED = {"ID": "opensuse-tumbleweed", "ID_LIKE": "opensuse suse"}
SLES = {"ID": "sles", "ID_LIKE": "suse"}
ARCH = {"ID": "arch"}
MANJARO = {"ID": "manjaro", "ID_LIKE": "arch"}
ALPINE = {"ID": "alpine"}
VOID = {"ID": "void"}

# What no launch can do without.
NEEDED = {*QEMU.values(), *UEFI.values(), Part.QEMU_IMG, Part.LIBVIRT, Part.LIBVIRT_PYTHON, Part.GUESTFISH}


@pytest.mark.parametrize(
    ("system", "name"),
    [
        (DEBIAN_12, "Debian"),
        (DEBIAN_13, "Debian"),
        (UBUNTU, "Ubuntu"),
        (MINT, "Ubuntu"),
        (RASPBIAN, "Debian"),
        (FEDORA, "Fedora"),
        (ROCKY, "Red Hat Enterprise Linux"),
        (TUMBLEWEED, "openSUSE"),
        (SLES, "openSUSE"),
        (ARCH, "Arch Linux"),
        (MANJARO, "Arch Linux"),
        (ALPINE, "Alpine Linux"),
    ],
)
def test_kin_is_found(system: dict[str, str], name: str) -> None:
    """A distribution is known by its ID, or by the first that it says it is like."""
    found = find(system)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("known", DISTRIBUTIONS, ids=lambda known: known.name)
def test_what_a_launch_takes_has_a_name(known: Distribution, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is known not to be there has none, and no name stands for several packages."""
    lacking = {
        "Red Hat Enterprise Linux": {Part.QEMU_AARCH64},
        "Alpine Linux": {Part.UEFI_AARCH64, Part.GUESTFISH},
    }
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert {part for part in NEEDED if known.package(part) is None} == lacking.get(known.name, set())
    assert all(name and name == "".join(name.split()) for name in known.packages.values())


@pytest.mark.parametrize(
    ("system", "part", "said"),
    [
        (DEBIAN_13, Part.QEMU_AARCH64, "install qemu-system-arm"),
        (UBUNTU, Part.GUESTFISH, "install guestfish"),
        (FEDORA, Part.UEFI_AARCH64, "install edk2-aarch64"),
        (TUMBLEWEED, Part.UEFI_AARCH64, "install qemu-uefi-aarch64"),
        (ARCH, Part.LIBVIRT_PYTHON, "install libvirt-python"),
        (ALPINE, Part.GUESTFISH, "Alpine Linux has no package of libguestfs with guestfish"),
        (VOID, Part.UEFI_X86_64, "install UEFI firmware for x86_64 guests, in Debian ovmf"),
        ({}, Part.QEMU_IMG, "install qemu-img, in Debian qemu-utils"),
    ],
)
def test_hint(system: dict[str, str], part: Part, said: str) -> None:
    """An error says what to install by the distribution's name, or what it is and what Debian calls it."""
    assert hint(part, system) == said


def test_own_architecture_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red Hat's QEMU is for guests of the host's own architecture."""
    for machine, other in (("x86_64", "aarch64"), ("aarch64", "x86_64")):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert hint(QEMU[machine], ROCKY) == "install qemu-kvm-core"
        assert hint(QEMU[other], ROCKY) == f"Red Hat Enterprise Linux has no package of QEMU for {other} guests"


def test_one_command_installs_all() -> None:
    """One command has every package once; what is not to be had is said, as is that names are Debian's."""
    wanted = [Part.GUESTFISH, Part.GUESTMOUNT, Part.GUESTFS_TOOLS, Part.GUESTFISH]
    assert command(wanted, FEDORA) == "dnf install libguestfs guestfs-tools"
    assert command(wanted, DEBIAN_12) == "apt install --no-install-recommends guestfish guestmount guestfs-tools"
    assert command([Part.QEMU_IMG, Part.GUESTFISH], ALPINE) == (
        "apk add qemu-img; Alpine Linux has no package of libguestfs with guestfish"
    )
    assert command([Part.GUESTFISH], ALPINE) == "Alpine Linux has no package of libguestfs with guestfish"
    assert command([Part.QEMU_IMG], VOID) == "by Debian's names: apt install --no-install-recommends qemu-utils"
