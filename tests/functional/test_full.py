"""A file system that is full, below a user's disk or below our own files: one line, a failed record, nothing left.

The small file systems are tmpfs in mount namespaces of their own; mounting takes root.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.hosts import ACCEL
from tests.records import events, records
from tests.running import Guestlaunch, Result

# From here on the guest writes more than there is room for.
WRITE = ("run", ":", "part-disk", "/dev/sda", "mbr", ":", "mkfs", "ext2", "/dev/sda1", ":", "mount", "/dev/sda1", "/")
FILL = ("fill", "1", "40M", "/x", ":", "sync", ":", "echo", "synced")
NO_SPACE = "No space left on device"


def on_small_file_system(guestlaunch: Guestlaunch, folder: Path, size: str, script: str, *words: str | Path) -> Result:
    """Run a shell script in `folder`, an empty file system of that size that nobody else sees."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder.mkdir()
    mounted = f'mount -t tmpfs -o size={size} none "$0" && cd "$0" || exit 99\n{script}'
    return guestlaunch.run("unshare", "--mount", "sh", "-c", mounted, folder, *words)


def test_below_the_users_disk(guestlaunch: Guestlaunch, tmp_path: Path, evidence: Path) -> None:
    """The tool fails at once, with the reason and the disk's name; the disk is as after a power cut, and sound."""
    script = """
        qemu-img create -q -f qcow2 d.qcow2 64M
        "$@"; status=$?
        qemu-img check -q d.qcow2 || exit 98
        exit $status
    """
    command = (guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, "--", "--format=qcow2")
    disk = tmp_path / "small" / "d.qcow2"
    result = on_small_file_system(
        guestlaunch, disk.parent, "12m", script, *command, "-a", disk, *WRITE, ":", "echo", "written", ":", *FILL
    )
    ended = time.time()
    assert result.status == 1, str(result)
    assert result.stdout == "written\n"
    line = result.error_line
    assert line.startswith(f"guestlaunch: cannot write to the disk: {disk}: {NO_SPACE}")
    assert "free some space" in line
    assert result.stderr.count("guestlaunch: ") == 1
    [record] = records(evidence)
    assert (record["outcome"], record["error_phase"], record["ready"]) == ("failure", "workload", True)
    assert NO_SPACE in record["error"]
    [event] = events(evidence, "disk_error")
    assert (event["file"], event["reason"]) == (str(disk), NO_SPACE)
    assert ended - datetime.fromisoformat(event["timestamp"]).timestamp() < 20  # 1 s on a quiet machine


# Nothing half done: a copy of a variable store that is too short, hidden files, launches, a template's stage.
LEFT = r"""
    "$@"; status=$?
    find launches templates cache -name '*nvram-*' -size -64M -o -name '.*' -type f ! -name .lock \
        -o -path 'launches/*' -o -path 'templates/.*/*' 2>/dev/null | grep . && exit 98
    exit $status
"""


@pytest.mark.parametrize("size", ["4k", "16k", "64k", "256k", "512k"])
def test_below_our_own_files(guestlaunch: Guestlaunch, appliance: dict[str, Path], tmp_path: Path, size: str) -> None:
    """Whatever was to be written (a claim, a variable store, an overlay, the guest's own blocks), the line says so."""
    words = ("guestfish", *ACCEL, "--appliance", appliance["aarch64"], "--", "-a", os.devnull, "run")
    told(guestlaunch, tmp_path / "state", size, *words)


def test_below_a_template(guestlaunch: Guestlaunch, appliance: dict[str, Path], tmp_path: Path) -> None:
    """The file of its memory finds no room: QEMU is killed for it, and the line says why."""
    words = ("template", "build", *ACCEL, "--appliance", appliance["aarch64"])
    told(guestlaunch, tmp_path / "state", "8m", *words)


def told(guestlaunch: Guestlaunch, folder: Path, size: str, *words: str | Path) -> None:
    """Run a command with a state directory of that size; it ends with one line that says so, and nothing is left."""
    command = ("env", f"GUESTLAUNCH_STATE_DIR={folder}", guestlaunch.bin_dir / "guestlaunch", *words)
    result = on_small_file_system(guestlaunch, folder, size, LEFT, *command)
    assert result.status == 1, str(result)
    assert NO_SPACE in result.error_line, str(result)
    assert result.error_line.startswith("guestlaunch: cannot "), str(result)
    assert "internal error" not in result.stderr, str(result)
