"""Tools that run commands in a guest of another architecture than the host's.

virt-customize, virt-builder and virt-sysprep refuse to run anything in a guest that is not of their own architecture,
though it would run in the appliance, natively in a full system, where the appliance is of the guest's. `guest_arch.c`,
preloaded, lets them (2026-11-26; libguestfs-common's `guest_arch_compatible` is the same from 1.48 to 1.57). It asks
the appliance, so that it is right whatever that turns out to be, and answers nobody but these three.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import PurePath

from orchestrator.compiled import kept, our_object
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError
from orchestrator.settings import Settings

VARIABLE = "LD_PRELOAD"
PROGRAMS = frozenset({"virt-customize", "virt-builder", "virt-sysprep"})
_PACKAGE = "orchestrator.workload"
_PURPOSE = "cannot run commands in a foreign guest"
_NAME = "guest-arch"
_SPECIAL = frozenset(" :$\t\n")  # ld.so(8): they separate names, or start one of its own


def wants(command: str, settings: Settings) -> bool:
    """Tell whether a command may meet the refusal: one of these programs, or one that may start them.

    Any other of libguestfs's programs starts none.
    """
    name = PurePath(command).name
    if load_profile(settings.profile).arch == os.uname().machine:
        return False
    return name in PROGRAMS or not name.startswith(("virt-", "guest"))


def preload(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the variable that preloads the library, before what is preloaded already.

    :raise CapabilityError: it cannot be kept in a file, or not be named in the variable.
    """
    data = our_object(_PACKAGE, "guest_arch.c", os.uname().machine, purpose=_PURPOSE)
    library = kept(data, settings.state_dir / "cache", name=_NAME, purpose=_PURPOSE)
    if not _SPECIAL.isdisjoint(os.fspath(library)):
        why = f"{VARIABLE} takes no path with a space, a colon or a dollar sign in it"
        raise CapabilityError(_PURPOSE, library, why, "set state_dir to another directory")
    return {VARIABLE: ":".join([os.fspath(library), *others(environ)])}


def others(environ: Mapping[str, str]) -> list[str]:
    """Return what is preloaded beside our library, of whatever version and state directory that is."""
    names = filter(None, re.split("[ :]", environ.get(VARIABLE, "")))
    return [name for name in names if re.fullmatch(rf"{_NAME}-[0-9a-f]+\.so", PurePath(name).name) is None]
