"""Where state, sockets and settings files live by default (XDG base directories); directories that are ours alone."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import SettingsError


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Return where appliances, logs and the private libvirt driver live unless set."""
    if os.geteuid() == 0:
        return Path("/var/lib/guestlaunch")
    return (_xdg(environ, "XDG_STATE_HOME") or _home(environ) / ".local/state") / "guestlaunch"


def default_runtime_dir(environ: Mapping[str, str]) -> Path:
    """Return where sockets and the files of running launches live unless set."""
    xdg = _xdg(environ, "XDG_RUNTIME_DIR")
    if xdg is not None:
        return xdg / "guestlaunch"
    if os.geteuid() == 0:
        return Path("/run/guestlaunch")
    return Path(tempfile.gettempdir()) / f"guestlaunch-{os.geteuid()}"


def user_config(environ: Mapping[str, str]) -> Path:
    """Return the path of the user's own settings file."""
    return (_xdg(environ, "XDG_CONFIG_HOME") or _home(environ) / ".config") / "guestlaunch/config.toml"


def private_directory(path: Path, *, mode: int = 0o700) -> Path:
    """Make `path` a directory that only we can write to, and return it.

    :raise SettingsError: when it exists but is a symlink, another user's, or writable by others.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=mode)
        status = path.lstat()
    except OSError as error:
        raise SettingsError("cannot create directory", path, error.strerror or error) from error
    if not stat.S_ISDIR(status.st_mode):
        why = "it is a symbolic link" if stat.S_ISLNK(status.st_mode) else "it is not a directory"
        raise SettingsError("unsafe directory", path, why, "remove it or set GUESTLAUNCH_RUNTIME_DIR")
    if status.st_uid != os.geteuid():
        raise SettingsError(
            "unsafe directory", path, f"it belongs to uid {status.st_uid}", "set GUESTLAUNCH_RUNTIME_DIR"
        )
    if status.st_mode & 0o022:
        raise SettingsError("unsafe directory", path, "others can write to it", f"chmod go-w {path}")
    return path


def _xdg(environ: Mapping[str, str], name: str) -> Path | None:
    """Return an XDG base directory; the specification says to ignore relative ones."""
    value = environ.get(name, "")
    return Path(value) if value.startswith("/") else None


def _home(environ: Mapping[str, str]) -> Path:
    value = environ.get("HOME", "")
    if value.startswith("/"):
        return Path(value)
    import pwd  # here: only where HOME is not set

    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        raise SettingsError("no home directory", f"uid {os.geteuid()}", "HOME is not set", "set HOME") from None
