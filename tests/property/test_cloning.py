"""Whatever a path holds, a disk that is plugged into a clone is the one that was meant."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.cloning import plugs, split_cmdline
from orchestrator.domain.model import Arch, Disk, FileSource

HOSTILE = st.text(alphabet="a ,=:'\"\\<>&;#%$()\t\r\n\x7f\x85\u2028üß漢-]", min_size=1, max_size=30)
PATHS = HOSTILE.map(lambda text: "/" + text)

# What QEMU's human monitor makes of a backslash and a letter within quotes (get_str in its monitor/hmp.c).
ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


def monitor_words(line: str) -> list[str]:
    """Return the words of a line as QEMU's human monitor reads them."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"|([^ ]+)', line, flags=re.DOTALL)
    return [plain or re.sub(r"\\(.)", lambda escape: ESCAPES[escape[1]], quoted) for quoted, plain in words]


def qemu_options(text: str) -> dict[str, str]:
    """Read `key=value,…` as QEMU does: a doubled comma is a comma, a single one ends the value."""
    parts = [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]
    return dict(part.split("=", 1) for part in parts)


@given(path=PATHS, index=st.integers(0, 30))
def test_paths_come_back(path: str, index: int) -> None:
    """Libvirt's XML and QEMU's monitor give back the very characters that went in, for the disk at that place."""
    disks = tuple(Disk(source=FileSource(path="/x"), format="raw") for _ in range(index))
    # One that does not fit the slot: each is plugged in at its place.
    before = (Disk(source=FileSource(path="/x"), format="raw", serial="s"), *disks)
    *_, native = plugs((*before, Disk(source=FileSource(path=path), format="raw")), Arch.AARCH64, ())
    *_, passed = plugs((*before, Disk(source=FileSource(path=path))), Arch.AARCH64, ())
    (filled,) = plugs((Disk(source=FileSource(path=path)),), Arch.AARCH64, ())
    element = ET.fromstring(native.xml or "")
    assert [element.find(tag).get(name) for tag, name in (("source", "file"), ("address", "target"))] == [  # type: ignore[union-attr]
        path,
        str(index + 1),
    ]
    (_, drive), (_, device) = passed.commands
    command, address, options = monitor_words(drive["command-line"])
    assert (command, address) == ("drive_add", "0")
    expected = {"id": f"drive{index + 1}", "if": "none", "file.driver": "file", "file.filename": path}
    assert qemu_options(options) == expected
    assert (device["scsi-id"], device["drive"]) == (index + 1, f"drive{index + 1}")
    options = monitor_words(filled.commands[0][1]["command-line"])[2]
    assert qemu_options(options) == expected | {"id": "drive0", "node-name": "slot-disk"}


@given(
    words=st.lists(st.from_regex(r"[a-z._]{1,8}(=[a-z0-9,]{0,5})?|TERM=[a-z]{1,3}|guestfs_verbose=1", fullmatch=True))
)
def test_no_word_of_a_command_line_is_lost(words: list[str]) -> None:
    """Each word is either booted with or told later, in order; splitting what is booted with gives nothing more."""
    booted, late = split_cmdline(" ".join(words))
    assert sorted([*booted.split(), *late]) == sorted(words)
    assert [word for word in words if word in late] == list(late)
    assert split_cmdline(booted) == (booted, ())
