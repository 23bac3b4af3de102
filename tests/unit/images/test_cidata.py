"""The disk for cloud-init: a file system that others know as what it is, with what it was given."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.images.cidata import make_cidata
from orchestrator.install.iso import Iso

FILES = {
    "user-data": b"#cloud-config\n" * 1000,
    "meta-data": b"instance-id: 1\n",
    "vendor-data": b"",
    "network-config": b"x",
}


def read(path: Path) -> dict[str, bytes]:
    """Return the files of a disk by their names, as a reader of another make finds them."""
    found = {}
    with Iso(path) as iso:
        for name in FILES:
            if (entry := iso.find(name)) is not None:
                found[name] = b"".join(iso.read(entry))
    return found


def test_a_disk(tmp_path: Path) -> None:
    """Its label and type are what blkid sees, and so cloud-init; each file is whole, under its name."""
    path = tmp_path / "seed.img"
    path.write_bytes(make_cidata(FILES))
    command = ["/sbin/blkid", "-p", "-o", "export", str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(said)
    assert path.stat().st_size % 512 == 0
    assert read(path) == FILES


def test_what_is_too_much(tmp_path: Path) -> None:
    """It is said, not cut off."""
    path = tmp_path / "seed.img"
    large = {"user-data": bytes(8 << 20)}
    path.write_bytes(make_cidata(large))
    assert read(path) == large
    with pytest.raises(ValueError, match="at most 8 MiB"):
        make_cidata({"user-data": bytes((8 << 20) + 1)})
