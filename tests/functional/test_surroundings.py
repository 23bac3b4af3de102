"""Launches from odd surroundings, with real guests: what a caller left behind changes no outcome."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.daemons import daemon
from tests.disks import DiskFactory
from tests.hosts import ACCEL, accel
from tests.running import Guestlaunch

pytestmark = pytest.mark.usefixtures("without_firmware")

ANSWER = ("run", ":", "list-filesystems")
# Runs the rest of its command line with SIGCHLD ignored and SIGTERM blocked, and without stdin.
_SPOIL = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
os.close(0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
SPOILT = ("/usr/bin/python3", "-c", _SPOIL)


def test_a_tool_with_spoilt_surroundings(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """SIGCHLD ignored, SIGTERM blocked, stdin closed: a tool launches, ends its guest, and its failure is seen."""
    program = guestlaunch.bin_dir / "guestlaunch"
    script = 'guestfish --ro -a "$1" run : list-filesystems && exec guestfish nonsense'
    result = guestlaunch.run(*SPOILT, program, "exec", *ACCEL, "--", "sh", "-c", script, "sh", disk_image("d.img"))
    assert (result.status, result.stdout) == (1, "/dev/sda: ext4\n"), result


def test_a_daemon_with_spoilt_surroundings_and_another_locale(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, tmp_path: Path
) -> None:
    """A guestlaunchd that inherited all that, in a locale that is not UTF-8, opens disks whatever their names are."""
    names = [tmp_path / "größer €.img", Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin1-\xe4.img"))]
    names[0].write_bytes(disk_image("d.img").read_bytes())
    names[1].write_bytes(names[0].read_bytes())
    exports = guestlaunch.exports(*ACCEL)
    with daemon(guestlaunch, prefix=SPOILT, environ={"LC_ALL": "C", "PYTHONUTF8": "0"}):
        disks = [word for name in names for word in ("-a", name)]
        found = guestlaunch.run("guestfish", "--ro", *disks, *ANSWER, environ=exports).ok()
        launches = guestlaunch("status", "--json").json()["outcomes"]
    assert found.stdout == "/dev/sda: ext4\n/dev/sdb: ext4\n"
    assert launches == {"success": 1}


def test_a_listening_guestfish_outlives_its_command(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """`eval "$(guestlaunch guestfish -- --listen)"`: the guestfish in the background launches when it is told to."""
    script = """
eval "$(guestlaunch guestfish --accel "$2" -- --listen)" || exit 1
server=$(tr '\\0' '\\n' </proc/$GUESTFISH_PID/environ | sed -n 's/^GUESTLAUNCH_SOCKET=//p')
[ -n "$server" ] || exit 2
until [ ! -e "$server" ]; do sleep 0.05; done
guestfish --remote add-ro "$1"
guestfish --remote run && guestfish --remote list-filesystems
status=$?
guestfish --remote exit
while kill -0 "$GUESTFISH_PID" 2>/dev/null; do sleep 0.05; done
exit $status
"""
    result = guestlaunch.run("/bin/sh", "-c", script, "sh", disk_image("d.img"), accel()).ok()
    assert result.stdout == "/dev/sda: ext4\n"


def test_the_reason_of_a_failure_is_in_the_users_file(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, tmp_path: Path
) -> None:
    """`guestfish 2>FILE`: libguestfs's own lines, which come after the reason, are not written over it."""
    exports = guestlaunch.exports(*ACCEL) | {"GUESTLAUNCH_CONNECT": "qemu:///nonsense"}
    with (tmp_path / "err").open("w") as file:
        done = subprocess.run(
            ["guestfish", "--ro", "-a", disk_image("d.img"), "run"], env=guestlaunch.environ | exports, stderr=file,
            timeout=120, check=False,
        )  # fmt: skip
    text = (tmp_path / "err").read_text()
    assert (done.returncode, text.count("\0")) == (1, 0), text
    assert sum(line.startswith("guestlaunch: ") for line in text.splitlines()) == 1, text
    assert "libguestfs: error: " in text


def test_nohup_holds_for_a_daemon(guestlaunch: Guestlaunch) -> None:
    """A guestlaunchd that nohup started outlives its terminal."""
    with daemon(guestlaunch, prefix=("/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh")) as process:
        process.send_signal(signal.SIGHUP)
        guestlaunch("status", "--json").ok()
        assert process.poll() is None
