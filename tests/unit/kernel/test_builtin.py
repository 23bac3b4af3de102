"""The initrd of a run: the user's archives, aligned, and ours behind them; what it runs survives any quoting."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.appliance.initrd import CpioEntry, read_cpio
from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError
from orchestrator.kernel import builtin
from orchestrator.kernel.builtin import archive, busybox, join, joined_size, run_file
from orchestrator.kernel.console_file import ConsoleFile


def elf(machine: int, kinds: tuple[int, ...]) -> bytes:
    """Return the beginning of an ELF image with program headers of these kinds."""
    data = bytearray(64 + 56 * len(kinds))
    data[:6] = b"\x7fELF\x02\x01"
    data[18:20] = machine.to_bytes(2, "little")
    data[32:40] = (64).to_bytes(8, "little")
    data[54:56], data[56:58] = (56).to_bytes(2, "little"), len(kinds).to_bytes(2, "little")
    for number, kind in enumerate(kinds):
        data[64 + 56 * number : 68 + 56 * number] = kind.to_bytes(4, "little")
    return bytes(data)


def test_the_hosts_busybox_must_be_static_and_of_the_arch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that needs a loader would end in a panic that looks like the kernel's."""
    path = tmp_path / "busybox"
    monkeypatch.setattr(builtin, "_BUSYBOX_OF_HOST", (str(tmp_path / "none"), str(path)))
    path.write_bytes(elf(62, (6, 1, 1)))
    assert busybox(Arch.X86_64, None) == path.read_bytes()
    for bad in (elf(62, (6, 3, 1)), elf(183, (6, 1)), b"#!/bin/sh\n"):
        path.write_bytes(bad)
        with pytest.raises(CapabilityError, match="appliance build --arch x86_64"):
            busybox(Arch.X86_64, None)


@pytest.mark.parametrize(
    "command", [("true",), ("sh", "-c", "echo 'a b' \"$1\"; exit 3"), ("a", "", " ", "\n", "'", "ä\udcff", "*", "--")]
)
def test_the_command_comes_through_a_shell_unchanged(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Whatever its words are; they are read by the guest's shell, of which dash is the like."""
    path = tmp_path / "run"
    path.write_bytes(run_file(number="0" * 32, command=command, share="/mnt"))
    script = f'. {path}; echo "$number|$share|$directory|$interactive"; printf "%s\\0" "$@"'
    said = subprocess.run(["dash", "-c", script], capture_output=True, check=True).stdout
    head, _, words = said.partition(b"\n")
    assert head == b"0" * 32 + b"|/mnt|/mnt|"
    assert words.split(b"\0")[:-1] == [word.encode("utf-8", "surrogateescape") for word in command]


def test_without_a_command_there_is_a_shell(tmp_path: Path) -> None:
    """The guest knows by a word of its own, not by an empty command."""
    path = tmp_path / "run"
    path.write_bytes(run_file(number="1", command=(), share=None))
    script = f'. {path}; echo "$interactive|$directory|$#"'
    assert subprocess.run(["dash", "-c", script], capture_output=True, check=True).stdout == b"yes|/|0\n"


def test_archives_follow_each_other(tmp_path: Path) -> None:
    """Each begins at a multiple of four, as the kernel wants it, and the size is known before."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"x" * 1001)
    second.write_bytes(b"y" * 2)
    own = archive(b"busybox", [CpioEntry(name="m", mode=0o100644)], number="0", command=("true",), share=None)
    join((first, second), own, tmp_path / "joined")
    joined = (tmp_path / "joined").read_bytes()
    assert len(joined) == joined_size((first, second), own)
    assert joined == b"x" * 1001 + bytes(3) + b"yy" + bytes(2) + own
    assert joined_size((), b"") == 0
    names = [entry.name for entry in read_cpio(own)]
    assert names[:3] == ["dev", "dev/console", "guestlaunch"]
    assert {"guestlaunch/init", "guestlaunch/run", "guestlaunch/marker.sh", "m"} <= set(names)


@pytest.mark.parametrize("cut", [0, 50, 300])
def test_a_damaged_archive_is_no_archive(cut: int) -> None:
    """Reading it raises, and neither ends early nor goes on for ever."""
    own = archive(b"busybox" * 100, [], number="0", command=(), share=None)
    with pytest.raises(ValueError, match="cut off"):
        list(read_cpio(own[:cut]))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_init_is_a_clean_script() -> None:
    """As the appliance's scripts are."""
    path = Path(builtin.__file__).parent / "guest" / "init"
    subprocess.run(["shellcheck", "-s", "dash", str(path)], check=True)


def test_a_consoles_file_is_bounded_and_keeps_its_end(tmp_path: Path) -> None:
    """However much a guest writes: two files of half the size, the newer one the last."""
    path = tmp_path / "console"
    with ConsoleFile(path, most_bytes=1000) as kept:
        for number in range(100):
            kept.write(f"{number:03}".encode() * 13)
    before, now = path.with_name("console.1").read_bytes(), path.read_bytes()
    assert len(before) == 500
    assert len(now) <= 500
    whole = b"".join(f"{number:03}".encode() * 13 for number in range(100))
    assert whole.endswith(before + now)


def test_a_consoles_file_that_breaks_takes_no_more(tmp_path: Path) -> None:
    """Its folder is gone when it has to be begun anew: no run fails for that."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with ConsoleFile(folder / "console", most_bytes=100) as kept:
        kept.write(b"x" * 50)
        shutil.rmtree(folder)
        kept.write(b"y" * 50)
        kept.write(b"z")
    assert not folder.exists()


def test_a_consoles_file_that_cannot_be_written(tmp_path: Path) -> None:
    """It is refused before anything runs."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path / "none" / "console", fifo, tmp_path):
        with pytest.raises(CapabilityError, match="cannot write the console's file"):
            ConsoleFile(path)


def test_a_consoles_file_that_is_a_device(tmp_path: Path) -> None:
    """It takes all, and is not put aside: by a link, as what would be put aside then is only that."""
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    with ConsoleFile(link, most_bytes=10) as kept:
        kept.write(b"x" * 100)
    assert list(tmp_path.iterdir()) == [link]
    assert link.is_char_device()
