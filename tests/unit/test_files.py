"""Folders are used only where nobody else decides what they are; what is removed is beneath them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from orchestrator import files


def why_not(path: Path) -> str:
    """Return why a folder is refused."""
    with pytest.raises(OSError, match=".") as caught:
        files.open_folder(path)
    return str(caught.value.strerror)


def test_a_file_that_somebody_names(tmp_path: Path) -> None:
    """It is read as far as it may go; what is none is said to be none, and waited for by nobody."""
    plain, fifo = tmp_path / "plain", tmp_path / "fifo"
    plain.write_bytes(b"12345")
    os.mkfifo(fifo)
    assert files.read_whole(plain, 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        files.read_whole(plain, 4)
    for path in (fifo, Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="no regular file"):
            files.read_whole(path)
        with pytest.raises(OSError, match="no regular file"):
            files.check_regular(path)
    with pytest.raises(OSError, match="nobody writes to it"):
        files.read_whole(fifo, pipe=True)
    with pytest.raises(FileNotFoundError):
        files.read_whole(tmp_path / "none", pipe=True)
    files.check_regular(plain)
    files.check_regular(tmp_path, folder=True)
    files.check_regular(fifo, pipe=True)


def test_a_pipe_that_somebody_writes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that comes is read, however late; not from one who writes nothing."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as pipe:

        def write_late() -> None:
            pipe.write(b"2")
            pipe.close()

        late = threading.Timer(0.1, write_late)
        pipe.write(b"1")
        late.start()
        assert files.read_whole(f"/dev/fd/{reading}", pipe=True) == b"12"
        late.join()
    os.close(reading)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    kept = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # who opens it between two of our looks loses nothing
    with subprocess.Popen(["sh", "-c", 'cat "$1" >"$2"', "sh", __file__, fifo]):
        deadline = time.monotonic() + 10
        while True:  # until that one has it open
            try:
                assert files.read_whole(fifo, pipe=True) == Path(__file__).read_bytes()
                break
            except OSError:
                assert time.monotonic() < deadline
    os.close(kept)
    monkeypatch.setattr(files, "_PIPE_S", 0.1)
    silent = os.open(fifo, os.O_RDWR)
    with pytest.raises(OSError, match="nobody wrote to the pipe for"):
        files.read_whole(fifo, pipe=True)
    os.close(silent)


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


OWN_GROUP = """
import os, sys
import files
os.umask(0o002)
os.mkdir("own")
os.close(files.open_folder("own"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("group", "refused"), [(4321, False), (4322, True)])
def test_folder_of_a_users_own_group(group: int, refused: bool) -> None:
    """With a group of their own, users have the umask 0002 on some systems: what it may write to is theirs alone."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        shutil.copy(files.__file__, place)  # the checkout may be where only we can read
        os.chown(place, 4321, group)
        become = ("setpriv", "--reuid=4321", f"--regid={group}", "--clear-groups", "/usr/bin/python3", "-c", OWN_GROUP)
        run = subprocess.run(become, capture_output=True, text=True, check=False, cwd=place, timeout=60)
        assert ("others can write to it" in run.stderr, run.returncode) == (refused, int(refused)), run.stderr
    finally:
        shutil.rmtree(place)


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


def test_output_leaves_devices_pipes_and_links_as_they_are(tmp_path: Path) -> None:
    """What a user names as /dev/null or >(...) is written to; no file takes its place, nor that of a link."""
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):  # nobody reads
        files.write_output(pipe, b"new")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_output(pipe, b"new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert pipe.is_fifo()
    link.symlink_to(target)
    files.write_output(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    primary, terminal = os.openpty()
    files.write_output(os.ttyname(terminal), b"new")
    assert os.read(primary, 10) == b"new"
    os.close(primary)
    os.close(terminal)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "pipe", "target"]


def test_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    """What goes wrong while a file is written leaves neither the file nor a part of it."""

    def fail() -> None:
        with files.written_whole(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
