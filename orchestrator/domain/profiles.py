"""Profiles: the kinds of guest described by `configs/profiles/*.toml` and by files of the user's own, read into values.

Finds and checks the files. Which profile a launch uses, and what overrides it, is decided elsewhere.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from orchestrator.domain.model import Arch, FirmwareKind, Profile
from orchestrator.errors import SettingsError, nearest
from orchestrator.settings.directories import profile_folders

_E = TypeVar("_E", bound=StrEnum)
_TEXTS = ("machine", "cpu_tcg", "cpu_kvm", "console")
_COUNTS = ("memory_mib", "vcpus")


def configs_dir() -> Path:
    """Return the directory of the shipped configuration: inside the installed package, else the checkout's."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _profile_files(own: Iterable[Path] | None) -> dict[str, Path]:
    """Return name -> file; a later directory's profile masks an earlier one's of the same name."""
    files: dict[str, Path] = {}
    for directory in (configs_dir() / "profiles", *(profile_folders(os.environ) if own is None else own)):
        if directory.is_dir():
            files.update((path.stem, path) for path in sorted(directory.glob("*.toml")))
    return files


def profile_names(own: Iterable[Path] | None = None) -> list[str]:
    """Return the names of all profiles, sorted; `own` as for `load_profile`."""
    return sorted(_profile_files(own))


def load_profile(name: str, own: Iterable[Path] | None = None) -> Profile:
    """Return the profile called name.

    :param own: directories of other profiles than the shipped ones, over which they win, the last over the first; None
        for the system's and the user's.
    :raise SettingsError: there is no such profile, or its file is not a valid profile.
    """
    files = _profile_files(own)
    path = files.get(name)
    if path is None:
        hint = nearest(name, files) or f"profiles: {', '.join(sorted(files))}"
        raise SettingsError("unknown profile", name, "there is no such profile", hint)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as e:
        raise SettingsError("cannot read profile", path, e) from e
    return parse_profile(name, table, path)


def parse_profile(name: str, table: Mapping[str, object], where: object) -> Profile:
    """Return the profile that table describes.

    :param where: what to name in errors, normally the file.
    :raise SettingsError: a key is unknown, missing, or its value does not fit.
    """
    keys = [f.name for f in dataclasses.fields(Profile) if f.name != "name"]
    for key in table:
        if key not in keys:
            hint = nearest(key, keys) or f"keys: {', '.join(keys)}"
            raise SettingsError("unknown key in profile", where, f"'{key}'", hint)
    missing = [key for key in keys if key not in table and key != "description"]
    if missing:
        raise SettingsError("incomplete profile", where, f"missing: {', '.join(missing)}")
    arch = _member(Arch, "arch", table, where)
    firmware = _member(FirmwareKind, "firmware", table, where)
    if (arch, firmware) == (Arch.AARCH64, FirmwareKind.SEABIOS):
        raise SettingsError("bad value in profile", where, f"firmware '{firmware}' does not exist for {arch}")
    texts = {key: _text(key, table, where) for key in _TEXTS}
    counts = {key: _count(key, table, where) for key in _COUNTS}
    description = _text("description", table, where) if "description" in table else ""
    return Profile(
        name=name,
        arch=arch,
        firmware=firmware,
        machine=texts["machine"],
        cpu_tcg=texts["cpu_tcg"],
        cpu_kvm=texts["cpu_kvm"],
        console=texts["console"],
        memory_mib=counts["memory_mib"],
        vcpus=counts["vcpus"],
        description=description,
    )


def _member(kind: type[_E], key: str, table: Mapping[str, object], where: object) -> _E:
    """Return the member of a closed set that table[key] names."""
    text = _text(key, table, where)
    try:
        return kind(text)
    except ValueError as e:
        choices = [str(member) for member in kind]
        hint = nearest(text, choices) or f"one of: {', '.join(choices)}"
        raise SettingsError("bad value in profile", where, f"{key} = '{text}'", hint) from e


def _text(key: str, table: Mapping[str, object], where: object) -> str:
    """Return table[key], which is a string that is not empty."""
    value = table[key]
    if not isinstance(value, str) or not value:
        raise SettingsError("bad value in profile", where, f"{key} = {value!r}", "a string that is not empty")
    return value


def _count(key: str, table: Mapping[str, object], where: object) -> int:
    """Return table[key], which is an integer above 0."""
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError("bad value in profile", where, f"{key} = {value!r}", "a whole number above 0")
    return value
