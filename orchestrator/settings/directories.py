"""Where state, sockets and settings files live by default (XDG base directories); directories that are ours alone."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator import files, sockets
from orchestrator.errors import SettingsError

SYSTEM_CONFIG = Path("/etc/guestlaunch/config.toml")
# What we make in a state directory: names that identify it as one, and names that many folders contain.
TELLING = ("appliances", "kvm-verdict", "launches", "libvirt", "templates")
COMMON = ("bench", "cache", "demo", "log")
_TELLING = re.compile(rf"({'|'.join(TELLING)})(\.(json|lock|sqlite3(-wal|-shm|-journal)?))?")
# Those that are nobody else's business, even where others may read the appliances.
_PRIVATE = (*COMMON, "launches", "libvirt", "templates")
_OWN_FOLDER = re.compile(r"guestlaunch-[0-9]+-[0-9a-z_]{8}")


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Return where appliances, logs and the private libvirt driver live unless set."""
    if sockets.is_systems_root():
        return Path("/var/lib/guestlaunch")
    return (_xdg(environ, "XDG_STATE_HOME") or _home(environ) / ".local/state") / "guestlaunch"


def default_runtime_dir(environ: Mapping[str, str]) -> Path:
    """Return where sockets and the files of running launches live unless set.

    If somebody else has taken the name, this process gets a folder of its own.
    """
    folder = sockets.runtime_folder(environ)
    try:
        os.close(files.open_folder(folder))
    except FileNotFoundError:
        pass  # to be made when it is needed
    except OSError:
        return _own_folder(os.geteuid())
    return Path(folder)


@functools.cache
def _own_folder(uid: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"guestlaunch-{uid}-"))
    atexit.register(remove_own_folder, folder)
    return folder


def remove_own_folder(folder: Path) -> None:
    """Remove a folder that was made because the usual name was taken, once it is empty."""
    if _OWN_FOLDER.fullmatch(folder.name):
        with contextlib.suppress(OSError):
            (folder / ".lock").unlink(missing_ok=True)  # libvirt's private root may have been there, too
            folder.rmdir()


def user_config(environ: Mapping[str, str]) -> Path | None:
    """Return the path of the user's own settings file; None for a user without a home."""
    try:
        folder = _xdg(environ, "XDG_CONFIG_HOME") or _home(environ) / ".config"
    except SettingsError:
        return None
    return folder / "guestlaunch/config.toml"


def profile_folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where profiles of the system's and the user's own are, beside their settings files."""
    own = user_config(environ)
    return tuple(path.with_name("profiles") for path in (SYSTEM_CONFIG, own) if path is not None)


def private_directory(path: Path) -> Path:
    """Make `path` a directory that only we can write to, and return it.

    :raise SettingsError: when it exists but is a symlink, another user's, or writable by others, or lies where others
        can put something else in its place.
    """
    try:
        os.close(files.open_folder(path, make=True))
    except (PermissionError, NotADirectoryError) as error:
        where = error.filename or path
        hint = f"chmod go-w {where}" if error.strerror == files.WRITABLE else "set GUESTLAUNCH_RUNTIME_DIR"
        raise SettingsError("unsafe directory", where, error.strerror or error, hint) from error
    except OSError as error:
        raise SettingsError("cannot create directory", path, error.strerror or error) from error
    return path


def private_state(path: Path) -> None:
    """Make the state directory, private to us, or close one of ours that is open to others.

    One that contains anything we do not make, or nothing, serves other purposes, too: it is left as it is. If it cannot
    be made, whoever writes to it will say why.
    """
    with contextlib.suppress(OSError):
        os.close(files.open_folder(path, make=True))
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _close_to_others(folder)
        finally:
            os.close(folder)


def _close_to_others(folder: int) -> None:
    status, names = os.fstat(folder), files.entries(folder)
    telling = set(filter(_TELLING.fullmatch, names))
    if status.st_uid != os.geteuid() or not telling or not set(names) - telling <= set(COMMON):
        return
    if status.st_mode & 0o077 == 0o011:  # `guestlaunch enable --system`: others may pass through, to the appliances
        for name in _PRIVATE:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=folder)
            os.chmod(name, 0o700, dir_fd=folder)
    elif status.st_mode & 0o077:
        os.fchmod(folder, 0o700)
    for name in (*names, "libvirt/roots"):  # made under a umask that let the group write
        with contextlib.suppress(OSError):
            entry = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if entry.st_uid == os.geteuid() and entry.st_mode & 0o022 and not stat.S_ISLNK(entry.st_mode):
                os.chmod(name, stat.S_IMODE(entry.st_mode) & ~0o022, dir_fd=folder)


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
        raise SettingsError(
            "no home directory", f"uid {os.geteuid()}", "HOME is not set", "set HOME, or GUESTLAUNCH_STATE_DIR"
        ) from None
