"""What no two guests may have in common, asked of a guest by unmodified guestfish."""

from __future__ import annotations

from pathlib import Path

from tests.hosts import ACCEL
from tests.running import Guestlaunch

_ASK = (
    "for file in urandom random; do head -c 32 /dev/$file | base64 -w 0; echo; done;"
    " cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id /etc/machine-id; mktemp -u XXXXXXXXXXXXXXXX"
)
_ANSWERS = 6


def identities(guestlaunch: Guestlaunch, disk: Path, *options: str) -> list[str]:
    """Launch with options, and return random bytes of both devices, a UUID, boot_id, machine-id and a random name."""
    command = ("guestfish", *ACCEL, *options, "--", "--ro", "-a")
    found = guestlaunch(*command, disk, stdin=f'run\ndebug sh "{_ASK}"\n').ok().stdout.split()
    assert len(found) == _ANSWERS, found
    return found


def assert_unlike(found: list[list[str]]) -> None:
    """Fail the test if two guests have anything of `identities` in common."""
    for kind in zip(*found, strict=True):
        assert len(set(kind)) == len(found), kind
