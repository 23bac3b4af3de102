"""The guest's size among the user's own QEMU arguments: a second `-m` or `-smp`, which QEMU would prefer to the first.

libvirt describes memory and CPUs by several options, all of which would have to change with it: so what the user says
about them becomes part of the request. What is more than a size or a number is left to QEMU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import TranslationError
from orchestrator.wrapper import quoting

_MEMORY = re.compile(r"(\d+)(?:\.(\d+))?([BKMGTPE]?)", re.IGNORECASE)
_SHIFT = {"B": 0, "K": 10, "M": 20, "": 20, "G": 30, "T": 40, "P": 50, "E": 60}  # QEMU takes a bare number for MiB
_MIB_SHIFT = 20
_KEYS = {"-m": "size", "-smp": "cpus"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What the user says of the guest's size, None where nothing, and the arguments without that."""

    memory_mib: int | None
    vcpus: int | None
    rest: tuple[str, ...]


def take(arguments: Sequence[str]) -> Size:
    """Return the size that the arguments ask for; of an option that is given twice, the last counts.

    :raise TranslationError: an option is without a value, or its value is none that we can read.
    """
    found: dict[str, int] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option = word[1:] if word.startswith("--") else word
        if option not in _KEYS:
            rest.append(word)
            continue
        value = next(words, None)
        if value is None:
            raise _refused(word, "it has no value")
        own = []
        others = []
        for position, (key, text) in enumerate(quoting.pairs(value)):
            if key == _KEYS[option] or (position == 0 and text is None):
                own.append(key if text is None else text)
            else:
                others.append(key if text is None else f"{key}={text}")
        if others and option == "-smp":  # a topology is for QEMU to judge as a whole
            rest += [word, value]
            continue
        for said in own:
            found[option] = _number(option, said, f"{word} {value}")
        if others:
            rest += [word, ",".join(others)]
    return Size(memory_mib=found.get("-m"), vcpus=found.get("-smp"), rest=tuple(rest))


def _number(option: str, text: str, argument: str) -> int:
    """Return mebibytes, or a number of CPUs."""
    if option == "-smp":
        if text.isascii() and text.isdecimal() and int(text) > 0:
            return int(text)
        raise _refused(argument, f"'{text}' is no number")
    match = _MEMORY.fullmatch(text) if text.isascii() else None
    if match is None:
        raise _refused(argument, f"'{text}' is no size")
    parts = match[2] or ""
    mib = -(-(int(match[1] + parts) << _SHIFT[match[3].upper()]) // (int(10 ** len(parts)) << _MIB_SHIFT))
    if mib == 0:
        raise _refused(argument, "it is nothing")
    return mib


def _refused(argument: str, why: str) -> TranslationError:
    """Return the error for a user's argument."""
    return TranslationError("cannot pass the user's QEMU argument on", argument, why)
