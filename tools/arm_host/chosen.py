"""Which packages and wheels the emulated host has: read from the project's own lists. Fetches nothing."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

ARCH = "arm64"
# Guests of the other arch take twice as long to install, and nobody launches them there.
_NOT_THERE = frozenset({"qemu-system-x86", "ovmf"})
# A kernel with KVM, and what a person, the tests and our own first process want of a host without systemd.
ADDED = ("udev", "kmod", "procps", "iproute2", "strace")
KERNEL = f"linux-image-{ARCH}"
BUSYBOX = "busybox-static"
# Bindings that are built for the distribution's Python, and come as its packages.
_NO_WHEELS = frozenset({"libvirt-python"})
_EXTRAS = ("report",)
# What it takes to run the project's own tests there.
_TESTING = frozenset({"pytest", "pytest-timeout"})
# glibc of the oldest release that is supported, 2.36, and before it.
_PLATFORMS = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 37)))


def packages(listed: str, arch: str = ARCH) -> list[tuple[str, ...]]:
    """Return the packages of the [run] part of tools/packages.txt, each with its alternatives, and what is added.

    :param listed: the file's text.
    """
    found: list[tuple[str, ...]] = []
    section = ""
    for line in listed.splitlines():
        text = line.split("#")[0].strip()
        if heading := re.fullmatch(r"\[(\w+)\]", text):
            section = heading[1]
            continue
        only = re.search(r"\[([^]]*)\]$", text)
        if not text or section != "run" or (only and only[1] != arch):
            continue
        names = re.sub(r"\[[^]]*\]$", "", text)
        found.append(tuple(name.strip() for name in names.split("|")))
    return [names for names in found if not _NOT_THERE & {*names}] + [(name,) for name in ADDED]


def offered(wanted: Collection[tuple[str, ...]], there: Collection[str]) -> tuple[list[str], list[str]]:
    """Return of each the first alternative that is offered, and the first names of those that are not."""
    have: list[str] = []
    lacking: list[str] = []
    for names in wanted:
        found = next((name for name in names if name in there), None)
        (have if found else lacking).append(found or names[0])
    return have, lacking


def requirements(project: str) -> list[str]:
    """Return what pip is to install for it.

    :param project: text of pyproject.toml.
    """
    table = tomllib.loads(project)["project"]
    optional = table["optional-dependencies"]
    wanted = [*table["dependencies"], *(line for extra in _EXTRAS for line in optional[extra])]
    wanted += [line for line in optional["dev"] if _name(line) in _TESTING]
    return [line for line in wanted if _name(line) not in _NO_WHEELS]


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """The guest's Python, the same release as this machine's own.

    :ivar version: `3.11`.
    """

    version: str

    def pip_arguments(self) -> list[str]:
        """Return the options by which pip takes wheels for it, and never builds anything."""
        tag = f"cp{self.version.replace('.', '')}"
        abis = [word for abi in (tag, "abi3", "none") for word in ("--abi", abi)]
        platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_aarch64")]
        return [
            *("--only-binary=:all:", "--python-version", self.version, "--implementation", "cp"),
            *abis,
            *platforms,
            *("--platform", "any"),
        ]


def kernel_package(depends: Mapping[str, tuple[str, ...]]) -> str:
    """Return the package with the image that the metapackage stands for."""
    return depends[KERNEL][0]
