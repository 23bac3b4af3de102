"""The files behind a launch's disks, with real guests: the client's own, wherever its names lead; and all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.daemons import daemon
from tests.disks import MIB, naming_relatively
from tests.running import Guestlaunch

TCG = ("--accel", "tcg")

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
        environ = guestlaunch.exports(*TCG) | places
        with daemon(guestlaunch):
            guestlaunch.run(*command, environ=environ).ok()
    else:
        guestlaunch("exec", *TCG, "--", *command, environ=places).ok()
    assert (tmp_path / "a/d.img").read_bytes() == b"A" * MIB
    assert (tmp_path / "b/d.img").read_bytes() == b"x" + b"B" * (MIB - 1)


def test_names_relative_to_the_tool(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """Names inside images that QEMU takes from its working directory are found in the tool's, read-only or not."""
    cwd, images = naming_relatively(tmp_path)
    lines = [f"add {path} readonly:{str(i == 0).lower()} format:qcow2" for i, (_, path) in enumerate(images)]
    reads = [f"pread-device /dev/sd{letter} 8 0" for letter in "abcd"]
    script = "\n".join([*lines, "run", *(f"{read}\necho ''" for read in reads)])
    printed = guestlaunch("guestfish", *TCG, stdin=script, cwd=cwd).ok().stdout
    assert printed.split("\n")[:4] == [text for text, _ in images]
