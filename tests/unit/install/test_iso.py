"""Files out of an ISO image, by their own names, without mounting it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import LocationError
from orchestrator.install.iso import Iso
from orchestrator.install.source import TreeImage

SECTOR = 2048
FILE = b"kernel" * 1000


def record(name: bytes, sector: int, size: int, *, folder: bool = False, rock_ridge: bytes = b"") -> bytes:
    """Return a directory record."""
    area = b"NM" + bytes([5 + len(rock_ridge), 1, 0]) + rock_ridge if rock_ridge else b""
    body = (
        sector.to_bytes(4, "little") + sector.to_bytes(4, "big") + size.to_bytes(4, "little") + size.to_bytes(4, "big")
    )
    body += bytes(7) + bytes([2 if folder else 0, 0, 0, 1, 0, 0, 1, len(name)]) + name
    body += bytes((len(name) + 1) % 2) + area
    length = 2 + len(body) + len(body) % 2
    return (bytes([length, 0]) + body).ljust(length, b"\0")


def image(path: Path) -> Path:
    """Write an image with a folder, in which one file has a name by Rock Ridge, and one has not."""
    root = record(b"\0", 18, SECTOR, folder=True) + record(b"\1", 18, SECTOR, folder=True)
    root += record(b"INSTALL", 19, SECTOR, folder=True, rock_ridge=b"install.a64")
    folder = record(b"\0", 19, SECTOR, folder=True) + record(b"\1", 18, SECTOR, folder=True)
    folder += record(b"VMLINUZ.;1", 20, len(FILE), rock_ridge=b"vmlinuz") + record(b"INITRD.GZ;1", 20, 6)
    descriptor = (b"\1CD001\1".ljust(156, b"\0") + record(b"\0", 18, SECTOR, folder=True)).ljust(SECTOR, b"\0")
    last = b"\xffCD001\1".ljust(SECTOR, b"\0")
    sectors = [bytes(16 * SECTOR), descriptor, last, root.ljust(SECTOR, b"\0"), folder.ljust(SECTOR, b"\0"), FILE]
    path.write_bytes(b"".join(sectors))
    return path


def test_files_are_found_by_their_names(tmp_path: Path) -> None:
    """By Rock Ridge's, or ISO's own in any case."""
    with Iso(image(tmp_path / "a.iso")) as iso:
        kernel, initrd = iso.find("install.a64/vmlinuz"), iso.find("install.a64/initrd.gz")
        assert kernel is not None
        assert initrd is not None
        assert b"".join(iso.read(kernel)) == FILE
        assert b"".join(iso.read(initrd)) == b"kernel"
        assert iso.find("install.a64/none") is None
        assert iso.find("install.a64/vmlinuz/x") is None


def test_a_tree_in_an_image(tmp_path: Path) -> None:
    """Its files are kept outside it."""
    source = TreeImage(image(tmp_path / "a.iso"), tmp_path / "cache")
    assert source.has("install.a64/vmlinuz")
    assert not source.has("install.a64")
    assert source.text("install.a64/initrd.gz") == "kernel"
    assert source.fetch("install.a64/vmlinuz", None).path.read_bytes() == FILE
    with pytest.raises(LocationError, match="no none"):
        source.fetch("none", None)


@pytest.mark.parametrize("content", [b"", b"x" * 40_000, bytes(40_000)])
def test_no_image(tmp_path: Path, content: bytes) -> None:
    """Anything else is refused."""
    path = tmp_path / "a.iso"
    path.write_bytes(content)
    with pytest.raises(LocationError, match="no ISO 9660 image"):
        Iso(path)


def test_an_image_that_is_cut_off(tmp_path: Path) -> None:
    """A file of which a part is missing is none."""
    path = image(tmp_path / "a.iso")
    path.write_bytes(path.read_bytes()[:-100])
    with Iso(path) as iso, pytest.raises(LocationError, match="cut off"):
        list(iso.read(iso.find("install.a64/vmlinuz") or pytest.fail("not found")))
