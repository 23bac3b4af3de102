"""Directories may have any name that QEMU and libvirt can be told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.disks import DiskFactory
from tests.hosts import ACCEL
from tests.running import Guestlaunch

pytestmark = pytest.mark.usefixtures("without_firmware")


def test_directories_with_every_awkward_character(
    guestlaunch: Guestlaunch, session_dir: Path, state_dir: Path, disk_image: DiskFactory
) -> None:
    """Odd names of state, runtime and temporary directory are data, and what is made is made there and nowhere else."""
    name = "x y&z=#;+,'\"é"
    beside = set(session_dir.iterdir())
    odd = session_dir / name
    state = odd / "s"
    folders = {"GUESTLAUNCH_STATE_DIR": state, "GUESTLAUNCH_RUNTIME_DIR": odd / "%41r", "TMPDIR": odd / "%41t"}
    for folder in folders.values():
        folder.mkdir(mode=0o700, parents=True)
    (state / "appliances").symlink_to(state_dir / "appliances")
    disk = disk_image(f"{name}%41.img")
    environ = {key: str(folder) for key, folder in folders.items()}
    result = guestlaunch("guestfish", *ACCEL, "--", "--ro", "-a", disk, "run", ":", "list-filesystems", environ=environ)
    assert "/dev/sda" in result.ok().stdout
    assert set(session_dir.iterdir()) - beside == {odd}
    assert not list((odd / "%41r").glob("gl-*"))
    shutil.rmtree(odd)
