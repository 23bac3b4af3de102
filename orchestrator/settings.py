"""Settings: options, variables and TOML files, read once into frozen values.

Precedence, highest first: command-line option, `GUESTLAUNCH_*` variable, the file named by `--config`
(or `GUESTLAUNCH_CONFIG`), `$XDG_CONFIG_HOME/guestlaunch/config.toml`, `/etc/guestlaunch/config.toml`, default.
Standard library only, and cheap to import: every command and every launch starts here. What a value
means for a launch is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import SettingsError, nearest

PREFIX = "GUESTLAUNCH_"
SYSTEM_CONFIG = Path("/etc/guestlaunch/config.toml")
# Read by the hv wrapper, by load() itself or by the commands: variables of ours that are no settings.
OWN_VARIABLES = frozenset(
    {"GUESTLAUNCH_CONFIG", "GUESTLAUNCH_SOCKET", "GUESTLAUNCH_QUIET", "GUESTLAUNCH_KVM", "GUESTLAUNCH_CLIENT"}
)
# What one launch may ask for by itself; the rest belongs to the process that launches.
PER_LAUNCH = frozenset(
    {
        "profile", "connect", "fw_cfg_dma", "accel", "appliance", "memory_mib", "vcpus", "cpu", "timeline",
        "console_kib", "measure", "deadlines",
    }
)  # fmt: skip

_TRUE = frozenset({"on", "true", "yes", "1"})
_FALSE = frozenset({"off", "false", "no", "0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each stage of a launch may take, in seconds. `transfer` holds for each fw_cfg phase."""

    connect: float = 60.0
    create: float = 60.0
    firmware: float = 120.0
    transfer: float = 120.0
    handoff: float = 120.0
    kernel: float = 180.0
    initrd: float = 120.0
    init: float = 300.0
    guestfsd: float = 120.0
    shutdown: float = 60.0
    kvm_probe: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Paths are absolute.

    :ivar connect: libvirt URI; None means the private `qemu:///embed` under the state directory.
    :ivar accel: "auto", "kvm" or "tcg".
    :ivar appliance: a fixed appliance's directory; None means the newest one built for the arch.
    :ivar timeline: where each launch's canonical line is also written: a file, or "-".
    :ivar log: where events are logged: a file, or "-" for stderr; None means `state_dir/log/events.jsonl`.
    :ivar console_kib: how much of the guest's console is kept, in KiB.
    :ivar measure: False turns off all that is only there to date phases.
    """

    state_dir: Path
    runtime_dir: Path
    profile: str = "aarch64-uefi"
    connect: str | None = None
    fw_cfg_dma: bool = True
    accel: str = "auto"
    appliance: Path | None = None
    memory_mib: int | None = None
    vcpus: int | None = None
    cpu: str | None = None
    timeline: str | None = None
    log: str | None = None
    console_kib: int = 256
    measure: bool = True
    deadlines: Deadlines = field(default_factory=Deadlines)

    @property
    def log_target(self) -> str:
        """Where events are logged: a file's path, or "-" for stderr."""
        return self.log or os.fspath(self.state_dir / "log/events.jsonl")

    @property
    def appliance_store(self) -> Path:
        """Where built appliances are kept."""
        return self.state_dir / "appliances"


class _BadValueError(Exception):
    """A value that its key does not take; the message says what it takes."""


def _text(value: object, _cwd: Path) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise _BadValueError("expected a non-empty text")
    return value


def _switch(value: object, _cwd: Path) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise _BadValueError("expected on or off")


def _whole(least: int, most: int) -> Callable[[object, Path], int]:
    def convert(value: object, _cwd: Path) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _BadValueError(f"expected a whole number from {least} to {most}")
        return value

    return convert


def _seconds(value: object, _cwd: Path) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise _BadValueError("expected seconds, more than 0")
    return number


def _accel(value: object, _cwd: Path) -> str:
    if value not in {"auto", "kvm", "tcg"}:
        raise _BadValueError(("expected auto, kvm or tcg " + nearest(str(value), ("auto", "kvm", "tcg"))).rstrip())
    return str(value)


def _path(value: object, cwd: Path) -> Path:
    text = os.fspath(value) if isinstance(value, Path) else _text(value, cwd)
    return Path(os.path.normpath(cwd / Path(text).expanduser()))


def _path_or_dash(value: object, cwd: Path) -> str:
    return "-" if value == "-" else os.fspath(_path(value, cwd))


_CONVERT: Mapping[str, Callable[[Any, Path], object]] = {
    "profile": _text,
    "connect": _text,
    "fw_cfg_dma": _switch,
    "accel": _accel,
    "appliance": _path,
    "state_dir": _path,
    "runtime_dir": _path,
    "memory_mib": _whole(64, 4 * 1024 * 1024),
    "vcpus": _whole(1, 512),
    "cpu": _text,
    "timeline": _path_or_dash,
    "log": _path_or_dash,
    "console_kib": _whole(1, 1024 * 1024),
    "measure": _switch,
}
_DEADLINES = tuple(f.name for f in dataclasses.fields(Deadlines))
_DEADLINE_PREFIX = "deadline_"


def keys() -> tuple[str, ...]:
    """Return the names of all scalar settings, as in a settings file."""
    return tuple(_CONVERT)


def variable(key: str) -> str:
    """Return the environment variable of a settings key (`deadline_kernel` for `[deadlines] kernel`)."""
    return PREFIX + key.upper()


def load(
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Read the settings from all their sources.

    :param config: the file named by `--config`.
    :param environ: variables to read instead of the process's own.
    :param overrides: command-line options by settings key (`deadline_kernel`, ...); None values count as not given.
    :param cwd: directory that relative paths in options and variables start from.
    :raise SettingsError: for an unknown key, variable or value, or an unreadable file; names the source.
    """
    env = os.environ if environ is None else environ
    here = cwd or Path.cwd()
    values: dict[str, object] = {"state_dir": default_state_dir(env), "runtime_dir": default_runtime_dir(env)}
    named = config or (Path(env["GUESTLAUNCH_CONFIG"]) if env.get("GUESTLAUNCH_CONFIG") else None)
    for path, required in ((SYSTEM_CONFIG, False), (user_config(env), False), (named, True)):
        if path is not None:
            values.update(_from_file(here / path, required=required))
    values.update(_from_environ(env, here))
    values.update(_from_options(overrides or {}, here))
    return _build(values)


def for_launch(base: Settings, environ: Mapping[str, str], cwd: Path) -> Settings:
    """Return `base` with what one launch's client asked for in its own `GUESTLAUNCH_*` variables.

    Only what concerns that launch is taken (`PER_LAUNCH`): the directories and the log are the server's.

    :raise SettingsError: as for `load`.
    """
    values: dict[str, object] = {}
    if environ.get("GUESTLAUNCH_CONFIG"):
        values.update(_from_file(cwd / environ["GUESTLAUNCH_CONFIG"], required=True))
    values.update(_from_environ(environ, cwd))
    kept = {key: value for key, value in values.items() if key in PER_LAUNCH or key.startswith(_DEADLINE_PREFIX)}
    return _build(kept, base)


def merged(values: Mapping[str, object], over: Settings, *, source: str) -> Settings:
    """Return what a job asks for, with what was set elsewhere on top.

    A job's own value holds where `over` still has the built-in default: whoever runs it has the last word.

    :param source: what to name in errors.
    :raise SettingsError: for an unknown key or a value that its key does not take.
    """
    plain = Settings(state_dir=over.state_dir, runtime_dir=over.runtime_dir)
    taken: dict[str, object] = {}
    for key, value in values.items():
        _known(key, tuple(_CONVERT), "unknown settings key", f"{key} in {source}")
        if getattr(over, key) == getattr(plain, key):
            taken[key] = _convert(f"{key} in {source}", _CONVERT[key], value, Path(source).parent)
    return _build(taken, over)


def to_environ(settings: Settings) -> dict[str, str]:
    """Return the variables that make `load` or `for_launch` elsewhere arrive at the same settings.

    All that has a value is there, defaults too: a daemon's own settings are not to shine through.
    """
    out: dict[str, str] = {}
    for key in _CONVERT:
        value = getattr(settings, key)
        if value is not None:
            out[variable(key)] = ("on" if value else "off") if isinstance(value, bool) else str(value)
    for name in _DEADLINES:
        out[variable(_DEADLINE_PREFIX + name)] = repr(getattr(settings.deadlines, name))
    return out


def is_setting(name: str) -> bool:
    """Tell whether an environment variable is one of our settings."""
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() in _scalars()


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


def _from_file(path: Path, *, required: bool) -> Iterator[tuple[str, object]]:
    import tomllib  # here: most launches read no file

    try:
        with path.open("rb") as stream:
            table = tomllib.load(stream)
    except (FileNotFoundError, NotADirectoryError) as error:
        if required:
            raise SettingsError("cannot read settings", path, error.strerror) from error
        return
    except OSError as error:
        raise SettingsError("cannot read settings", path, error.strerror or error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError("cannot read settings", path, error) from error
    for key, value in table.items():
        if key == "deadlines" and isinstance(value, dict):
            for name, seconds in value.items():
                _known(name, _DEADLINES, "unknown settings key", f"deadlines.{name} in {path}")
                yield _DEADLINE_PREFIX + name, _convert(f"deadlines.{name} in {path}", _seconds, seconds, path.parent)
            continue
        _known(key, (*_CONVERT, "deadlines"), "unknown settings key", f"{key} in {path}")
        if key == "deadlines":
            raise SettingsError("bad settings value", f"{key} in {path}", "expected a table")
        yield key, _convert(f"{key} in {path}", _CONVERT[key], value, path.parent)


def _from_environ(environ: Mapping[str, str], cwd: Path) -> Iterator[tuple[str, object]]:
    choices = [*map(variable, _scalars()), *OWN_VARIABLES]
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in OWN_VARIABLES:
            continue
        _known(name, choices, "unknown variable", name)
        if value:  # an empty variable counts as unset, as everywhere in the XDG world
            yield _scalar(name.removeprefix(PREFIX).lower(), value, name, cwd)


def _from_options(options: Mapping[str, object], cwd: Path) -> Iterator[tuple[str, object]]:
    for key, value in options.items():
        _known(key, tuple(_scalars()), "unknown setting", key)
        if value is not None:
            yield _scalar(key, value, "--" + key.replace("_", "-"), cwd)


def _scalars() -> Iterable[str]:
    return (*_CONVERT, *(_DEADLINE_PREFIX + name for name in _DEADLINES))


def _scalar(key: str, value: object, source: str, cwd: Path) -> tuple[str, object]:
    return key, _convert(source, _seconds if key.startswith(_DEADLINE_PREFIX) else _CONVERT[key], value, cwd)


def _convert(source: str, convert: Callable[[Any, Path], object], value: object, cwd: Path) -> object:
    try:
        return convert(value, cwd)
    except _BadValueError as error:
        raise SettingsError("bad settings value", source, f"{value!r}: {error}") from None


def _known(name: str, choices: Iterable[str], what: str, subject: str) -> None:
    known = tuple(choices)
    if name not in known:
        raise SettingsError(what, subject, hint=nearest(name, known) or "known: " + ", ".join(sorted(known)))


def _build(values: Mapping[str, object], base: Settings | None = None) -> Settings:
    deadlines = {
        key.removeprefix(_DEADLINE_PREFIX): value for key, value in values.items() if key.startswith(_DEADLINE_PREFIX)
    }
    plain: dict[str, Any] = {key: value for key, value in values.items() if not key.startswith(_DEADLINE_PREFIX)}
    times = dataclasses.replace(base.deadlines if base else Deadlines(), **deadlines)  # type: ignore[arg-type]
    if base is not None:
        return dataclasses.replace(base, **plain, deadlines=times)
    return Settings(**plain, deadlines=times)
