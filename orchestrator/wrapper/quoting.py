"""libguestfs's quoting of QEMU options (its `qemuopts` library), undone: every comma of a value is doubled.

QEMU itself does not undo it for options that are no lists (`-kernel`, `-append`); libguestfs doubles the commas there
all the same, so that a directory or parameter with a comma fails with QEMU. Here it is undone everywhere.
"""

from __future__ import annotations

import re

_ITEM = re.compile(r"(?:[^,]|,,)*", re.DOTALL)


def plain(value: str) -> str:
    """Return the value of an option that is no list, commas single."""
    return value.replace(",,", ",")


def items(value: str) -> list[str]:
    """Return the items of an option list, commas single. An item never begins with a comma."""
    found, at = [], 0
    while True:
        match = _ITEM.match(value, at)
        assert match is not None  # the pattern matches the empty string
        found.append(plain(match.group()))
        at = match.end() + 1
        if at > len(value):
            return found


def pairs(value: str) -> list[tuple[str, str | None]]:
    """Return an option list as (key, value); the value is None for an item without `=`."""
    split = (item.partition("=") for item in items(value))
    return [(key, text if equals else None) for key, equals, text in split]
