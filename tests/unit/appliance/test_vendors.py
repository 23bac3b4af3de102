"""Where packages of an arch lie, by what the host's apt says of its own."""

from __future__ import annotations

import pytest

from orchestrator.appliance.build import _kernel, _kernel_parts
from orchestrator.appliance.command import Deadline
from orchestrator.appliance.packages import Package, _sources
from orchestrator.appliance.vendors import VENDORS, for_arch, vendor_of
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError

DEBIAN, UBUNTU = VENDORS

# As `apt-get indextargets` prints it in the format that is asked for.
DEBIAN_12 = """\
Debian|deb|http://deb.debian.org/debian/|bookworm|main|amd64
Debian|deb|http://deb.debian.org/debian/|bookworm|contrib|amd64
Debian|deb-src|http://deb.debian.org/debian/|bookworm|main|amd64
Debian|deb|http://deb.debian.org/debian-security/|bookworm-security|main|amd64
Debian|deb|cdrom:[Debian GNU/Linux 12.5.0]/|bookworm|main|amd64
|deb|http://packages.example/apt/|stable|main|amd64
"""
UBUNTU_24 = """\
Ubuntu|deb|http://de.archive.ubuntu.com/ubuntu/|noble|main|amd64
Ubuntu|deb|http://de.archive.ubuntu.com/ubuntu/|noble|universe|amd64
Ubuntu|deb|http://de.archive.ubuntu.com/ubuntu/|noble-updates|main|amd64
Ubuntu|deb|http://security.ubuntu.com/ubuntu/|noble-security|main|amd64
Ubuntu|deb|http://security.ubuntu.com/ubuntu/|noble-security|universe|amd64
LP-PPA-somebody|deb|http://ppa.example/somebody/ubuntu/|noble|main|amd64
Debian|deb|http://packages.example/debian/|stable|main|amd64
"""


def test_debian_has_all_in_one_place() -> None:
    """Debian's mirrors have each arch; sources of code, discs and other vendors are left out."""
    sources = _sources(DEBIAN_12)
    assert vendor_of(sources) is DEBIAN
    for arch in Arch:
        assert for_arch(DEBIAN, sources, arch) == [
            "http://deb.debian.org/debian/ bookworm main contrib",
            "http://deb.debian.org/debian-security/ bookworm-security main",
        ]


def test_ubuntu_has_other_architectures_elsewhere() -> None:
    """The host's own arch comes from the host's mirrors, another from where Ubuntu has it, with the same suites."""
    sources = _sources(UBUNTU_24)
    assert vendor_of(sources) is UBUNTU
    assert for_arch(UBUNTU, sources, Arch.X86_64) == [
        "http://de.archive.ubuntu.com/ubuntu/ noble main universe",
        "http://de.archive.ubuntu.com/ubuntu/ noble-updates main",
        "http://security.ubuntu.com/ubuntu/ noble-security main universe",
    ]
    ports = "http://ports.ubuntu.com/ubuntu-ports/"
    assert for_arch(UBUNTU, sources, Arch.AARCH64) == [
        f"{ports} noble main universe",
        f"{ports} noble-updates main",
        f"{ports} noble-security main universe",
    ]


def test_an_arm_ubuntu_finds_x86_64() -> None:
    """On an arm64 host it is the other way round."""
    text = UBUNTU_24.replace("amd64", "arm64").replace(
        "de.archive.ubuntu.com/ubuntu/", "ports.ubuntu.com/ubuntu-ports/"
    )
    sources = _sources(text)
    assert for_arch(UBUNTU, sources, Arch.AARCH64)[0] == "http://ports.ubuntu.com/ubuntu-ports/ noble main universe"
    assert for_arch(UBUNTU, sources, Arch.X86_64)[0] == "http://archive.ubuntu.com/ubuntu/ noble main universe"


def test_what_the_administrator_set_up_wins() -> None:
    """Sources for the arch itself are taken, and no others."""
    added = "Ubuntu|deb|http://mirror.example/ports/|noble|main|arm64\n"
    assert for_arch(UBUNTU, _sources(UBUNTU_24 + added), Arch.AARCH64) == ["http://mirror.example/ports/ noble main"]


def test_a_stranger_is_no_vendor() -> None:
    """Who is neither Debian nor Ubuntu, nor takes packages from there, has no vendor."""
    assert vendor_of(_sources("Devuan|deb|http://deb.devuan.org/merged/|daedalus|main|amd64\n")) is None
    assert vendor_of([]) is None


def package(name: str, *depends: str) -> Package:
    return Package(name=name, version="1", depends=depends)


class Index:
    """Package lists that hold what they were given."""

    def __init__(self, *packages: Package) -> None:
        self.packages = packages

    def candidates(self, names: list[str], _deadline: Deadline) -> dict[str, list[Package]]:
        return {one.name: [one] for one in self.packages if one.name in names}


# As the indices of Ubuntu 24.04 and Debian 12 have them, shortened.
NOBLE = (
    package(
        "linux-image-generic",
        "linux-image-6.8.0-31-generic", "linux-modules-extra-6.8.0-31-generic", "linux-firmware", "intel-microcode",
    ),
    package(
        "linux-image-6.8.0-31-generic",
        "kmod", "linux-base", "linux-modules-6.8.0-31-generic", "grub-pc|grub-efi-amd64|lilo", "linux-doc",
    ),
    package("linux-modules-6.8.0-31-generic"),
    package("linux-modules-extra-6.8.0-31-generic", "linux-image-6.8.0-31-generic|linux-image-unsigned-6.8.0-31"),
)  # fmt: skip
BOOKWORM = (
    package("linux-image-arm64", "linux-image-6.1.0-50-arm64"),
    package(
        "linux-image-6.1.0-50-arm64", "kmod", "linux-base", "initramfs-tools|linux-initramfs-tool", "linux-doc-6.1"
    ),
)


def kernel(*packages: Package) -> tuple[str, ...]:
    return _kernel(Index(*packages), packages[0], Deadline.after(60))  # type: ignore[arg-type]


def test_the_packages_of_a_kernel() -> None:
    """Ubuntu has a kernel's image, modules and more modules apart; Debian has them in one."""
    assert kernel(*NOBLE) == (
        "linux-image-6.8.0-31-generic",
        "linux-modules-extra-6.8.0-31-generic",
        "linux-modules-6.8.0-31-generic",
    )
    assert kernel(*BOOKWORM) == ("linux-image-6.1.0-50-arm64",)


def test_what_is_not_there_is_left_out() -> None:
    """A package of more modules that is gone is no error; a metapackage without a kernel is one."""
    assert kernel(*NOBLE[:3]) == ("linux-image-6.8.0-31-generic", "linux-modules-6.8.0-31-generic")
    with pytest.raises(ApplianceError, match="linux-image-generic: it depends on no kernel"):
        kernel(package("linux-image-generic", "linux-firmware"))


def test_metapackages_are_no_parts() -> None:
    """Only names with a version are a kernel's own."""
    assert _kernel_parts(package("x", "linux-image-generic", "linux-modules-6.8.0-31-generic", "linux-base")) == [
        "linux-modules-6.8.0-31-generic"
    ]
