"""Where appliances live: `STORE/ARCH/BUILD/`, the newest behind the link `STORE/ARCH/current`.

Those with libguestfs's own init are in `STORE/ARCH-stock/` alike: a launch gets one only when it is named.

Builds do not wait for each other: each has its own staging directory and the last to finish becomes current. How an
appliance is made is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator import locks, published
from orchestrator.appliance.fixed import open_appliance
from orchestrator.appliance.manifest import Init
from orchestrator.appliance.model import Appliance
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError, NotFoundError
from orchestrator.program import unwinding_on_sigterm

_CURRENT = "current"
_BUILD = re.compile(r"\d{8}T\d{6}-\w+")


def _home(store: Path, arch: Arch, init: Init) -> Path:
    return store / (arch if init is Init.LEAN else f"{arch}-{init}")


@contextmanager
def staging(store: Path, arch: Arch, init: Init = Init.LEAN) -> Iterator[Path]:
    """Give a new directory on the store's file system; it is gone afterwards, whatever happened.

    :raise ApplianceError: the store cannot be written to.
    """
    home = _home(store, arch, init)
    try:
        home.mkdir(parents=True, exist_ok=True)
        sweep(store)
    except OSError as error:
        raise ApplianceError("cannot write to the appliance store", home, error.strerror or error) from error
    with unwinding_on_sigterm(), published.staging(home) as directory:
        yield directory


def sweep(store: Path) -> list[Path]:
    """Remove what killed builds left behind, and return what that was."""
    return published.sweep(store.glob(f"*/{published.ASIDE}*"), published.is_aside)


def publish(store: Path, arch: Arch, built: Path, name: str, init: Init = Init.LEAN) -> Path:
    """Make a finished directory the current appliance of its arch and init and return its final path.

    The one before it stays for launches that have just resolved it; older ones go, unless in use.

    :param built: complete directory on the store's file system; it is moved.
    """
    home = _home(store, arch, init)
    final = home / name
    built.rename(final)
    before = (home / _CURRENT).resolve()
    link = home / f"{published.ASIDE}link-{name}"
    link.symlink_to(name)
    link.replace(home / _CURRENT)
    for directory in _builds(home):
        if directory not in {final, before} and directory.name < name:
            published.remove(directory)
    return final


def _builds(home: Path) -> list[Path]:
    return sorted(path for path in home.glob("*") if _BUILD.fullmatch(path.name) and path.is_dir())


def appliances(store: Path, arch: Arch | None = None) -> list[Appliance]:
    """Return the current appliances, of each arch and init that has one. A broken one is an error, not left out."""
    sweep(store)
    homes = [_home(store, one, init) for one in ([arch] if arch else Arch) for init in Init]
    return [open_appliance(home / _CURRENT) for home in homes if (home / _CURRENT).exists()]


def resolve(store: Path, arch: Arch, init: Init = Init.LEAN) -> Appliance:
    """Return the current appliance of an arch: the one for launches, or the one with another init.

    :raise NotFoundError: none has been built: says how to.
    :raise ApplianceError: it is damaged.
    """
    current = _home(store, arch, init) / _CURRENT
    if not current.exists():
        options = f"--arch {arch}" if init is Init.LEAN else f"--arch {arch} --init {init}"
        hint = f"guestlaunch appliance build {options} makes one in about a minute"
        raise NotFoundError("no appliance for", _called(arch, init), f"none in {store}", hint)
    return open_appliance(current)


def _called(arch: Arch, init: Init) -> str:
    return str(arch) if init is Init.LEAN else f"{arch} with {init} init"


def remove(store: Path, arch: Arch, init: Init = Init.LEAN) -> list[Path]:
    """Remove all appliances of an arch and init and return their paths.

    :raise NotFoundError: there is none.
    :raise ApplianceError: one is in use by a launch.
    """
    home = _home(store, arch, init)
    builds = _builds(home)
    if not builds:
        raise NotFoundError("no appliance for", _called(arch, init), f"none in {store}")
    for directory in builds:
        if not published.remove(directory):
            why = f"a launch is using it: {locks.holders(directory)}"
            raise ApplianceError("cannot remove the appliance", directory, why, "end it first")
    (home / _CURRENT).unlink(missing_ok=True)
    return builds
