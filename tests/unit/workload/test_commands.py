"""guestfish command lines as typed calls."""

from __future__ import annotations

import pytest

from orchestrator.errors import UsageError
from orchestrator.workload.commands import Call, parse
from tests.unit.workload.fake.guestfs import GuestFS


def parsed(line: str) -> Call:
    call = parse(line, GuestFS)
    assert call is not None
    return call


def test_words_become_typed_arguments() -> None:
    """Each word becomes what the method's annotation says."""
    call = parsed("part-add /dev/sda p 0x800 -34")
    assert (call.method, call.arguments) == ("part_add", ("/dev/sda", "p", 2048, -34))
    assert parsed("write /x 'ü\n'").arguments == ("/x", "ü\n".encode())
    assert parsed("command 'ls -l \"/a b\"'").arguments == (["ls", "-l", "/a b"],)
    assert parsed("set-network on").arguments == (True,)


def test_optional_arguments() -> None:
    """name:value after the required ones; the value may hold colons."""
    call = parsed("mkfs ext4 /dev/sda1 label:a:b blocksize:4K")
    assert call.options == {"label": "a:b", "blocksize": 4096}
    assert parsed("is-file /x followsymlinks:false").options == {"followsymlinks": False}


@pytest.mark.parametrize(
    ("word", "value"), [("1K", 1024), ("1KiB", 1024), ("1KB", 1000), ("2G", 2 << 30), ("0x10", 16), ("-1", -1)]
)
def test_sizes(word: str, value: int) -> None:
    """Suffixes as guestfish has them."""
    assert parsed(f"sleep {word}").arguments == (value,)


def test_lines_that_are_no_calls() -> None:
    """Comments and empty lines stand for nothing; `run` is the launch that has happened."""
    assert parse("  # note", GuestFS) is None
    assert parse("", GuestFS) is None
    assert parsed("run").method == "launch"


def test_leading_dash_lets_it_fail() -> None:
    """As in guestfish."""
    assert parsed("-cat /missing").may_fail
    assert not parsed("cat /missing").may_fail


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("list-device", "did you mean 'list-devices'"),
        ("edit /etc/fstab", "guestfish's own"),
        ("!ls", "no shell"),
        ("cat /x | sort", "no shell"),
        ("cat", "lacks path"),
        ("cat /x /y", "argument too many: /y"),
        ("mkfs ext4 /dev/sda1 lable:x", "did you mean 'label'"),
        ("mkfs ext4 /dev/sda1 label:x label:y", "given twice"),
        ("part-add /dev/sda p one 2", "startsect is 'one'"),
        ("part-add /dev/sda p 1Q 2", "startsect is '1Q'"),
        ("is-file /x followsymlinks:maybe", "true or false"),
        ("cat 'x", "No closing quotation"),
        ("-", "it has no name"),
        ("__init__", "no command __init__"),
    ],
)
def test_mistakes_are_named(line: str, part: str) -> None:
    """A mistake names the line and what would be right."""
    with pytest.raises(UsageError) as caught:
        parse(line, GuestFS)
    assert part in str(caught.value)
