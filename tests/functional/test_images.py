"""The files behind a launch's disks, with real guests: the client's own, wherever its names lead; and all of them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.daemons import daemon
from tests.disks import MIB, naming_relatively
from tests.hosts import ACCEL
from tests.images import qcow2
from tests.running import Guestlaunch

pytestmark = pytest.mark.usefixtures("without_firmware")


# Run COMMAND where A is B: by a bind mount, and in a chroot that is a copy of the host but for that.
ELSEWHERE = {
    "mount": 'mount --bind "$B" "$A"; exec "$@"',
    "chroot": 'mount --rbind / "$ROOT"; mount --bind "$B" "$ROOT$A"; exec chroot "$ROOT" "$@"',
}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize(("kind", "server"), [("mount", "daemon"), ("chroot", "private")])
def test_the_tools_own_files(guestlaunch: Guestlaunch, tmp_path: Path, kind: str, server: str) -> None:
    """A tool that sees another file by the same name than the server writes to its own, and the other stays."""
    for name, text in (("a", b"A" * MIB), ("b", b"B" * MIB)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "d.img").write_bytes(text)
    (tmp_path / "root").mkdir()
    places = {"A": str(tmp_path / "a"), "B": str(tmp_path / "b"), "ROOT": str(tmp_path / "root")}
    tool = ("guestfish", "--format=raw", "-a", tmp_path / "a/d.img", "run", ":", "pwrite-device", "/dev/sda", "x", "0")
    command = ("unshare", "--mount", "sh", "-c", ELSEWHERE[kind], "sh", *tool)
    if server == "daemon":
        environ = guestlaunch.exports(*ACCEL) | places
        with daemon(guestlaunch):
            guestlaunch.run(*command, environ=environ).ok()
    else:
        guestlaunch("exec", *ACCEL, "--", *command, environ=places).ok()
    assert (tmp_path / "a/d.img").read_bytes() == b"A" * MIB
    assert (tmp_path / "b/d.img").read_bytes() == b"x" + b"B" * (MIB - 1)


def test_names_relative_to_the_tool(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """Names inside images that QEMU takes from its working directory are found in the tool's, read-only or not."""
    cwd, images = naming_relatively(tmp_path)
    lines = [f"add {path} readonly:{str(i == 0).lower()} format:qcow2" for i, (_, path) in enumerate(images)]
    reads = [f"pread-device /dev/sd{letter} 8 0" for letter in "abcd"]
    script = "\n".join([*lines, "run", *(f"{read}\necho ''" for read in reads)])
    printed = guestlaunch("guestfish", *ACCEL, stdin=script, cwd=cwd).ok().stdout
    assert printed.split("\n")[:4] == [text for text, _ in images]


def test_a_jobs_images_are_not_trusted(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """A job reads a chain that stays below its directory, not one that leaves it, unless the images are trusted."""
    (tmp_path / "images").mkdir()
    job = tmp_path / "images/job.toml"
    job.write_text(
        'commands = ["pread-device /dev/sda 8 0"]\n[[disks]]\npath = "top.qcow2"\nformat = "qcow2"\n', encoding="utf-8"
    )
    for folder, text in (("images", b"the base"), (".", b"a secret")):
        (tmp_path / folder / "base").write_bytes(text.ljust(MIB))
    command = ("run", *ACCEL, job, "--json")
    for backing, options, expected in (
        ("base", (), "the base"),
        ("../base", (), ""),
        ("../base", ("--image-roots", tmp_path), "a secret"),
    ):
        (tmp_path / "images/top.qcow2").write_bytes(qcow2(backing, backing_format="raw"))
        done = guestlaunch(*command, *options)
        if expected:
            assert done.json()["commands"][0]["output"] == expected
        else:
            assert "is not below" in done.error_line


def test_a_tools_images_are_trusted(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """A tool's own images name what they like, as with libguestfs alone, and their formats are probed; unless told."""
    (tmp_path / "images").mkdir()
    (tmp_path / "base").write_bytes(b"a secret".ljust(MIB))
    top = tmp_path / "images/top"
    top.write_bytes(qcow2("../base", backing_format="raw"))
    script = ("-a", top, "run", ":", "pread-device", "/dev/sda", "8", "0")
    assert guestlaunch("guestfish", *ACCEL, "--", *script).ok().stdout == "a secret"
    refused = guestlaunch("guestfish", *ACCEL, "--image-policy", "untrusted", "--", *script)
    assert "no format is given for it, and the header says qcow2" in refused.error_line


def test_what_an_untrusted_image_names_is_not_followed_before_the_launch(
    guestlaunch: Guestlaunch, tmp_path: Path
) -> None:
    """For a read-only drive libguestfs has qemu-img make an overlay first: nobody is called, and the reason is told."""
    image = tmp_path / "evil.qcow2"
    image.write_bytes(qcow2(f"nbd+unix:///x?socket={tmp_path}/nbd", backing_format="raw"))
    command = ("guestfish", *ACCEL, "--image-policy", "untrusted", "--", "--format=qcow2", "--ro", "-a", image, "run")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/nbd")
        server.listen()
        server.setblocking(False)
        refused = guestlaunch(*command)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert refused.status == 1
    assert "guestlaunch: cannot use the disk: " in refused.stderr
    assert "its backing file is no local file" in refused.stderr
