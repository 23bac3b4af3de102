"""Folders are used only where nobody else decides what they are; what is removed is beneath them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import files

TOP = Path(__file__).resolve().parents[2]


def why_not(path: Path) -> str:
    """Return why a folder is refused."""
    with pytest.raises(OSError, match=".") as caught:
        files.open_folder(path)
    return str(caught.value.strerror)


def test_own_folder_is_opened(tmp_path: Path) -> None:
    """A folder below ours, or below one that is sticky, is opened; what is missing is made for us alone."""
    for name in ("here", "sticky/here"):
        os.close(files.open_folder(tmp_path / name, make=True))
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
        (tmp_path / "sticky").mkdir(exist_ok=True)
        (tmp_path / "sticky").chmod(0o1777)


def test_what_is_missing_is_not_made_unasked(tmp_path: Path) -> None:
    """Looking makes nothing."""
    with pytest.raises(FileNotFoundError):
        files.open_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777])
def test_folder_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """Who may write to a folder decides what is in it, sticky or not."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    assert why_not(tmp_path / "open") == "others can write to it"


def test_folder_below_one_open_to_others_is_refused(tmp_path: Path) -> None:
    """Who may write to a folder on the way decides what the path means."""
    (tmp_path / "open" / "ours").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    assert why_not(tmp_path / "open" / "ours") == "others can write to it"
    with pytest.raises(PermissionError):
        files.open_folder(tmp_path / "open" / "new", make=True)
    assert not (tmp_path / "open" / "new").exists()


def test_links(tmp_path: Path) -> None:
    """A link of ours on the way is followed, wherever it leads: what it leads to is looked at. None at the end is."""
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "relative").symlink_to("../" + tmp_path.name + "/absolute")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("absolute", "relative"):
        descriptor = files.open_folder(tmp_path / name / "below")
        assert os.path.samestat(os.fstat(descriptor), (tmp_path / "real" / "below").stat())
        os.close(descriptor)
        assert why_not(tmp_path / name) == "it is a symbolic link"
    assert why_not(tmp_path / "loop" / "below") == "it is a symbolic link"
    (tmp_path / "real").chmod(0o777)
    assert why_not(tmp_path / "relative" / "below") == "others can write to it"


def test_file_is_no_folder(tmp_path: Path) -> None:
    """A file on the way or at the end is refused by name."""
    (tmp_path / "file").touch()
    assert why_not(tmp_path / "file") == "it is not a directory"
    assert why_not(tmp_path / "file" / "below") == "it is not a directory"


def test_tree_is_removed_and_nothing_that_it_links_to(tmp_path: Path) -> None:
    """All below a name goes, be it closed, strangely named or a socket's; what links lead to stays."""
    tree, other = tmp_path / "tree", tmp_path / "other"
    (tree / "closed" / "below").mkdir(parents=True)
    (other / "kept").mkdir(parents=True)
    (tree / "link").symlink_to(other)
    (tree / "closed" / "below" / os.fsdecode(b"\xff\n")).touch()
    (tree / "closed").chmod(0o000)
    os.mkfifo(tree / "fifo")
    folder = files.open_folder(tmp_path)
    try:
        assert files.remove_tree("tree", folder)
        assert not files.remove_tree("tree", folder)
    finally:
        os.close(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert (other / "kept").is_dir()


@pytest.mark.parametrize("name", ["/a b&#%;+,\"'é日\n", "/\U0001f600"])
def test_plain_names(name: str) -> None:
    """Whatever XML can hold is a name that libvirt can be told."""
    assert files.has_plain_name(name)


@pytest.mark.parametrize("name", ["/\x01", "/\x1b[0m", "/\udcff", "/\ufffe"])
def test_names_that_are_not_plain(name: str) -> None:
    """Control characters and bytes that are no UTF-8 cannot be written in XML."""
    assert not files.has_plain_name(name)


HOLD = """
import sys
from orchestrator import files
with files.locked(sys.argv[1], exclusive=sys.argv[2] == "exclusive") as lock:
    print(lock, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("held", "wanted", "got"), [
    ("shared", False, True), ("shared", True, False), ("exclusive", False, False), ("exclusive", True, False),
])  # fmt: skip
def test_lock_between_processes(tmp_path: Path, held: str, wanted: bool, got: bool) -> None:
    """Any number share the lock of a folder, one alone has it for itself, and whoever holds it can be named."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), held],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TOP,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with files.locked(tmp_path, exclusive=wanted) as lock:
            assert lock is got
            if not lock:
                assert files.holders(tmp_path) == f"pid {process.pid}"
        process.communicate("")
    with files.locked(tmp_path, exclusive=True) as lock:
        assert lock
    assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o600


def test_lock_of_a_folder_that_is_gone(tmp_path: Path) -> None:
    """Nobody has the lock of a folder that is not there, nor of one that was removed by him who had it."""
    with files.locked(tmp_path / "none", exclusive=False) as lock:
        assert not lock
    (tmp_path / "doomed").mkdir()
    with files.locked(tmp_path / "doomed", exclusive=True) as first:
        (tmp_path / "doomed").rename(tmp_path / "gone")
        with files.locked(tmp_path / "doomed", exclusive=False) as second:
            assert (first, second) == (True, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_reader_cannot_lock_a_folder(tmp_path: Path) -> None:
    """Who can read a folder can lock the folder itself, and every file that he can open: not what we lock."""
    with files.locked(tmp_path, exclusive=False):
        pass
    tmp_path.chmod(0o755)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with files.locked(tmp_path, exclusive=True) as lock:
            assert lock
    finally:
        os.close(folder)
    os.seteuid(4321)
    try:
        with pytest.raises(PermissionError):
            os.open(tmp_path / ".lock", os.O_RDONLY)
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_folder_of_another_is_used_without_a_lock(tmp_path: Path) -> None:
    """A shared appliance is another user's: it is used, nothing is made in it, and it is never had for ourselves."""
    os.chown(tmp_path, 4321, 4321)
    with files.locked(tmp_path, exclusive=False) as shared, files.locked(tmp_path, exclusive=True) as alone:
        assert (shared, alone) == (True, False)
    assert list(tmp_path.iterdir()) == []


def test_file_is_written_whole(tmp_path: Path) -> None:
    """A file has its new content and its mode, or, where that fails, what it had; nothing else stays beside it."""
    path = tmp_path / "a file"
    path.write_bytes(b"old")
    before = os.umask(0o077)
    try:
        files.write_whole(path, b"new", mode=0o644)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        files.write_whole(tmp_path / "folder", b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a file", "folder"]


def test_lock_file_is_no_link(tmp_path: Path) -> None:
    """A link that stands where a lock file should be is not followed; a lock file that all could open is closed."""
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        files.open_lock(tmp_path / "link")
    assert not (tmp_path / "victim").exists()
    (tmp_path / "lock").touch(0o644)
    os.close(files.open_lock(tmp_path / "lock"))
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_lock_of_a_file_is_waited_for(tmp_path: Path) -> None:
    """One has it at a time; whoever has waited long enough goes without."""
    path = tmp_path / "lock"
    with files.locked_file(path) as first, files.locked_file(path, seconds=0.1) as second:
        assert (first, second) == (True, False)
    with files.locked_file(path, seconds=0) as later:
        assert later


def test_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    """What goes wrong while a file is written leaves neither the file nor a part of it."""

    def fail() -> None:
        with files.written_whole(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
