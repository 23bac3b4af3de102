"""The private root: what is in it, where it lies, whom it belongs to, and that it goes away."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest

from orchestrator.errors import HypervisorError
from orchestrator.hypervisor import embed
from tests.processes import both_guardians

TOP = Path(__file__).resolve().parents[3]

OWNER = """
import sys
from pathlib import Path
from orchestrator.hypervisor import embed
root = embed.private_root(Path(sys.argv[1]))
assert embed.private_root(Path("/elsewhere")) is root
for path in sys.argv[2:]:
    root.claim(Path(path))
print(root.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder with room for socket paths, which pytest's own have not."""
    with tempfile.TemporaryDirectory(prefix="gl-", dir="/tmp") as folder:
        yield Path(folder)


def owner(state_dir: Path, *claims: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that makes its root; return it and the root's path."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(state_dir), *map(str, claims)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOP)},
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().rstrip("\n"))


def wait_gone(*paths: Path) -> bool:
    """Tell whether the paths vanish within ten seconds."""
    end = time.monotonic() + 10
    while any(os.path.lexists(path) for path in paths) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(os.path.lexists(path) for path in paths)


def test_superusers_conf_leaves_disks_alone() -> None:
    """As the superuser, libvirt may not touch owners and needs no user, cgroup or namespace of the host's."""
    lines = embed.qemu_conf(privileged=True).splitlines()
    for line in ("dynamic_ownership = 0", "remember_owner = 0", 'user = "root"', "namespaces = []"):
        assert line in lines
    assert embed.qemu_conf(privileged=False) == 'stdio_handler = "file"\n'


def test_conf_of_a_superuser_who_cannot_change_users() -> None:
    """Where setgroups is forbidden, libvirt is told the number by which it leaves users and groups as they are."""
    lines = embed.qemu_conf(privileged=True, changes_user=False).splitlines()
    assert 'user = "+4294967295"' in lines
    assert 'group = "+4294967295"' in lines
    assert "dynamic_ownership = 0" in lines


def test_root_heeds_the_runtime_directory_that_is_set(tmp_path: Path) -> None:
    """Where the state directory's path is too long, the root lies where sockets are to lie."""
    assert embed.bases(tmp_path, Path("/set")) == (tmp_path / "libvirt/roots", Path("/set"), embed.bases(tmp_path)[-1])


def test_root_is_private_furnished_and_removed(short_dir: Path) -> None:
    """A process gets one root, closed to others, with the shared cache in it; it is gone when the process has ended."""
    process, root = owner(short_dir)
    assert root.parent == short_dir / "libvirt" / "roots"
    assert root.stat().st_mode & 0o777 == 0o700
    assert (root / "etc" / "qemu.conf").read_text().startswith("stdio_handler")
    assert (root / "cache").resolve() == short_dir / "libvirt" / "cache"
    process.communicate("")
    assert process.returncode == 0
    assert not root.exists()
    assert (short_dir / "libvirt" / "cache").is_dir()


def test_killed_owners_root_and_claims_are_removed(short_dir: Path) -> None:
    """The guardian removes the root and the claimed folders of a process that was killed, and nothing else.

    What a claim names is removed where it is one of the things that we make; a user's own files are not, nor are links.
    """
    folder, file, link, other = (short_dir / name for name in ("gl-0123456789ab", "file", "c-01234567", "a b"))
    for made in (folder, other):
        made.mkdir()
        (made / "x").touch()
    file.touch()
    link.symlink_to(other)
    process, root = owner(short_dir, folder, file, link, other, short_dir / "gl-ba9876543210")
    process.kill()
    process.communicate()
    assert wait_gone(root, folder)
    assert file.exists()
    assert link.is_symlink()
    assert (other / "x").exists()


def test_guardian_killed_together_with_its_owner(short_dir: Path) -> None:
    """A second guardian, under another name, does what the first one cannot do any more; no next start is needed."""
    folder = short_dir / "gl-0123456789ab"
    folder.mkdir()
    process, root = owner(short_dir, folder)
    for pid in (process.pid, both_guardians(root)["leftovers.py"]):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert wait_gone(root, folder)


@pytest.mark.parametrize("name", ["leftovers.py", "lifeline.py"])
def test_a_guardian_that_dies_is_replaced(short_dir: Path, name: str) -> None:
    """Each of the two is there again after its death, and both go with their owner."""
    process, root = owner(short_dir)
    killed = both_guardians(root)[name]
    os.kill(killed, signal.SIGKILL)
    both_guardians(root, unlike=killed)
    process.communicate("")
    assert process.returncode == 0
    assert wait_gone(root)


def test_an_owner_waits_for_its_guardians(short_dir: Path) -> None:
    """When a process has ended in good order, so have its guardians: none is left for init to reap."""
    process, root = owner(short_dir)
    pids = both_guardians(root).values()
    process.communicate("")
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_sweep_spares_the_living(short_dir: Path) -> None:
    """A sweep removes a root whose owner is dead; not one whose owner lives, and nothing that is no root."""
    process, living = owner(short_dir)
    dead = living.parent / "1-dead"
    dead.mkdir()
    (dead / embed.OWNER).touch()
    launch = living.parent / "gl-b1df6e29902d"
    launch.mkdir()
    done = embed.sweep(short_dir)
    assert done == [f"removed {dead}"]
    assert living.exists()
    assert launch.exists()
    assert not dead.exists()
    process.communicate("")


def test_root_goes_elsewhere_when_the_state_directory_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets need short paths: the runtime directory takes the root then."""
    runtime = Path("/tmp") / f"rt-{os.getpid()}"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    process, root = owner(tmp_path / ("x" * 90))
    try:
        assert root.parent == runtime / "guestlaunch"
        assert (root / "cache").resolve().is_relative_to(tmp_path)
    finally:
        process.communicate("")
        (runtime / "guestlaunch" / ".lock").unlink()
        (runtime / "guestlaunch").rmdir()
        runtime.rmdir()


@pytest.mark.parametrize("name", ["a b", "&x=y", "#", "%41", ";", "+", "'", "é", "日本", "?"])
def test_odd_state_directory_is_escaped(short_dir: Path, name: str) -> None:
    """A parser of URIs reads the very folder back from the connection's name."""
    root = embed.Root(path=short_dir / name / "1-abcd", owner_fd=-1, guardian=cast("Any", None))
    query = root.uri.partition("?")[2]
    assert not set(query.removeprefix("root=")) & set(" &#;+?'é")
    assert unquote(query.removeprefix("root=")) == str(root.path)


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\\b", "a\nb", os.fsdecode(b"\xff")])
def test_root_goes_elsewhere_from_a_name_that_libvirt_does_not_take(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Where a comma would end QEMU's argument, and the like, the next folder takes the root; the cache stays."""
    (short_dir / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir / "run"))
    process, root = owner(short_dir / name)
    try:
        assert root.parent == short_dir / "run" / "guestlaunch"
        assert (root / "cache").resolve() == short_dir / name / "libvirt" / "cache"
    finally:
        process.communicate("")


def test_longest_root_leaves_room_for_the_sockets() -> None:
    """A folder fits exactly as long as libvirt's longest socket path below it has 107 bytes."""
    name = f"{os.getpid()}-0000"
    below = len(f"/{name}/lib/qemu/domain-123456-{'n' * 20}/monitor.sock")
    assert embed.fits(Path("/" + "x" * (107 - below - 1)))
    assert not embed.fits(Path("/" + "x" * (107 - below)))
    assert not embed.fits(Path("/" + "é" * ((107 - below) // 2 + 1)))


def test_strangers_folder_is_refused(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that others may write to, or that is a link, is not used; when none is left the error names each."""
    open_to_all, link = short_dir / "open", short_dir / "link"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link.symlink_to(short_dir)
    monkeypatch.setattr(embed, "_own", {})  # a test before this one may have made this process's root
    monkeypatch.setattr(embed, "bases", lambda *_: (open_to_all, link, Path("/" + "x" * 99)))
    with pytest.raises(HypervisorError, match="others can write.*symbolic link.*too long"):
        embed.private_root(short_dir)


def test_a_full_disk_is_no_lack_of_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to do is another thing than where a folder may not be written to."""
    for number, hint in ((errno.ENOSPC, "free some space there"), (errno.EACCES, "that you can write to")):

        def fail(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(embed, "_own", {})
        monkeypatch.setattr(embed, "_make_root", fail)
        with pytest.raises(HypervisorError, match=f"{os.strerror(number)}.*{hint}"):
            embed.private_root(tmp_path)
