"""The library that has a template's guestfsd read Augeas's lenses before it is held (guest/prepared.c), compiled.

An appliance is as good without it, but for that each inspection in a clone reads them: it takes a C compiler for the
guest's architecture, which not every host has.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from orchestrator.appliance.vendors import DEBIAN_ARCH
from orchestrator.compiled import shared_object
from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError

NAME = "prepared.so"
_PACKAGE, _SOURCE = "orchestrator.appliance", "guest/prepared.c"
_FOLDER = "usr/lib/guestlaunch"


def add_prepared(root: Path, arch: Arch) -> str | None:
    """Add the library to an appliance's root directory; return why it cannot be made, None when it was.

    It is linked with nothing, so that a compiler is enough: of the guest's C library nothing has to be here.
    """
    own = arch == os.uname().machine
    compiler = (os.environ.get("CC") or "cc") if own else f"{arch}-linux-gnu-gcc"
    if shutil.which(compiler) is None:
        package = "gcc" if own else f"gcc-{arch.replace('_', '-')}-linux-gnu"
        return f"there is no C compiler for {DEBIAN_ARCH[arch]} (install {package})"
    try:
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="compiled-") as folder:
            made = shared_object(
                _PACKAGE, _SOURCE, Path(folder), name="prepared", purpose="cannot prepare guestfsd",
                compiler=compiler, options=("-nostdlib",),
            )  # fmt: skip
            target = root / _FOLDER / NAME
            shutil.copyfile(made, target)
            target.chmod(0o644)
    except CapabilityError as error:
        return str(error)
    return None
