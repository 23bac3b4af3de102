"""What the embedded driver needs of its process besides a root, and why it does not start.

Some of its parts make folders below $XDG_RUNTIME_DIR or, without that, $HOME/.cache, whatever the root is; whoever has
neither (an account without a home, a container's bare number) gets them in the root. The superuser's lie below
/run/libvirt, also in a user namespace, where that is somebody else's (`run_folder`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import CapabilityError
from orchestrator.hypervisor.failure import Code, LibvirtFailure, translate

_T = TypeVar("_T")

_NO_PLACE = re.compile(r"[Ff]ailed to create|cannot create|[Cc]annot open|[Pp]ermission denied|Read-only file system")


@contextmanager
def folders(root: Path) -> Iterator[None]:
    """Within the context, in which the driver starts, name it folders that it can write to; it remembers them."""
    before = {name: os.environ.get(name) for name in ("XDG_RUNTIME_DIR", "HOME")}
    runtime = before["XDG_RUNTIME_DIR"] or ""
    try:
        if os.geteuid() != 0:
            if not (runtime.startswith("/") and os.access(runtime, os.W_OK | os.X_OK)):
                own = root / "runtime"
                own.mkdir(mode=0o700, exist_ok=True)
                os.environ["XDG_RUNTIME_DIR"] = str(own)
            if not before["HOME"]:
                os.environ["HOME"] = str(root)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def started(function: Callable[[], _T]) -> _T:
    """Return what a function returns that starts the driver, called where the superuser's folder can be made."""
    if os.geteuid() != 0:
        return function()
    from orchestrator.hypervisor import run_folder  # here: nobody else needs it

    return run_folder.call(function) if run_folder.is_lacking() else function()


def not_started(failure: LibvirtFailure, root: Path) -> CapabilityError:
    """Return the error for a driver that did not start, in libvirt's own words, and what can be done about it."""
    error = translate(failure, "libvirt's embedded QEMU driver does not start", root)
    return CapabilityError(error.what, error.subject, error.why, _hint(failure, error.why))


def _hint(failure: LibvirtFailure, why: str) -> str:
    from orchestrator import distributions  # here: no launch that works needs it
    from orchestrator.distributions import Part

    if failure.get_error_code() == Code.NO_CONNECT:
        return distributions.hint(Part.LIBVIRT)
    if "libvirt-qemu" in why:
        return f"{distributions.hint(Part.LIBVIRT_USER)}, for the user libvirt-qemu"
    if _NO_PLACE.search(why):
        if os.geteuid() == 0 and "/run/libvirt" in why:
            return "root needs /run/libvirt: make it, mount a tmpfs on /run, or be another user"
        return "set XDG_RUNTIME_DIR, or GUESTLAUNCH_STATE_DIR, to a directory that you can write to"
    return ""
