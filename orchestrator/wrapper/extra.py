"""The user's own QEMU arguments (`guestfs_config`, guestfish `config`), which follow `-append`.

They go to QEMU as they are. Refused is what could not mean there what it means on libguestfs's own command line:

- a reference to an object that libguestfs made under a name that does not exist under libvirt (`-set drive.hd0.…`,
  `drive=hd0`, `bus=scsi.0`, `netdev=usernet`, …), unless the user's own arguments define that name;
- `-snapshot`, which has no effect on libvirt's block devices: data would be written that was not to be;
- `-daemonize`, after which libvirt would lose its process.

Only a second `-m` or `-smp`, which QEMU would prefer to the first, does not go there: libvirt describes memory and CPUs
by several options, all of which would have to change with it. So what the user says about them becomes part of the
request. What is more than a size or a number is left to QEMU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.errors import TranslationError
from orchestrator.values import dataclass
from orchestrator.wrapper import quoting

_NAMES = re.compile(r"hd\d+|appliance|scsi|rng0|channel0|usernet")
_REFERENCES = frozenset({"drive", "bus", "netdev", "chardev", "rng"})
_REFUSED = {
    "-snapshot": "it has no effect on libvirt's block devices (add the drive read-only instead)",
    "-daemonize": "QEMU must stay libvirt's child",
}
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


def take_size(arguments: Sequence[str]) -> Size:
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
            raise _error(word, "it has no value")
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
        raise _error(argument, f"'{text}' is no number")
    match = _MEMORY.fullmatch(text) if text.isascii() else None
    if match is None:
        raise _error(argument, f"'{text}' is no size")
    parts = match[2] or ""
    mib = -(-(int(match[1] + parts) << _SHIFT[match[3].upper()]) // (int(10 ** len(parts)) << _MIB_SHIFT))
    if mib == 0:
        raise _error(argument, "it is nothing")
    return mib


def verbatim(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the user's arguments unchanged.

    :raise TranslationError: one of them cannot work under libvirt; it is named.
    """
    defined = _defined(arguments)
    previous = ""
    for argument in arguments:
        option = _single_dash(argument)
        if option in _REFUSED:
            raise _error(argument, _REFUSED[option])
        name = _set_target(argument) if previous == "-set" else _reference(argument)
        if name is not None and name not in defined:
            shown = f"{previous} {argument}" if previous.startswith("-") else argument
            raise _error(shown, f"it refers to libguestfs's own '{name}', which has another name under libvirt")
        previous = option
    return tuple(arguments)


def _error(argument: str, why: str) -> TranslationError:
    """Return the error for a user's argument."""
    return TranslationError("cannot pass the user's QEMU argument on", argument, why)


def _single_dash(argument: str) -> str:
    """Return an option in its usual spelling: QEMU takes two dashes as one."""
    return argument[1:] if argument.startswith("--") else argument


def _defined(arguments: Sequence[str]) -> frozenset[str]:
    """Return the names that the arguments themselves define (`id=` in an option list)."""
    pairs = (pair for argument in arguments for pair in quoting.pairs(argument))
    return frozenset(value for key, value in pairs if key == "id" and value is not None)


def _set_target(argument: str) -> str | None:
    """Return libguestfs's name in the `GROUP.ID.PROPERTY=VALUE` of a `-set`, if there is one."""
    parts = argument.partition("=")[0].split(".")
    return parts[1] if len(parts) > 2 and _NAMES.fullmatch(parts[1]) else None


def _reference(argument: str) -> str | None:
    """Return libguestfs's name that an option list refers to, if there is one."""
    for key, value in quoting.pairs(argument):
        name = (value or "").partition(".")[0]  # bus=scsi.0 is the first bus of the device scsi
        if key in _REFERENCES and _NAMES.fullmatch(name):
            return name
    return None
