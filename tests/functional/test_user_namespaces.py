"""Root of a user namespace, who is an ordinary user outside: /run is not his, and changing users may be forbidden."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# By way of our binding, which keeps libvirt from writing to stderr.
pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")

from tests.disks import MIB
from tests.orchestrators import Start, gone, require_readable_by
from tests.running import Guestlaunch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives namespaces many users")

USER, FIRST = 54321, 300_000
ALONE = f"0 {USER} 1\n"  # as `unshare --map-root-user` has it
MANY = f"{ALONE}1 {FIRST} 65535\n"  # as rootless containers have it
# Runs the rest of the command line in a new user namespace, once that has its maps and a line has been read.
NAMESPACED = ("unshare", "--user", "sh", "-c", 'read -r _; exec "$@"', "sh")


def give_users(pid: int, users: str, *, setgroups: bool) -> None:
    """Give the new user namespace of a process its users, as soon as it is there."""
    namespace, ours = Path(f"/proc/{pid}/ns/user"), Path("/proc/self/ns/user").readlink()
    end = time.monotonic() + 30
    while namespace.readlink() == ours:
        assert time.monotonic() < end
        time.sleep(0.01)
    if not setgroups:
        Path(f"/proc/{pid}/setgroups").write_text("deny")
    for kind in ("gid", "uid"):
        Path(f"/proc/{pid}/{kind}_map").write_text(users)


@pytest.fixture
def home(session_dir: Path) -> Iterator[Path]:
    """A home of that user's."""
    require_readable_by(USER)
    session_dir.chmod(0o711)
    folder = session_dir / "namespaced"
    for made in (folder, folder / "state", folder / "tmp", folder / ".local/state/guestlaunch/appliances"):
        made.mkdir(parents=True)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    yield folder
    shutil.rmtree(folder)


def test_embedded_driver_where_root_is_alone(home: Path, start: Start) -> None:
    """With one user in the namespace, and setgroups forbidden, libvirt starts and runs QEMU as that user."""
    environ = {"HOME": str(home), "XDG_RUNTIME_DIR": ""}
    one = start(home / "state", "namespaced", environ=environ, user=USER, prefix=NAMESPACED)
    give_users(one.process.pid, ALONE, setgroups=False)
    answer = one.ask("")
    assert "error" not in answer, answer
    assert Path(f"/proc/{answer['pid']}").stat().st_uid == USER
    assert one.ask("resume") == {"status": "running"}
    assert one.ask("end") == {"reason": "shutdown", "exit_code": 0, "names": []}
    assert one.finish() == 0
    assert gone(Path(answer["root"]))


def test_a_launch_where_root_has_many_users(guestlaunch: Guestlaunch, built_state_dir: Path, home: Path) -> None:
    """A tool without any setting writes to a disk of another of the namespace's users; QEMU has a user of its own.

    None of them may use a host's KVM.
    """
    disk = home / "d.img"
    disk.write_bytes(bytes(MIB))
    disk.chmod(0o600)
    os.chown(disk, FIRST + 4, FIRST + 4)
    environ = {
        **dict.fromkeys(("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "GUESTLAUNCH_STATE_DIR", "GUESTLAUNCH_RUNTIME_DIR"), ""),
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "GUESTLAUNCH_TIMELINE": "",
        "GUESTLAUNCH_LOG": str(home / "log.jsonl"),
        "APPLIANCES": str(built_state_dir / "appliances"),
    }
    mounted = 'mount --bind "$APPLIANCES" "$HOME/.local/state/guestlaunch/appliances"; exec "$@"'
    tool = guestlaunch.start(
        *("unshare", "--mount", "sh", "-c", mounted, "sh"),
        *("setpriv", "--reuid", f"{USER}", "--regid", f"{USER}", "--clear-groups", *NAMESPACED),
        *(guestlaunch.bin_dir / "guestlaunch", "guestfish", "--accel", "tcg", "--", "--format=raw", "-a", disk),
        *("run", ":", "pwrite-device", "/dev/sda", "hello", "0", ":", "pread-device", "/dev/sda", "5", "0"),
        environ=environ,
    )
    give_users(tool.pid, MANY, setgroups=True)
    out, err = tool.communicate("\n", timeout=180)
    assert (tool.returncode, out) == (0, "5\nhello"), err
    assert disk.read_bytes()[:5] == b"hello"
    lines = map(json.loads, (home / "log.jsonl").read_text().splitlines())
    (confinement,) = (line["confinement"] for line in lines if line["event"] == "launch_started")
    assert 20_000 <= confinement["uid"] < 65_534
    assert confinement["network"] is True
