"""What is understood of apt's answers, and how versions are chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.appliance.build import _features, _library, _package_versions
from orchestrator.appliance.packages import Package, _dependencies, upstream_version
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError


def package(name: str, version: str = "1", depends: tuple[str, ...] = ()) -> Package:
    return Package(name=name, version=version, depends=depends)


@pytest.mark.parametrize(
    ("version", "upstream"),
    [("1:1.48.6-2", "1.48.6"), ("2.0-1-3", "2.0-1"), ("7", "7"), ("1:7.2+dfsg-7+deb12u18+b3", "7.2+dfsg")],
)
def test_upstream_version(version: str, upstream: str) -> None:
    """Epoch and Debian revision go, the rest stays."""
    assert upstream_version(version) == upstream


def test_dependencies() -> None:
    """Version limits, arch qualifiers and blanks go; alternatives stay in order."""
    fields = {
        "Depends": "libc6 (>= 2.35), fdisk | util-linux (<< 2.29.2), perl:any",
        "Recommends": "libguestfs-xfs",
        "Suggests": "libguestfs-zfs",
    }
    assert _dependencies(fields) == ["libc6", "fdisk|util-linux", "perl", "libguestfs-xfs", "libguestfs-zfs"]
    assert _dependencies({}) == []


def test_features_are_what_feature_packages_need() -> None:
    """libguestfs-xfs stands for xfsprogs; libguestfs itself is no feature; a package unknown here is left out."""
    library = package("libguestfs0", depends=("libc6", "libguestfs-xfs", "libguestfs-gone"))
    known = {
        "libc6": [package("libc6", depends=("libgcc-s1",))],
        "libguestfs-xfs": [package("libguestfs-xfs", depends=("libguestfs0", "xfsprogs|xfsdump"))],
    }
    assert _features(library, known) == ["xfsprogs|xfsdump"]


def test_the_fitting_library() -> None:
    """Of several versions the one that fits the host is taken, the newest where the host has none."""
    versions = [package("libguestfs0", "1:1.50.1-1"), package("libguestfs0", "1:1.48.6-2")]
    assert _library(versions, Arch.AARCH64, "1.48.6") is versions[1]
    assert _library(versions, Arch.AARCH64, None) is versions[0]


def test_no_fitting_library_says_both() -> None:
    """Where the distribution has no library of the host's version, the error says both."""
    with pytest.raises(ApplianceError, match=r"libguestfs:arm64.*library is 1\.52\.0, the distribution has 1\.48\.6"):
        _library([package("libguestfs0", "1:1.48.6-2")], Arch.AARCH64, "1.52.0")


def test_versions_from_file_names() -> None:
    """Apt's file names give names and versions, epochs included."""
    files = [Path("/a/lvm2_2.03.16-2_arm64.deb"), Path("/a/libguestfs0_1%3a1.48.6-2_arm64.deb")]
    assert _package_versions(files) == {"lvm2": "2.03.16-2", "libguestfs0": "1:1.48.6-2"}
