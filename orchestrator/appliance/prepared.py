"""The library that has a template's guestfsd read Augeas's lenses before it is held (guest/prepared.c)."""

from __future__ import annotations

from pathlib import Path

from orchestrator.compiled import our_object
from orchestrator.domain.model import Arch

NAME = "prepared.so"
_PACKAGE, _SOURCE = "orchestrator.appliance", "guest/prepared.c"
_FOLDER = "usr/lib/guestlaunch"


def add_prepared(root: Path, arch: Arch) -> None:
    """Add the library to an appliance's root directory.

    :raise CapabilityError: it was made of another source than is here.
    """
    target = root / _FOLDER / NAME
    target.write_bytes(our_object(_PACKAGE, _SOURCE, arch, purpose="cannot prepare guestfsd"))
    target.chmod(0o644)
