"""A workload as data: a job file (TOML) to frozen values, every mistake named with what would be right.

    description = "..."          what it is for
    deadline_s = 600             for the whole job; it is ended and cleaned up after that
    network = false              whether the appliance gets a network
    [settings]                   what this job needs of the settings: profile = "...", memory_mib = 1024
    [[disks]]                    in the order the guest sees them
    path = "disk.img"            from the job file's directory; left out: given on the command line
    format = "raw"               left out: raw, or probed where images are trusted (image_policy)
    readonly = true              the default
    size_mib = 512               the image is made if it is not there
    commands = ["list-filesystems", "-mount /dev/sda1 /"]     guestfish's; a leading "-" lets one fail
    python = "check.py"          or: a file with run(g), whose result must fit into JSON

How a job is carried out is not known here.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.errors import UsageError, nearest
from orchestrator.settings import PER_LAUNCH

_DEADLINE_S = 600.0
_FORMATS = ("raw", "qcow2")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDisk:
    """One disk of a job. `path` is absolute, or None until the command line gives it; sizes are in MiB."""

    path: Path | None = None
    format: str | None = None
    readonly: bool = True
    size_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A workload. Exactly one of `commands` and `python` is there.

    :ivar directory: where relative paths of the job start from; its programs run there too.
    :ivar settings: overrides by settings key, not yet checked.
    """

    name: str
    directory: Path
    disks: tuple[JobDisk, ...] = ()
    commands: tuple[str, ...] = ()
    python: Path | None = None
    description: str = ""
    deadline_s: float = _DEADLINE_S
    network: bool = False
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)


class _Table:
    """A TOML table that is read key by key; a key that nobody reads is a mistake."""

    def __init__(self, table: Mapping[str, Any], where: str, keys: Sequence[str]) -> None:
        self._table = table
        self._where = where
        for key in table:
            if key not in keys:
                hint = nearest(key, keys) or f"keys: {', '.join(keys)}"
                raise UsageError("unknown key in job", where, f"'{key}'", hint)

    def text(self, key: str) -> str | None:
        """Return a text that is not empty, None when the key is not there."""
        value = self._table.get(key)
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise self.wrong(key, "a text that is not empty")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._table.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def whole(self, key: str) -> int | None:
        """Return a whole number above 0, None when the key is not there."""
        value = self._table.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise self.wrong(key, "a whole number above 0")
        return value

    def seconds(self, key: str, default: float) -> float:
        """Return a finite number above 0."""
        value = self._table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.wrong(key, "seconds, above 0")
        return float(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
            raise self.wrong(key, "a list of texts")
        return tuple(value)

    def tables(self, key: str) -> list[Mapping[str, Any]]:
        """Return a list of tables."""
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(key, f"tables, each headed [[{key}]]")
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        """Return a table, empty when the key is not there."""
        value = self._table.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, f"a table, headed [{key}]")
        return value

    def wrong(self, key: str, expected: str) -> UsageError:
        """Return the error for a value that does not fit."""
        return UsageError("bad value in job", self._where, f"{key} = {self._table[key]!r}", f"expected {expected}")


def load_job(path: Path, disks: Sequence[Path] = ()) -> Job:
    """Read a job file.

    :param disks: paths from the command line; they stand for the job's disks, in order.
    :raise UsageError: names the file, the key and what would be right.
    """
    try:
        table = tomllib.loads(files.read_whole(path, pipe=True).decode("utf-8"))
    except OSError as error:
        raise UsageError("cannot read job", path, error.strerror or error) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError("cannot read job", path, error) from error
    return parse_job(table, path.absolute(), disks)


def parse_job(table: Mapping[str, Any], path: Path, disks: Sequence[Path] = ()) -> Job:
    """Return the job that a table describes; see `load_job`."""
    keys = [field.name for field in dataclasses.fields(Job) if field.name not in {"name", "directory"}]
    reader = _Table(table, str(path), keys)
    commands, python = reader.texts("commands"), reader.text("python")
    if bool(commands) == (python is not None):
        raise UsageError(
            "incomplete job", path, "it needs either commands or python", "see the examples in configs/jobs"
        )
    job = Job(
        name=path.stem,
        directory=path.parent,
        disks=_with_paths([_disk(one, path) for one in reader.tables("disks")], disks, path),
        commands=commands,
        python=None if python is None else path.parent / python,
        description=reader.text("description") or "",
        deadline_s=reader.seconds("deadline_s", _DEADLINE_S),
        network=reader.flag("network", default=False),
        settings=reader.table("settings"),
    )
    allowed = PER_LAUNCH - {"deadlines", "confine"}  # a job must not decide how the host is protected
    for key in job.settings:
        if key not in allowed:
            hint = nearest(key, allowed) or f"keys: {', '.join(sorted(allowed))}"
            raise UsageError("unknown key in job", path, f"settings.{key}", hint)
    if job.python is not None and not job.python.is_file():
        raise UsageError("bad value in job", path, f"python = {python!r}", "there is no such file")
    return job


def _disk(table: Mapping[str, Any], path: Path) -> JobDisk:
    keys = [field.name for field in dataclasses.fields(JobDisk)]
    reader = _Table(table, f"{path} [[disks]]", keys)
    named = reader.text("path")
    disk = JobDisk(
        path=None if named is None else path.parent / named,
        format=reader.text("format"),
        readonly=reader.flag("readonly", default=True),
        size_mib=reader.whole("size_mib"),
    )
    if disk.size_mib is not None and (disk.readonly or disk.format not in _FORMATS):
        raise UsageError(
            "bad value in job",
            f"{path} [[disks]]",
            "size_mib",
            "a disk to be made needs readonly = false and format raw or qcow2",
        )
    return disk


def _with_paths(disks: Sequence[JobDisk], paths: Sequence[Path], where: Path) -> tuple[JobDisk, ...]:
    """Replace the job's paths by those of the command line."""
    if len(paths) > len(disks):
        raise UsageError("too many disks", where, f"the job has {len(disks)}, the command line {len(paths)}")
    given = [
        dataclasses.replace(disk, path=paths[index].absolute()) if index < len(paths) else disk
        for index, disk in enumerate(disks)
    ]
    for index, disk in enumerate(given):
        if disk.path is None:
            raise UsageError("incomplete job", where, f"disk {index + 1} has no path", "give it with --disk FILE")
    return tuple(given)
