"""One conversion for each settings key: from what an option, a variable or TOML holds to a checked value."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import nearest
from orchestrator.settings.values import Deadlines

_TRUE = frozenset({"on", "true", "yes", "1"})
_FALSE = frozenset({"off", "false", "no", "0"})


class BadValueError(Exception):
    """A value that its key does not take; the message says what it takes."""


def _text(value: object, _cwd: Path) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadValueError("expected a non-empty text")
    return value


def _switch(value: object, _cwd: Path) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise BadValueError("expected on or off")


def _whole(least: int, most: int) -> Callable[[object, Path], int]:
    def convert(value: object, _cwd: Path) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise BadValueError(f"expected a whole number from {least} to {most}")
        return value

    return convert


def seconds(value: object, _cwd: Path) -> float:
    """Return a deadline in seconds.

    :raise BadValueError: it is no number above 0.
    """
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise BadValueError("expected seconds, more than 0")
    return number


def _one_of(*choices: str) -> Callable[[object, Path], str]:
    def convert(value: object, _cwd: Path) -> str:
        if value not in choices:
            known = f"{', '.join(choices[:-1])} or {choices[-1]}"
            raise BadValueError(f"expected {known} {nearest(str(value), choices)}".rstrip())
        return str(value)

    return convert


def _path(value: object, cwd: Path) -> Path:
    text = os.fspath(value) if isinstance(value, Path) else value
    if not isinstance(text, str) or not text or "\0" in text:
        raise BadValueError("expected a path")
    return Path(os.path.normpath(cwd / Path(text).expanduser()))


def _folders(value: object, cwd: Path) -> tuple[Path, ...]:
    """Return directories from a list, or from a text in which colons separate them."""
    names = value.split(":") if isinstance(value, str) else value
    try:
        found = tuple(_path(name, cwd) for name in names) if isinstance(names, list | tuple) else ()
    except BadValueError:
        found = ()
    if not found or any(":" in os.fspath(path) for path in found):
        raise BadValueError("expected directories, separated by colons")
    return found


def _path_or_dash(value: object, cwd: Path) -> str:
    try:
        return "-" if value == "-" else os.fspath(_path(value, cwd))
    except BadValueError:
        raise BadValueError("expected a path or -") from None


CONVERT: Mapping[str, Callable[[Any, Path], object]] = {
    "profile": _text,
    "connect": _text,
    "fw_cfg_dma": _switch,
    "accel": _one_of("auto", "kvm", "tcg"),
    "start": _one_of("auto", "cold", "warm"),
    "learn": _switch,
    "learned_templates": _whole(0, 10_000),
    "learned_mib": _whole(0, 64 * 1024 * 1024),
    "appliance": _path,
    "state_dir": _path,
    "runtime_dir": _path,
    "memory_mib": _whole(64, 4 * 1024 * 1024),
    "vcpus": _whole(1, 512),
    "cpu": _text,
    "timeline": _path_or_dash,
    "log": _path_or_dash,
    "confine": _one_of("auto", "off"),
    "guest_aslr": _switch,
    "settled_nvram": _switch,
    "console_kib": _whole(1, 1024 * 1024),
    "measure": _switch,
    "keep_launches": _whole(0, 100_000_000),
    "keep_days": _whole(0, 36_500),
    "standby": _whole(0, 1000),
    "standby_memory_mib": _whole(0, 64 * 1024 * 1024),
    "image_policy": _one_of("trusted", "untrusted"),
    "image_roots": _folders,
    "image_max_gib": _whole(1, 8 * 1024 * 1024 * 1024),
    "metrics_listen": _text,
    "otlp_endpoint": _text,
}


def takes(convert: Callable[[Any, Path], object]) -> str:
    """Return what a conversion takes, in the words in which it refuses anything else."""
    try:
        convert("\0", Path("/"))
    except BadValueError as error:
        return str(error).removeprefix("expected ").strip()
    raise AssertionError("a conversion that takes anything")


DEADLINES = tuple(f.name for f in dataclasses.fields(Deadlines))
