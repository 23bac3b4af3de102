"""Makes plain libguestfs programs go through guestlaunch for good, for one user or for all, and takes that back.

The variables of `guestlaunch env` go into files of ours that shells and systemd's user manager read; a shell that reads
no folder of such files gets one line in its own startup file. Only files that begin with our mark are overwritten or
removed, and nothing is ever written through a symbolic link.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.errors import NotFoundError, UsageError
from orchestrator.workload.own_files import MARK, Deed, FileChange, NotOursError, opened_folder, read, read_own, write

_LINE_MARK = "# guestlaunch enable"
_NAME = "60-guestlaunch.conf"
# What concerns only whoever enables it for everybody.
_OWN = frozenset({"GUESTLAUNCH_STATE_DIR", "GUESTLAUNCH_RUNTIME_DIR", "GUESTLAUNCH_LOG"})
# environment.d(5) expands and unquotes; there is no way to write these that all its versions read alike.
_UNWRITABLE = re.compile(r"""[\\"'`$\n]""")
_PASSABLE = 0o711


class Scope(StrEnum):
    """For whom it is enabled."""

    USER = "user"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the files are.

    :ivar owned: whole files of ours: for POSIX shells, for systemd's user manager, for fish where there is fish.
    :ivar folders: those that are made for them where they are missing, and are of no use when they are empty.
    :ivar startup: files of the user's that get a line; those that do not exist are made only where `made` says so.
    """

    shell: Path
    session: Path
    fish: Path | None
    folders: frozenset[Path] = frozenset()
    startup: tuple[Path, ...] = ()
    made: frozenset[Path] = frozenset()

    @property
    def owned(self) -> tuple[Path, ...]:
        """The whole files of ours."""
        return tuple(path for path in (self.shell, self.session, self.fish) if path is not None)


def system_places(root: Path = Path("/")) -> Places:
    """Return where files for all users are."""
    etc = root / "etc"
    fish = etc / "fish/conf.d/guestlaunch.fish"
    return Places(
        shell=etc / "profile.d/guestlaunch.sh",
        session=etc / "environment.d" / _NAME,
        fish=fish if fish.parents[1].is_dir() else None,
    )


def user_places(environ: Mapping[str, str]) -> Places:
    """Return where files of the user's own are.

    :raise UsageError: there is no home.
    """
    home = Path(environ.get("HOME", ""))
    if not home.is_absolute():
        raise UsageError("cannot enable guestlaunch", "HOME", "not set to a directory", "set HOME")
    named = environ.get("XDG_CONFIG_HOME", "")
    config = Path(named) if named.startswith("/") else home / ".config"
    login = next((home / name for name in (".bash_profile", ".bash_login") if _exists(home / name)), home / ".profile")
    zsh = Path(environ.get("ZDOTDIR") or home) / ".zshenv"
    startup = dict.fromkeys((login, home / ".profile", home / ".bashrc", zsh))
    fish = config / "fish/conf.d/guestlaunch.fish"
    return Places(
        shell=config / "guestlaunch/environment.sh",
        session=config / "environment.d" / _NAME,
        fish=fish if fish.parents[1].is_dir() else None,
        folders=frozenset({config / "guestlaunch", config / "environment.d", fish.parent}),
        startup=tuple(startup),
        made=frozenset({login, *([zsh] if environ.get("SHELL", "").endswith("/zsh") else [])}),
    )


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def enable(variables: Mapping[str, str], places: Places, *, scope: Scope) -> Iterator[FileChange]:
    """Write the files; yields what became of each. Doing it twice changes nothing more.

    :param variables: what `guestlaunch env` would export.
    :raise GuestlaunchError: a file there is not ours, or is not to be written; those before it are.
    """
    kept = {name: value for name, value in variables.items() if scope is Scope.USER or name not in _OWN}
    texts = {places.shell: _shell(kept), places.session: _session(kept)}
    if places.fish is not None:
        texts[places.fish] = _fish(kept)
    for path in texts:
        read_own(path)  # all are looked at before any is written
    for path, text in texts.items():
        if read_own(path) == text:
            yield FileChange(path=path, deed=Deed.UNCHANGED)
        else:
            write(path, text, 0o644)
            yield FileChange(path=path, deed=Deed.WRITTEN)
    for path in places.startup:
        yield from _add_line(path, places.shell, make=path in places.made)


def disable(places: Places) -> Iterator[FileChange]:
    """Remove the files and lines; yields what became of each that was there.

    :raise GuestlaunchError: a file cannot be read or removed.
    """
    for path in places.startup:
        yield from _take_line(path)
    for path in places.owned:
        try:
            there = read_own(path)
        except NotOursError as error:
            yield FileChange(path=path, deed=Deed.SKIPPED, why=error.why)
            continue
        if there is not None:
            with opened_folder(path) as folder:
                os.unlink(path.name, dir_fd=folder)
            yield FileChange(path=path, deed=Deed.REMOVED)
            if path.parent in places.folders:
                with contextlib.suppress(OSError):  # something else is in it
                    path.parent.rmdir()


def _line(shell: Path) -> str:
    quoted = shlex.quote(os.fspath(shell))
    return f"[ ! -r {quoted} ] || . {quoted} {_LINE_MARK}\n"


def _ours(line: str) -> bool:
    return line.rstrip().endswith(_LINE_MARK)


def _add_line(path: Path, shell: Path, *, make: bool) -> Iterator[FileChange]:
    """Put our line at the top of a startup file: many return early for shells that are not interactive."""
    try:
        there = read(path)
    except (NotOursError, UnicodeError) as error:
        why = f"{error.why if isinstance(error, NotOursError) else error}: put this into it yourself: {_line(shell)}"
        yield FileChange(path=path, deed=Deed.SKIPPED, why=why.rstrip())
        return
    if there is None and not make:
        return
    text, mode = there or ("", 0o644)
    wanted = _line(shell) + "".join(line for line in text.splitlines(keepends=True) if not _ours(line))
    if wanted == text:
        yield FileChange(path=path, deed=Deed.UNCHANGED)
        return
    write(path, wanted, mode)
    yield FileChange(path=path, deed=Deed.LINE_ADDED)


def _take_line(path: Path) -> Iterator[FileChange]:
    try:
        there = read(path)
    except NotOursError:
        return  # we put nothing into it
    if there is None or not any(map(_ours, there[0].splitlines())):
        return
    left = "".join(line for line in there[0].splitlines(keepends=True) if not _ours(line))
    if left:
        write(path, left, there[1])
        yield FileChange(path=path, deed=Deed.LINE_REMOVED)
    else:  # we made it
        with opened_folder(path) as folder:
            os.unlink(path.name, dir_fd=folder)
        yield FileChange(path=path, deed=Deed.REMOVED)


def _there(variables: Mapping[str, str]) -> tuple[str, str]:
    """Return the files that must be there before libguestfs is touched at all."""
    return variables["LIBGUESTFS_HV"], f"{variables['LIBGUESTFS_PATH']}/README.fixed"


def _shell(variables: Mapping[str, str]) -> str:
    program, appliance = map(shlex.quote, _there(variables))
    exports = "".join(f"    export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return f"{MARK}\nif [ -x {program} ] && [ -r {appliance} ]; then\n{exports}fi\n"


def _fish(variables: Mapping[str, str]) -> str:
    program, appliance = map(_fish_quote, _there(variables))
    exports = "".join(f"    set -gx {name} {_fish_quote(value)}\n" for name, value in variables.items())
    return f"{MARK}\nif test -x {program}; and test -r {appliance}\n{exports}end\n"


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _session(variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        if _UNWRITABLE.search(value):
            why = "it has a character that environment.d cannot hold"
            raise UsageError("cannot enable guestlaunch", f"{name}={value}", why, "use another path or value")
    return f"{MARK}\n" + "".join(f'{name}="{value}"\n' for name, value in variables.items())


def check_open_to_all(path: Path) -> None:
    """Check that every user can read a file, or run it where its owner can.

    :raise UsageError: names what keeps them from it.
    """
    for one in (path, *path.parents):
        try:
            mode = one.stat().st_mode
        except OSError as error:
            raise NotFoundError("not for all users", one, error.strerror or error) from error
        letters = "x" if stat.S_ISDIR(mode) else "rx" if mode & stat.S_IXUSR else "r"
        needed = (stat.S_IROTH if "r" in letters else 0) | (stat.S_IXOTH if "x" in letters else 0)
        if mode & needed != needed:
            hint = f"chmod o+{letters} {one}, or use another"
            raise UsageError("not for all users", one, "others cannot get at it", hint)


def open_state(state_dir: Path, appliance: Path) -> Iterator[FileChange]:
    """Let others pass through a state directory of ours to an appliance in it; what else is in it stays closed."""
    if not appliance.is_relative_to(state_dir) or _passable(state_dir):
        return
    with opened_folder(state_dir / "appliances") as folder:
        os.fchmod(folder, _PASSABLE)
    yield FileChange(path=state_dir, deed=Deed.OPENED)


def close_state(state_dir: Path) -> Iterator[FileChange]:
    """Take `open_state` back."""
    with contextlib.suppress(FileNotFoundError), opened_folder(state_dir / "appliances") as folder:
        if stat.S_IMODE(os.fstat(folder).st_mode) == _PASSABLE:
            os.fchmod(folder, 0o700)
            yield FileChange(path=state_dir, deed=Deed.CLOSED)


def _passable(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)
