"""An image that somebody else has open: launches of every kind are refused, or not, alike, whatever QEMU the other is.

What the other does to the image in use is not asked here, nor what QEMU's locks leave open: only that a clone, whose
disks are plugged into a QEMU that has long been running, takes and heeds the locks that a boot takes and heeds.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.bench.daemons import all_ready
from tests.daemons import daemon, wait_for_status
from tests.disks import host
from tests.hosts import ACCEL
from tests.records import records
from tests.running import Guestlaunch

HELD_S = 30.0
SHARES_NOTHING, SHARES_WRITING = "virtio-blk-pci,drive=d", "virtio-blk-pci,drive=d,share-rw=on"
# Who may have the image: a command, or the device of a virtual machine.
WRITERS = {
    "nbd": ("qemu-nbd", "-t", "-f", "{format}", "-k", "{socket}", "{image}"),
    "nbd for several": ("qemu-nbd", "-t", "-e", "4", "-f", "{format}", "-k", "{socket}", "{image}"),
    "io": ("qemu-io", "-f", "{format}", "{image}"),
    "a virtual machine": (SHARES_NOTHING,),
    "a virtual machine that shares": (SHARES_WRITING,),
}
READERS = {
    "nbd": ("qemu-nbd", "-t", "-r", "-f", "{format}", "-k", "{socket}", "{image}"),
    "io": ("qemu-io", "-r", "-f", "{format}", "{image}"),
}
# The drive of ours: guestfish's options of add-drive, the format of the image, and the place among the disks.
DRIVES = {
    "raw": ("format:raw", "raw", 0),
    "probed second": ("", "raw", 1),
    "second": ("format:raw", "raw", 1),
    "with a label": ("format:raw label:own", "raw", 0),  # does not fit a clone's slot
    "qcow2": ("format:qcow2", "qcow2", 0),
    "probed": ("", "qcow2", 0),
}
READ_ONLY = {
    "read-only": ("format:raw readonly:true", "raw", 0),
    "read-only second": ("format:qcow2 readonly:true", "qcow2", 1),
}
FEW = ("raw", "probed second")


def answering(other: subprocess.Popen[bytes], question: bytes) -> None:
    """Wait until a program that reads commands has answered one: it has opened its image then."""
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdin.write(question)
    other.stdin.flush()
    while b"return" not in (line := other.stdout.readline()) and b"MiB" not in line:
        assert line, "it ended"


def greeting(path: Path, other: subprocess.Popen[bytes]) -> None:
    """Wait until an NBD server greets: it has opened its image then."""
    deadline = time.monotonic() + HELD_S
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(HELD_S)
            client.connect(str(path))
            if client.recv(8) == b"NBDMAGIC":
                return
        assert other.poll() is None, f"it ended with {other.returncode}"
        assert time.monotonic() < deadline, "it does not answer"
        time.sleep(0.01)


@contextlib.contextmanager
def held(command: tuple[str, ...], image: Path, image_format: str) -> Iterator[None]:
    """Have another program hold an image open for the length of the context."""
    path = image.with_suffix(".sock")
    if len(command) == 1:
        command = (
            *("qemu-system-aarch64", "-machine", "virt", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"),
            *("-drive", "id=d,if=none,file={image},format={format}", "-device", command[0]),
        )
    words = [word.format(format=image_format, socket=path, image=image) for word in command]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        try:
            if words[0] == "qemu-nbd":
                greeting(path, other)
            else:
                answering(other, b"length\n" if words[0] == "qemu-io" else b'{"execute": "qmp_capabilities"}\n')
            yield
        finally:
            other.kill()


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """An image of each format, and `other`, which nobody holds."""
    made = {name: tmp_path / f"{name}.img" for name in ("raw", "qcow2", "other")}
    for name, path in made.items():
        host("qemu-img", "create", "-q", "-f", name if name == "qcow2" else "raw", path, "4M")
    return made


Launch = Callable[[str, str], str]


@pytest.fixture
def launch(guestlaunch: Guestlaunch, evidence: Path, images: dict[str, Path]) -> Launch:
    """Launch with one of DRIVES, by a kind of start, and return why it was refused, an empty text if it was not."""

    def run(start: str, drive: str) -> str:
        options, image_format, place = (DRIVES | READ_ONLY)[drive]
        lines = [f"add-drive {images[image_format]} {options}"]
        lines.insert(1 - place, f"add-drive {images['other']} format:raw")
        if start == "standby":
            wait_for_status(guestlaunch, all_ready)
        script = "\n".join([*lines, "run", "list-devices"]) + "\n"
        command = ("guestfish", *ACCEL, "--start", "auto" if start == "standby" else start)
        result = guestlaunch(*command, stdin=script)
        record = records(evidence)[-1]
        assert record["start"] == start
        if result.status == 0:
            assert result.stdout.split() == ["/dev/sda", "/dev/sdb"]
            return ""
        assert record["outcome"] == "failure"
        # Which of the locks it is that QEMU tries first is its own affair.
        return re.sub(r"Failed to get (shared )?\"\w+\" lock", "no lock", result.error_line)

    return run


def refusal(image: Path) -> str:
    """Return what is said of an image in use."""
    hint = "another process has it open for writing: end that, or open the disk read-only"
    return f"guestlaunch: disk is in use: {image}: no lock ({hint})"


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_keeps_other_writers_out(launch: Launch, images: dict[str, Path], template: Path, name: str) -> None:
    """Whether it would share the image or not, and wherever the disk goes: in the same words as a cold launch."""
    every = name == "nbd"
    for image_format in ("raw", "qcow2") if every else ("raw",):
        with held(WRITERS[name], images[image_format], image_format):
            drives = [drive for drive, (_, its_format, _) in DRIVES.items() if its_format == image_format]
            told = {drive: launch("warm", drive) for drive in drives if every or drive in FEW}
            assert set(told.values()) == {refusal(images[image_format])}, told
            assert launch("cold", drives[0]) == refusal(images[image_format])


@pytest.mark.parametrize("name", READERS)
def test_readers_are_no_obstacle(launch: Launch, images: dict[str, Path], template: Path, name: str) -> None:
    """Who reads and lets others write is not asked to leave: neither in a clone nor in a boot."""
    with held(READERS[name], images["raw"], "raw"):
        assert [launch(start, "raw") for start in ("cold", "warm")] == ["", ""]


def test_read_only_drives_are_let_in(launch: Launch, images: dict[str, Path], template: Path) -> None:
    """A drive that is only read is there beside a writer, as libguestfs asks for it without locks."""
    with held(WRITERS["nbd"], images["raw"], "raw"), held(WRITERS["nbd"], images["qcow2"], "qcow2"):
        assert [launch("warm", drive) for drive in READ_ONLY] == ["", ""]
        assert launch("cold", "read-only") == ""


@contextlib.contextmanager
def launched(guestlaunch: Guestlaunch, start: str, image: Path) -> Iterator[None]:
    """Have a launch of ours hold an image for the length of the context."""
    process = guestlaunch.start(guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, "--start", start)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"add-drive {image} format:raw\nrun\necho running\n")
    process.stdin.flush()
    assert process.stdout.readline() == "running\n"
    yield
    process.stdin.close()
    assert process.wait(60) == 0


@pytest.mark.parametrize("start", ["cold", "warm"])
def test_our_launches_keep_others_out(
    guestlaunch: Guestlaunch, launch: Launch, images: dict[str, Path], template: Path, start: str
) -> None:
    """A launch that holds a disk is as good a lock as any other QEMU, against ours and against others."""
    with launched(guestlaunch, start, images["raw"]):
        assert [launch("warm", drive) for drive in FEW] == [refusal(images["raw"])] * 2
        other = guestlaunch.run("qemu-io", "-f", "raw", "-c", "length", images["raw"])
        assert "lock" in other.stderr
        assert launch("warm", "read-only") == ""


def test_standby_clones_keep_the_rules(
    guestlaunch: Guestlaunch, launch: Launch, images: dict[str, Path], template: Path
) -> None:
    """A clone that has waited for its launch is no different, whoever comes first."""
    with daemon(guestlaunch, "--standby", "1"):
        with held(WRITERS["nbd"], images["raw"], "raw"):
            assert [launch("standby", drive) for drive in FEW] == [refusal(images["raw"])] * 2
            assert launch("standby", "read-only") == ""
        wait_for_status(guestlaunch, all_ready)
        with launched(guestlaunch, "auto", images["raw"]):
            assert launch("standby", "raw") == refusal(images["raw"])
            assert "lock" in guestlaunch.run("qemu-io", "-f", "raw", "-c", "length", images["raw"]).stderr
        assert launch("standby", "raw") == ""
