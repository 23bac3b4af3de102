"""What is compiled of an appliance: a library by which guestfsd reads Augeas's lenses early, shortcuts and theirs."""

from __future__ import annotations

from pathlib import Path

from orchestrator.compiled import our_object
from orchestrator.domain.model import Arch

NAME, LOOKING, PROBING, SHORTCUTS = "prepared.so", "looking.so", "probing.so", "shortcuts"
_MODES = {NAME: 0o644, LOOKING: 0o644, PROBING: 0o644, SHORTCUTS: 0o755}
_PACKAGE = "orchestrator.appliance"
_FOLDER = "usr/lib/guestlaunch"


def add_prepared(root: Path, arch: Arch) -> None:
    """Add the libraries (guest/prepared.c, looking.c, probing.c) and the program (guest/shortcuts.c) to a root.

    :raise CapabilityError: one was made of another source than is here.
    """
    for name, mode in _MODES.items():
        target, source = root / _FOLDER / name, f"guest/{Path(name).stem}.c"
        target.write_bytes(our_object(_PACKAGE, source, arch, purpose="cannot prepare guestfsd"))
        target.chmod(mode)
