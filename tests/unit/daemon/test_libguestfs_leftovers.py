"""What libguestfs leaves when it is killed goes; what a living tool, or anybody else, has made stays."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.daemon.libguestfs_leftovers import Tool
from orchestrator.domain.model import Disk, FileSource
from orchestrator.launch.request import LaunchRequest

# A tool: it starts a wrapper, says its number, and lives until its input ends.
TOOL = "sleep 60 & echo $!; read x; kill $!"


@pytest.fixture
def tool() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that stands for the tool, and the number of the wrapper that it started."""
    with subprocess.Popen(["sh", "-c", TOOL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        wrapper = int(process.stdout.readline())
        yield process, wrapper
        process.kill()
        with contextlib.suppress(ProcessLookupError):
            subprocess.run(["kill", str(wrapper)], check=False, capture_output=True)


def request(guestfsd: Path, *overlays: Path, drives: tuple[Path, ...] = ()) -> LaunchRequest:
    """Return a launch with that socket, with overlays of libguestfs's and drives of the user's."""
    files = tuple(Disk(source=FileSource(path=str(path)), shared_read=True) for path in overlays)
    files += tuple(Disk(source=FileSource(path=str(path))) for path in drives)
    return LaunchRequest(kernel="/k", initrd="/i", cmdline="", disks=files, guestfsd_path=str(guestfsd))


@pytest.fixture
def launch(tmp_path: Path) -> LaunchRequest:
    """A launch as libguestfs asks for it, with its folders and a disk of the user's in a folder of his."""
    names = ("libguestfsAb1234", "libguestfsXYZ789", "images", "libguestfsimages")
    sockets, overlays, *own = (tmp_path / name for name in names)
    for folder in (sockets, overlays, *own):
        folder.mkdir()
    drives = tuple(folder / "overlay1.qcow2" for folder in own)
    for disk in (overlays / "overlay1.qcow2", *drives):
        disk.touch()
    return request(sockets / "guestfsd.sock", overlays / "overlay1.qcow2", drives=drives)


def left(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def test_killed_tools_folders_go(
    tmp_path: Path, tool: tuple[subprocess.Popen[str], int], launch: LaunchRequest
) -> None:
    """Once the tool is dead its two folders go, and nothing of the user's."""
    process, wrapper = tool
    with Tool(wrapper) as watched:
        watched.asks_for(launch)
        process.kill()
        process.wait()
        assert watched.clear() == [tmp_path / "libguestfsAb1234", tmp_path / "libguestfsXYZ789"]
    assert left(tmp_path) == ["images", "libguestfsimages"]
    assert left(tmp_path / "libguestfsimages") == ["overlay1.qcow2"]


@pytest.mark.parametrize(("name", "goes"), [("vars1.fd", True), ("my-vars.fd", False)])
def test_killed_tools_variables_go(
    tmp_path: Path, tool: tuple[subprocess.Popen[str], int], launch: LaunchRequest, name: str, goes: bool
) -> None:
    """On aarch64 libguestfs copies the firmware's variables, 64 MiB; others by another name are the user's."""
    process, wrapper = tool
    variables = tmp_path / "libguestfsFd1234" / name
    variables.parent.mkdir()
    variables.touch()
    with Tool(wrapper) as watched:
        watched.asks_for(replace(launch, pflash=("/code", str(variables))))
        process.kill()
        process.wait()
        assert (variables.parent in watched.clear()) is goes
    assert variables.exists() is not goes


def test_folders_below_stay(tmp_path: Path, tool: tuple[subprocess.Popen[str], int], launch: LaunchRequest) -> None:
    """What libguestfs makes there is files: what is in a folder is somebody's."""
    process, wrapper = tool
    (tmp_path / "libguestfsXYZ789" / "work").mkdir()
    (tmp_path / "libguestfsXYZ789" / "work" / "thesis").touch()
    with Tool(wrapper) as watched:
        watched.asks_for(launch)
        process.kill()
        process.wait()
        assert watched.clear() == [tmp_path / "libguestfsAb1234"]
    assert left(tmp_path / "libguestfsXYZ789" / "work") == ["thesis"]


def test_living_tool_keeps_its_folders(
    tmp_path: Path, tool: tuple[subprocess.Popen[str], int], launch: LaunchRequest
) -> None:
    """A tool that lives removes them itself, or launches once more with them."""
    with Tool(tool[1]) as watched:
        watched.asks_for(launch)
        assert watched.clear() == []
    assert len(left(tmp_path)) == 4


def test_child_that_took_over_keeps_the_folders(
    tmp_path: Path, tool: tuple[subprocess.Popen[str], int], launch: LaunchRequest
) -> None:
    """Where the one who launched is dead, an open connection of guestfsd's shows that a child of his goes on."""
    process, wrapper = tool
    path = str(launch.guestfsd_path)
    with Tool(wrapper) as watched, socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as guest:
        watched.asks_for(launch)
        listener.bind(path)
        listener.listen()
        guest.connect(path)
        accepted, _ = listener.accept()
        listener.close()
        process.kill()
        process.wait()
        with accepted:
            assert watched.clear() == []
        guest.close()
        assert len(watched.clear()) == 2
    assert left(tmp_path) == ["images", "libguestfsimages"]


def test_tool_that_died_before_it_was_looked_for(launch: LaunchRequest) -> None:
    """The console that a wrapper inherited names the tool even when nothing else does any more."""
    outer, inner = socket.socketpair()
    with outer, inner:
        # The child makes the pair and passes one end on; we stand for the wrapper.
        code = (
            "import array, socket, sys; s = socket.socket(fileno=0); a, b = socket.socketpair();"
            "s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [a.fileno()]))])"
        )
        subprocess.run([sys.executable, "-c", code], stdin=inner.fileno(), check=True)
        _, (console,), _, _ = socket.recv_fds(outer, 1, 1)
    with contextlib.closing(socket.socket(fileno=console)), Tool(os.getpid(), console) as watched:
        assert watched.ended
        assert not watched.is_abandoned()  # nothing was asked for yet
        watched.asks_for(launch)
        assert watched.is_abandoned()


def test_who_took_over_holds_the_console(launch: LaunchRequest) -> None:
    """A child that goes on for a tool (guestmount) is seen by its end of the console, whatever network QEMU is in."""
    outer, inner = socket.socketpair()
    code = (
        "import array, os, socket, sys\n"
        f"s = socket.socket(fileno={inner.fileno()})\n"
        "a, b = socket.socketpair()\n"
        "s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [a.fileno()]))])\n"
        "a.close()\n"
        "if os.fork() == 0: sys.stdin.read()\n"
    )
    with outer, inner:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, pass_fds=(inner.fileno(),))
        _, (console,), _, _ = socket.recv_fds(outer, 1, 1)
        child.wait(timeout=60)
    assert child.stdin is not None
    with contextlib.closing(socket.socket(fileno=console)) as ours, Tool(os.getpid(), console) as watched:
        watched.asks_for(launch)
        assert watched.ended
        assert not watched.is_abandoned()
        child.stdin.close()
        assert ours.recv(1) == b""  # the child has ended
        assert watched.is_abandoned()


def test_a_console_of_somebody_elses_names_no_tool(tool: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    """A connection to a server, or a file, does not say who the tool is; the wrapper's parent does."""
    process, wrapper = tool
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
        Path("/dev/null").open() as null,
    ):
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client.connect(str(tmp_path / "s"))
        with Tool(wrapper, client.fileno()) as one, Tool(wrapper, null.fileno()) as other:
            before = (one.ended, other.ended)
            process.kill()
            process.wait()
            assert (before, one.ended, other.ended) == ((False, False), True, True)


def test_folders_of_other_names_stay(tmp_path: Path, tool: tuple[subprocess.Popen[str], int]) -> None:
    """Only what bears libguestfs's own names is taken for its own; a link is not followed."""
    process, wrapper = tool
    for name in ("libguestfs", "libguestfsAb12345", "xlibguestfsAb1234"):
        (tmp_path / name).mkdir()
    (tmp_path / "libguestfslink12").symlink_to(tmp_path / "libguestfs")
    disks = [tmp_path / name / "overlay1.qcow2" for name in left(tmp_path)]
    before = left(tmp_path)
    with Tool(wrapper) as watched:
        watched.asks_for(request(tmp_path / "libguestfsAb12345" / "guestfsd.sock", *disks))
        process.kill()
        process.wait()
        assert watched.clear() == []
    assert left(tmp_path) == before


def test_tool_that_was_never_seen(tmp_path: Path, launch: LaunchRequest) -> None:
    """A wrapper without a parent of its own, or that is gone, says nothing of its tool: all stays."""
    for pid in (0, 1, 4194303):
        with Tool(pid) as watched:
            watched.asks_for(launch)
            assert watched.clear() == []
    assert len(left(tmp_path)) == 4
