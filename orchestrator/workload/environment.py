"""The environment in which unmodified libguestfs programs launch through us.

Decides which appliance they get and what becomes of LIBGUESTFS_* variables that are set already. Values
only; nothing is started here.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator import sockets
from orchestrator.appliance.fixed import open_appliance
from orchestrator.appliance.store import resolve
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import ApplianceError, CapabilityError, SettingsError, UsageError
from orchestrator.settings import Settings, default_runtime_dir, default_state_dir, is_setting, to_environ
from orchestrator.surroundings import working_directory
from orchestrator.values import dataclass

WRAPPER = "guestlaunch-hv"
# libguestfs's own, below XDG_RUNTIME_DIR (users other than root).
_GUESTFSD_SOCKET = "libguestfsXXXXXX/guestfsd.sock"
# These would override, or stand in for, what we set.
_OVERRIDDEN = {
    "LIBGUESTFS_BACKEND": "direct",
    "LIBGUESTFS_ATTACH_METHOD": "direct",
    "LIBGUESTFS_HV": "",
    "LIBGUESTFS_QEMU": "",
}
_FIXED = ("README.fixed", "kernel", "initrd", "root")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEnvironment:
    """What a tool runs with.

    :ivar variables: the complete environment.
    :ivar ours: the part of it that differs from what was there.
    :ivar warnings: one line for each variable of the user's that had to give way.
    """

    variables: Mapping[str, str]
    ours: Mapping[str, str]
    warnings: tuple[str, ...]


def tool_environment(
    environ: Mapping[str, str],
    settings: Settings,
    *,
    socket: Path | None = None,
    client: str | None = None,
    own_server: bool = False,
    everything: bool = True,
) -> ToolEnvironment:
    """Return the environment for libguestfs programs.

    :param socket: the server that launches; None leaves it to the wrapper to find or start one.
    :param client: the token of a command that watches its launches and reports their failures itself.
    :param own_server: the server is the command's own: a tool that outlives both finds another.
    :param everything: pass all settings on; else only those that the variables there do not give already.
    :raise GuestlaunchError: no usable appliance, no wrapper, or a directory too long for a socket.
    """
    check_runtime_directory(environ)
    appliance, warnings = choose_appliance(settings, environ)
    if ":" in os.fspath(appliance):
        why = "its path has a colon, which ends a name in LIBGUESTFS_PATH"
        raise ApplianceError("cannot use the appliance", appliance, why, "name a link to it")
    hv = wrapper_path()
    kept = {key: value for key, value in environ.items() if not is_setting(key) and key != "GUESTLAUNCH_CONFIG"}
    warnings = (*_overrides(kept, hv), *warnings)
    ours = {"LIBGUESTFS_HV": os.fspath(hv), "LIBGUESTFS_PATH": os.fspath(appliance), "LIBGUESTFS_BACKEND": "direct"}
    if socket is not None:
        ours["GUESTLAUNCH_SOCKET"] = os.fspath(socket)
    if client is not None:
        ours |= {"GUESTLAUNCH_CLIENT": client, "GUESTLAUNCH_QUIET": "1"}
    if own_server:
        ours["GUESTLAUNCH_OWN_SERVER"] = "1"
    ours |= to_environ(settings) if everything else _few(environ, settings)
    variables = {key: value for key, value in kept.items() if key not in _OVERRIDDEN} | ours
    return ToolEnvironment(variables=variables, ours=ours, warnings=warnings)


def variables_set(environ: Mapping[str, str], settings: Settings) -> tuple[str, ...]:
    """Return the names of what `guestlaunch env` sets, for which nothing has to be there any more."""
    return ("LIBGUESTFS_HV", "LIBGUESTFS_PATH", "LIBGUESTFS_BACKEND", *_few(environ, settings))


def _few(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the settings that are not the default, or that variables give already."""
    try:
        usual = default_state_dir(environ)
    except SettingsError:  # a user without a home: so one was set
        usual = Path("/")
    plain = to_environ(Settings(state_dir=usual, runtime_dir=default_runtime_dir(environ)))
    return {key: value for key, value in to_environ(settings).items() if key in environ or value != plain.get(key)}


def _overrides(environ: Mapping[str, str], hv: Path) -> Iterable[str]:
    """Yield a line for each variable of the user's that we have to set differently."""
    for name, harmless in _OVERRIDDEN.items():
        value = environ.get(name)
        if value and value not in {harmless, os.fspath(hv)}:
            yield f"{name}={value} is ignored: guestlaunch launches the appliance itself"


def choose_appliance(settings: Settings, environ: Mapping[str, str]) -> tuple[Path, tuple[str, ...]]:
    """Return the directory of the fixed appliance to boot, and lines about what was passed over.

    In this order: the settings' own, a fixed appliance in LIBGUESTFS_PATH, the newest one built for
    the profile's arch. One of our store for another arch is there by `guestlaunch env`, and no choice of the user's.

    :raise ApplianceError: it is not usable, or of another arch than the profile.
    :raise NotFoundError: there is none.
    """
    arch = load_profile(settings.profile).arch
    search = environ.get("LIBGUESTFS_PATH", "")
    warnings: tuple[str, ...] = ()
    found = next((path for path in map(Path, search.split(":")) if search and _is_fixed(path)), None)
    if found is not None and _is_stores_for_another(found, settings, arch):
        found, search = None, ""
    if settings.appliance is not None:
        chosen = settings.appliance
        if search and found != chosen:
            warnings = (f"LIBGUESTFS_PATH={search} is ignored: the settings name the appliance {chosen}",)
    elif found is not None:
        chosen = Path(working_directory()) / found
    else:
        if search:
            warnings = (f"LIBGUESTFS_PATH={search} is ignored: there is no fixed appliance in it",)
        return resolve(settings.appliance_store, arch).path, warnings
    appliance = open_appliance(chosen)
    if not _is_fixed(appliance.path):
        raise ApplianceError(
            "cannot use the appliance", chosen, "README.fixed is missing, by which libguestfs knows a fixed appliance"
        )
    if appliance.arch is not arch:
        raise ApplianceError(
            "cannot use the appliance",
            chosen,
            f"it is for {appliance.arch}, profile {settings.profile} is for {arch}",
            "choose another profile or appliance",
        )
    return appliance.path, warnings


def _is_stores_for_another(path: Path, settings: Settings, arch: str) -> bool:
    """Tell whether it is one that was built, and for another arch: STORE/ARCH/NAME."""
    real = Path(os.path.realpath(path))
    return real.parents[1:2] == (Path(os.path.realpath(settings.appliance_store)),) and real.parent.name != arch


def _is_fixed(path: Path) -> bool:
    return all((path / name).exists() for name in _FIXED)


def wrapper_path() -> Path:
    """Return the absolute path of guestlaunch-hv, from beside the program that runs.

    :raise CapabilityError: when it is nowhere.
    """
    beside = Path(sys.argv[0])
    folders = [beside.parent, beside.resolve().parent, Path(sysconfig.get_path("scripts"))]
    for folder in folders:
        path = (folder / WRAPPER).absolute()
        if os.access(path, os.X_OK) and path.is_file():
            return path
    found = shutil.which(WRAPPER)
    if found:
        return Path(found).absolute()
    raise CapabilityError(
        "program not found", WRAPPER, f"not in {folders[0].absolute()} nor in PATH", "reinstall guestlaunch"
    )


def check_runtime_directory(environ: Mapping[str, str]) -> None:
    """Check that libguestfs's own socket will fit into XDG_RUNTIME_DIR. As root it uses /tmp.

    :raise UsageError: with both lengths; libguestfs itself would only fail to launch.
    """
    directory = environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() == 0 or not directory:
        return
    if why := sockets.too_long(Path(directory).resolve() / _GUESTFSD_SOCKET):
        raise UsageError(
            "XDG_RUNTIME_DIR too long",
            directory,
            f"libguestfs's socket in it would have {why}",
            "set XDG_RUNTIME_DIR to a shorter directory",
        )
