"""The sources of settings, one on top of the other: options, `GUESTLAUNCH_*` variables, TOML files, defaults."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.errors import SettingsError, nearest
from orchestrator.settings.convert import CONVERT, DEADLINES, BadValueError, seconds
from orchestrator.settings.directories import SYSTEM_CONFIG, default_runtime_dir, default_state_dir, user_config
from orchestrator.settings.values import Deadlines, Settings
from orchestrator.surroundings import working_directory

PREFIX = "GUESTLAUNCH_"
# Our variables that are not settings, and what they are for: read by the hv wrapper, by load() or by the commands.
OWN_VARIABLES: Mapping[str, str] = {
    "GUESTLAUNCH_CONFIG": "The settings file, as `--config` names it.",
    "GUESTLAUNCH_SOCKET": "The server that is to launch. It must answer.",
    "GUESTLAUNCH_KVM": "With 1, libguestfs is told that KVM works, so that its own setting `force_kvm` is accepted.",
    "GUESTLAUNCH_CLIENT": "Set by the commands: the name under which they learn what became of their launches.",
    "GUESTLAUNCH_QUIET": "Set by the commands, which say themselves why a launch failed: the wrapper does not.",
    "GUESTLAUNCH_OWN_SERVER": "Set by the commands: GUESTLAUNCH_SOCKET is a command's own server, which ends with it.",
}
# What one launch may ask for by itself; the rest belongs to the process that launches.
PER_LAUNCH = frozenset(
    {
        "profile", "connect", "fw_cfg_dma", "accel", "start", "learn", "appliance", "memory_mib", "vcpus", "cpu",
        "timeline", "console_kib", "measure", "image_policy", "image_roots", "image_max_gib", "confine", "guest_aslr",
        "settled_nvram", "deadlines",
    }
)  # fmt: skip

_DEADLINE_PREFIX = "deadline_"


def keys() -> tuple[str, ...]:
    """Return the names of all scalar settings, as in a settings file."""
    return tuple(CONVERT)


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
    here = cwd or Path(working_directory())
    values: dict[str, object] = {"runtime_dir": default_runtime_dir(env)}
    named = config or (Path(env["GUESTLAUNCH_CONFIG"]) if env.get("GUESTLAUNCH_CONFIG") else None)
    for path, required in ((SYSTEM_CONFIG, False), (user_config(env), False), (named, True)):
        if path is not None:
            values.update(_from_file(here / path, required=required))
    values.update(_from_environ(env, here))
    values.update(_from_options(overrides or {}, here))
    if "state_dir" not in values:  # a user without a home has none by default
        values["state_dir"] = default_state_dir(env)
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

    A job's own value counts where `over` has the built-in default: whoever runs it has the last word.

    :param source: what to name in errors.
    :raise SettingsError: for an unknown key or a value that its key does not take.
    """
    plain = Settings(state_dir=over.state_dir, runtime_dir=over.runtime_dir)
    taken: dict[str, object] = {}
    for key, value in values.items():
        _known(key, tuple(CONVERT), "unknown settings key", f"{key} in {source}")
        if getattr(over, key) == getattr(plain, key):
            taken[key] = _convert(f"{key} in {source}", CONVERT[key], value, Path(source).parent)
    return _build(taken, over)


def to_environ(settings: Settings) -> dict[str, str]:
    """Return the variables that make `load` or `for_launch` elsewhere arrive at the same settings.

    Everything that has a value is included, defaults too, so that a daemon's own settings do not show through.
    """
    out: dict[str, str] = {}
    for key in CONVERT:
        value = getattr(settings, key)
        if isinstance(value, tuple):
            out |= {variable(key): ":".join(map(str, value))} if value else {}
        elif value is not None:
            out[variable(key)] = ("on" if value else "off") if isinstance(value, bool) else str(value)
    for name in DEADLINES:
        out[variable(_DEADLINE_PREFIX + name)] = repr(getattr(settings.deadlines, name))
    return out


def is_setting(name: str) -> bool:
    """Tell whether an environment variable is one of our settings."""
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() in _scalars()


def _from_file(path: Path, *, required: bool) -> Iterator[tuple[str, object]]:
    import tomllib  # here: most launches read no file

    try:
        table = tomllib.loads(files.read_whole(path, pipe=required).decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if required:
            raise SettingsError("cannot read settings", path, error.strerror) from error
        return
    except OSError as error:
        raise SettingsError("cannot read settings", path, error.strerror or error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError("cannot read settings", path, error) from error
    for key, value in table.items():
        if key == "deadlines" and isinstance(value, dict):
            for name, number in value.items():
                _known(name, DEADLINES, "unknown settings key", f"deadlines.{name} in {path}")
                yield _DEADLINE_PREFIX + name, _convert(f"deadlines.{name} in {path}", seconds, number, path.parent)
            continue
        _known(key, (*CONVERT, "deadlines"), "unknown settings key", f"{key} in {path}")
        if key == "deadlines":
            raise SettingsError("bad settings value", f"{key} in {path}", "expected a table")
        yield key, _convert(f"{key} in {path}", CONVERT[key], value, path.parent)


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
    return (*CONVERT, *(_DEADLINE_PREFIX + name for name in DEADLINES))


def _scalar(key: str, value: object, source: str, cwd: Path) -> tuple[str, object]:
    return key, _convert(source, seconds if key.startswith(_DEADLINE_PREFIX) else CONVERT[key], value, cwd)


def _convert(source: str, convert: Callable[[Any, Path], object], value: object, cwd: Path) -> object:
    try:
        return convert(value, cwd)
    except BadValueError as error:
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
    made = Settings(**plain, deadlines=times)
    _check_names(made)
    return made


def _check_names(made: Settings) -> None:
    """Refuse directories whose names cannot be passed to libvirt or QEMU.

    :raise SettingsError: with the variable to set.
    """
    for key in ("state_dir", "runtime_dir"):
        path = getattr(made, key)
        if not files.has_plain_name(path):
            why = "it has a control character, or a byte that is no UTF-8, which libvirt cannot be told"
            raise SettingsError("unusable directory", repr(os.fspath(path)), why, f"set {variable(key)}")
    if "%" in os.fspath(made.state_dir):
        why = "it has a %, which QEMU takes for a template in the name of its log"
        raise SettingsError("unusable directory", made.state_dir, why, f"set {variable('state_dir')}")
