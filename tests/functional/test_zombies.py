"""Where process 1 reaps nobody, as in many containers, launches leave no zombies: who starts a process waits for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.disks import DiskFactory
from tests.hosts import ACCEL
from tests.running import Guestlaunch

pytestmark = pytest.mark.usefixtures("without_firmware")

# Process 1 of a namespace: runs a command, waits for that one alone, and says who is left.
FIRST = """
import json, subprocess, sys, time
from pathlib import Path

def left():
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        pid, _, rest = status.read_text().partition(" (")
        name, _, rest = rest.rpartition(") ")
        if pid != "1":
            found.append((name, rest[0]))
    return found

done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True, text=True)
deadline = time.monotonic() + 15
while any(state != "Z" for _, state in left()) and time.monotonic() < deadline:
    time.sleep(0.05)
print(json.dumps({"status": done.returncode, "out": done.stdout, "err": done.stderr, "left": left()}))
"""


@pytest.mark.parametrize("how", ["command", "environment"])
def test_one_launch_leaves_no_zombie(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, fresh: Path, state_dir: Path, how: str
) -> None:
    """Neither our programs, nor guardians, nor the QEMUs that libvirt asks what they can do: the cache is empty."""
    if os.geteuid() != 0:
        pytest.skip("a pid namespace needs the superuser")
    (fresh / "appliances").symlink_to(state_dir / "appliances")
    options = (*ACCEL, "--state-dir", fresh)
    tool = ("guestfish", "--ro", "-a", disk_image(), "run", ":", "list-filesystems")
    environ: dict[str, str] = {}
    command: tuple[str | Path, ...] = (guestlaunch.bin_dir / "guestlaunch", "exec", *options, "--", *tool)
    if how == "environment":
        environ, command = guestlaunch.exports(*options), tool
    first = (guestlaunch.bin_dir / "python", "-c", FIRST)
    result = guestlaunch.run("unshare", "--pid", "--fork", "--mount-proc", *first, *command, environ=environ)
    said = json.loads(result.ok().stdout)
    assert (said["status"], said["out"]) == (0, "/dev/sda: ext4\n"), said["err"]
    assert said["left"] == []
