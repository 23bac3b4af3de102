"""By which of two ways a directory is shared with a kernel that is tried: what QEMU, the host and the kernel have.

9p needs nothing but QEMU, and so is the one that is taken where it works. A kernel whose modules are known may lack
it, as those for clouds do; it then gets virtiofs, if it has that and the host the program that serves it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from orchestrator.errors import CapabilityError
from orchestrator.hypervisor.virtiofs import find_program


class ShareBy(StrEnum):
    """How a directory is shared."""

    AUTO = "auto"
    P9 = "9p"
    VIRTIOFS = "virtiofs"


def choose(asked: ShareBy, directory: Path, lacks: Callable[[ShareBy], bool]) -> tuple[ShareBy, Path | None]:
    """Return the way, and the program that serves the directory if it takes one.

    :param lacks: tells whether the kernel is known to have no driver for a way.
    :raise CapabilityError: there is no way, or not the one that was asked for.
    """
    program = find_program()
    if asked is ShareBy.AUTO:
        asked = ShareBy.P9
        if lacks(ShareBy.P9):
            if lacks(ShareBy.VIRTIOFS):
                raise CapabilityError("cannot share the directory", directory, "the kernel has neither 9p nor virtiofs")
            asked = ShareBy.VIRTIOFS
    if asked is ShareBy.P9:
        return asked, None
    if program is None:
        why = (
            "the kernel has no 9p, and no virtiofsd is installed" if lacks(ShareBy.P9) else "no virtiofsd is installed"
        )
        raise CapabilityError("cannot share the directory", directory, why)
    return asked, program
