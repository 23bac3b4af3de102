"""Whose packages an appliance is built from, and each vendor's own way: keys, the kernel, where other archs lie.

A vendor is known by the Origin of its Release files, so that what is derived from a distribution and takes its packages
finds them, too. Fetching is `packages`' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.domain.model import Arch

DEBIAN_ARCH = {Arch.AARCH64: "arm64", Arch.X86_64: "amd64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """Who signs packages.

    :ivar origin: as its Release files say it.
    :ivar keyrings: patterns of the files that its keys lie in.
    :ivar kernels: the package that stands for the newest kernel, by arch.
    :ivar elsewhere: where the vendor has an arch, if it does not have all archs in one place.
    """

    origin: str
    keyrings: tuple[str, ...]
    kernels: Mapping[Arch, str]
    elsewhere: Mapping[Arch, str] = field(default_factory=dict)


# Keys that the administrator trusts for all sources, of any vendor.
_TRUSTED = ("/etc/apt/trusted.gpg", "/etc/apt/trusted.gpg.d/*")

VENDORS = (
    Vendor(
        origin="Debian",
        keyrings=(*_TRUSTED, "/usr/share/keyrings/debian-archive-keyring.*"),
        kernels={arch: f"linux-image-{name}" for arch, name in DEBIAN_ARCH.items()},
    ),
    # One kernel package for the image, others for its modules; mirrors carry one of the two archives or both.
    Vendor(
        origin="Ubuntu",
        keyrings=(*_TRUSTED, "/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
        kernels=dict.fromkeys(Arch, "linux-image-generic"),
        elsewhere={
            Arch.X86_64: "http://archive.ubuntu.com/ubuntu/",
            Arch.AARCH64: "http://ports.ubuntu.com/ubuntu-ports/",
        },
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One list of packages that the host's apt has fetched."""

    origin: str
    arch: str  # Debian's name
    uri: str
    suite: str
    component: str


def vendor_of(sources: Iterable[Source]) -> Vendor | None:
    """Return the vendor of the host's packages; None where it is none of those known here."""
    origins = [source.origin for source in sources]
    known = [vendor for vendor in VENDORS if vendor.origin in origins]
    return max(known, key=lambda vendor: origins.count(vendor.origin), default=None)


def for_arch(vendor: Vendor, sources: Iterable[Source], arch: Arch) -> list[str]:
    """Return where a vendor's packages of an arch are, as lines of sources.list without their type.

    What the administrator set up for the arch is taken; else what there is for the host's own, from where the vendor
    has that arch.
    """
    ours = [source for source in sources if source.origin == vendor.origin]
    same = [source for source in ours if source.arch == DEBIAN_ARCH[arch]]
    uri = "" if same else vendor.elsewhere.get(arch, "")
    found: dict[tuple[str, str], dict[str, None]] = {}
    for source in same or ours:
        found.setdefault((uri or source.uri, source.suite), {})[source.component] = None
    return [f"{uri} {suite} {' '.join(components)}" for (uri, suite), components in found.items()]
