"""What is compiled of an appliance: the library by which guestfsd reads Augeas's lenses early, and the shortcuts."""

from __future__ import annotations

from pathlib import Path

from orchestrator.compiled import our_object
from orchestrator.domain.model import Arch

NAME, SHORTCUTS = "prepared.so", "shortcuts"
_PACKAGE = "orchestrator.appliance"
_FOLDER = "usr/lib/guestlaunch"


def add_prepared(root: Path, arch: Arch) -> None:
    """Add the library (guest/prepared.c) and the program (guest/shortcuts.c) to an appliance's root directory.

    :raise CapabilityError: one was made of another source than is here.
    """
    for name, source, mode in ((NAME, "guest/prepared.c", 0o644), (SHORTCUTS, "guest/shortcuts.c", 0o755)):
        target = root / _FOLDER / name
        target.write_bytes(our_object(_PACKAGE, source, arch, purpose="cannot prepare guestfsd"))
        target.chmod(mode)
