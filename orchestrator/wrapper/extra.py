"""The user's own QEMU arguments (`guestfs_config`, guestfish `config`), which follow `-append`.

They go to QEMU verbatim. Refused is what could not mean there what it means on libguestfs's own command line:

- a reference to an object that libguestfs made under a name that does not exist under libvirt (`-set drive.hd0.…`,
  `drive=hd0`, `bus=scsi.0`, `netdev=usernet`, …), unless the user's own arguments define that name;
- `-snapshot`, which has no effect on libvirt's block devices: data would be written that was not to be;
- `-daemonize`, after which libvirt would lose its process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.errors import TranslationError
from orchestrator.wrapper import quoting

_NAMES = re.compile(r"hd\d+|appliance|scsi|rng0|channel0|usernet")
_REFERENCES = frozenset({"drive", "bus", "netdev", "chardev", "rng"})
_REFUSED = {
    "-snapshot": "it has no effect on libvirt's block devices (add the drive read-only instead)",
    "-daemonize": "QEMU must stay libvirt's child",
}


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
