"""What the distributions call what guestlaunch needs of them, and how it is installed there.

Looked up in their own package sources (2026-11-26); tried on Debian alone. Where packages of apt's lie is
`appliance.vendors`' business.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Part(StrEnum):
    """Something that comes with the distribution, by what it is."""

    QEMU_AARCH64 = "QEMU for aarch64 guests"
    QEMU_X86_64 = "QEMU for x86_64 guests"
    QEMU_IMG = "qemu-img"
    UEFI_AARCH64 = "UEFI firmware for aarch64 guests"
    UEFI_X86_64 = "UEFI firmware for x86_64 guests"
    LIBVIRT = "libvirt's QEMU driver"
    LIBVIRT_USER = "the user that libvirt's QEMU driver looks for"
    LIBVIRT_PYTHON = "libvirt's Python bindings"
    LIBFDT_PYTHON = "libfdt's Python bindings"
    GUESTFISH = "libguestfs with guestfish"
    GUESTMOUNT = "guestmount"
    GUESTFS_TOOLS = "the virt-* tools"
    GUESTFS_PYTHON = "libguestfs's Python bindings"


QEMU = {"aarch64": Part.QEMU_AARCH64, "x86_64": Part.QEMU_X86_64}
UEFI = {"aarch64": Part.UEFI_AARCH64, "x86_64": Part.UEFI_X86_64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """One distribution, with its kin.

    :ivar ids: ID in os-release, its own and those of which it need not be told apart.
    :ivar install: the command that installs packages, without their names.
    :ivar packages: the package that has a part; a part that is not there is not to be had.
    :ivar own: what is to be had only on hosts of one machine, by that.
    """

    name: str
    ids: tuple[str, ...]
    install: str
    packages: Mapping[Part, str]
    own: Mapping[str, Mapping[Part, str]] = field(default_factory=dict)

    def package(self, part: Part) -> str | None:
        """Return the name of the package that has a part, None where there is none for this host."""
        return self.packages.get(part) or self.own.get(platform.machine(), {}).get(part)


DEBIAN = Distribution(
    name="Debian",
    ids=("debian",),
    install="apt install --no-install-recommends",
    packages={
        Part.QEMU_AARCH64: "qemu-system-arm",
        Part.QEMU_X86_64: "qemu-system-x86",
        Part.QEMU_IMG: "qemu-utils",
        Part.UEFI_AARCH64: "qemu-efi-aarch64",
        Part.UEFI_X86_64: "ovmf",
        Part.LIBVIRT: "libvirt-daemon-driver-qemu",
        Part.LIBVIRT_USER: "libvirt-daemon-system",
        Part.LIBVIRT_PYTHON: "python3-libvirt",
        Part.LIBFDT_PYTHON: "python3-libfdt",
        Part.GUESTFISH: "guestfish",
        Part.GUESTMOUNT: "guestmount",
        Part.GUESTFS_TOOLS: "guestfs-tools",
        Part.GUESTFS_PYTHON: "python3-guestfs",
    },
)
_FEDORA = {
    Part.QEMU_AARCH64: "qemu-system-aarch64-core",
    Part.QEMU_X86_64: "qemu-system-x86-core",
    Part.QEMU_IMG: "qemu-img",
    Part.UEFI_AARCH64: "edk2-aarch64",
    Part.UEFI_X86_64: "edk2-ovmf",
    Part.LIBVIRT: "libvirt-daemon-driver-qemu",
    Part.LIBVIRT_USER: "libvirt-daemon-driver-qemu",
    Part.LIBVIRT_PYTHON: "python3-libvirt",
    Part.LIBFDT_PYTHON: "python3-libfdt",
    Part.GUESTFISH: "libguestfs",
    Part.GUESTMOUNT: "libguestfs",
    Part.GUESTFS_TOOLS: "guestfs-tools",
    Part.GUESTFS_PYTHON: "python3-libguestfs",
}
DISTRIBUTIONS = (
    DEBIAN,
    replace(DEBIAN, name="Ubuntu", ids=("ubuntu",)),
    # Says that it is Fedora's kin, but has one QEMU, for guests of the host's own architecture.
    Distribution(
        name="Red Hat Enterprise Linux",
        ids=("rhel", "centos"),
        install="dnf install",
        packages={part: name for part, name in _FEDORA.items() if part not in QEMU.values()},
        own={machine: {part: "qemu-kvm-core"} for machine, part in QEMU.items()},
    ),
    Distribution(name="Fedora", ids=("fedora",), install="dnf install", packages=_FEDORA),
    Distribution(
        name="openSUSE",
        ids=("opensuse", "opensuse-tumbleweed", "opensuse-leap", "suse"),
        install="zypper install --no-recommends",
        packages={
            Part.QEMU_AARCH64: "qemu-arm",
            Part.QEMU_X86_64: "qemu-x86",
            Part.QEMU_IMG: "qemu-tools",
            Part.UEFI_AARCH64: "qemu-uefi-aarch64",
            Part.UEFI_X86_64: "qemu-ovmf-x86_64",
            Part.LIBVIRT: "libvirt-daemon-driver-qemu",
            Part.LIBVIRT_USER: "libvirt-daemon-driver-qemu",
            Part.LIBVIRT_PYTHON: "python3-libvirt-python",
            Part.LIBFDT_PYTHON: "python3-libfdt",
            Part.GUESTFISH: "libguestfs",
            Part.GUESTMOUNT: "libguestfs",
            Part.GUESTFS_TOOLS: "guestfs-tools",
            Part.GUESTFS_PYTHON: "python3-libguestfs",
        },
    ),
    Distribution(
        name="Arch Linux",
        ids=("arch",),
        install="pacman -S --needed",
        packages={
            Part.QEMU_AARCH64: "qemu-system-aarch64",
            Part.QEMU_X86_64: "qemu-system-x86",
            Part.QEMU_IMG: "qemu-img",
            Part.UEFI_AARCH64: "edk2-aarch64",
            Part.UEFI_X86_64: "edk2-ovmf",
            Part.LIBVIRT: "libvirt",
            Part.LIBVIRT_USER: "libvirt",
            Part.LIBVIRT_PYTHON: "libvirt-python",
            Part.LIBFDT_PYTHON: "dtc",
            # One package, with the bindings.
            Part.GUESTFISH: "libguestfs",
            Part.GUESTMOUNT: "libguestfs",
            Part.GUESTFS_TOOLS: "guestfs-tools",
            Part.GUESTFS_PYTHON: "libguestfs",
        },
    ),
    # No libguestfs: what once was in testing, 1.40, had been built without its daemon.
    Distribution(
        name="Alpine Linux",
        ids=("alpine",),
        install="apk add",
        packages={
            Part.QEMU_AARCH64: "qemu-system-aarch64",
            Part.QEMU_X86_64: "qemu-system-x86_64",
            Part.QEMU_IMG: "qemu-img",
            Part.LIBVIRT: "libvirt-qemu",
            Part.LIBVIRT_USER: "libvirt-daemon",
            Part.LIBVIRT_PYTHON: "py3-libvirt",
            Part.LIBFDT_PYTHON: "py3-libfdt",
        },
        own={"aarch64": {Part.UEFI_AARCH64: "aavmf"}, "x86_64": {Part.UEFI_X86_64: "ovmf"}},
    ),
)


def this_system() -> Mapping[str, str]:
    """Return what os-release says; nothing where there is none."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def find(system: Mapping[str, str] | None = None) -> Distribution | None:
    """Return the distribution of a system, or the one that it says it is like; None where it is of no known kin."""
    system = this_system() if system is None else system
    for name in (system.get("ID", ""), *system.get("ID_LIKE", "").split()):
        for known in DISTRIBUTIONS:
            if name in known.ids:
                return known
    return None


def hint(part: Part, system: Mapping[str, str] | None = None) -> str:
    """Return how to come by a part on a system, to be said in an error: `install qemu-system-arm`."""
    known = find(system)
    if known is None:
        return f"install {part}, in Debian {DEBIAN.packages[part]}"
    name = known.package(part)
    return f"install {name}" if name else f"{known.name} has no package of {part}"


def command(parts: Iterable[Part], system: Mapping[str, str] | None = None) -> str:
    """Return the command that installs all these parts on a system, and what is not to be had there."""
    wanted = list(dict.fromkeys(parts))
    known = find(system) or DEBIAN
    names = dict.fromkeys(name for part in wanted if (name := known.package(part)))
    lacking = [part for part in wanted if not known.package(part)]
    said = f"{known.install} {' '.join(names)}" if names else ""
    if find(system) is None:
        said = f"by Debian's names: {said}"
    if lacking:
        said = f"{said}{'; ' if said else ''}{known.name} has no package of {', '.join(lacking)}"
    return said
