"""Result files of benchmarks: their shape (`bench_result.schema.json`), written whole, read checked.

The samples are the result; the analysis in a file is what was computed from them when it was written, for readers
without this program. Analysing is `analysis`'s business.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from orchestrator import files
from orchestrator.bench.analysed import (
    ComparisonEntry,
    DmaEntry,
    GainEntry,
    LineEntry,
    PredictedEntry,
    SeedEntry,
    StartEntry,
    SummaryEntry,
    ToolEntry,
)
from orchestrator.errors import GuestlaunchError, UsageError
from orchestrator.records.provenance import marked, of_event

SCHEMA_VERSION = 1
_FORMAT = "guestlaunch bench result"


class HostFacts(TypedDict):
    """The host as the benchmark found it (`host`); None for what is not known.

    :ivar kind: bare, virtualised or emulated, and `clock` by which it timed: as in `records.provenance`.
    """

    cpu_model: str | None
    cpus: int | None
    arch: str
    kernel: str
    memory_mib: int
    governor: str | None
    virtualization: str | None
    load: list[float]
    qemu: str | None
    libvirt: str | None
    libguestfs: str | None
    python: NotRequired[str]
    kind: NotRequired[str | None]
    clock: NotRequired[str | None]


class FirmwareFile(TypedDict):
    """The firmware build of the benchmark; None where there is none, or each side has its own."""

    path: str | None
    sha256: str | None


class Environment(TypedDict):
    """What a reader needs to judge a result.

    :ivar launches: what they say of themselves: accel, arch, versions, …
    """

    host: HostFacts
    launches: dict[str, Any]
    firmware: FirmwareFile


class SideEntry(TypedDict):
    """A side and what distinguishes it."""

    name: str
    facts: dict[str, Any]


class SampleEntry(TypedDict):
    """One run; see `rounds.Sample`. Metrics are durations in ns."""

    side: str
    round: int
    position: int
    started_wall_ns: int
    ok: bool
    error: NotRequired[str | None]
    launch_id: NotRequired[str | None]
    accel: NotRequired[str | None]
    fw_cfg_dma: NotRequired[bool | None]
    load: float
    size_bytes: NotRequired[int | None]
    tool: NotRequired[str]
    disk: NotRequired[str]
    metrics: dict[str, int | None]


class CountEntry(TypedDict):
    """The fw_cfg accesses of one transfer, counted in a run of its own."""

    fw_cfg_dma: bool
    payload_bytes: int
    accesses: int
    accesses_total: int
    predicted: int | None


class LeftOutEntry(TypedDict):
    """A side that could not be had on this host."""

    side: str
    reason: str


class Analysis(TypedDict, total=False):
    """What was computed from the samples (`analysis.analyse`); what a kind of benchmark does not compute is not there.

    :ivar sides: side to metric to its summary.
    :ivar comparisons: a row for each metric.
    :ivar starts: a row for each side of the benchmark of starts; `dma` is what DMA saves there.
    :ivar lines: a line through the transfers of each side of a sweep, or of the seed's experiment.
    :ivar tools: a row for each tool on each disk; `gains` is what several launches at once gain, a row for each side.
    :ivar seed: a row for each side of that which launches; `predicted` is what the lines say of a launch without DMA.
    """

    confidence: float
    alpha: float
    failed_runs: int
    first_failure: str | None
    sides: dict[str, dict[str, SummaryEntry]]
    comparisons: list[ComparisonEntry]
    verdict: str
    halved: str
    modelled_download_ns: int
    starts: list[StartEntry]
    dma: DmaEntry | None
    tools: list[ToolEntry]
    gains: list[GainEntry]
    lines: list[LineEntry]
    seed: list[SeedEntry]
    predicted: PredictedEntry | None


class Result(TypedDict):
    """A result file, as in its schema. `analysis` is None where its sides must not be compared."""

    format: str
    schema_version: int
    kind: str
    complete: bool
    ended_by: NotRequired[str | None]
    seed: int
    modelled_trap_cost_ns: int | None
    environment: Environment
    sides: list[SideEntry]
    samples: list[SampleEntry]
    counts: list[CountEntry]
    left_out: NotRequired[list[LeftOutEntry]]
    analysis: Analysis | None


def made_on(result: Result) -> str:
    """Return the kind of host that a result was made on, as a label of `records.provenance`."""
    host = result["environment"]["host"]
    return of_event({"host": host.get("kind"), "clock": host.get("clock")}).label


def where(result: Result) -> str:
    """Return the accelerator of a result in words, with what has to be said of its host."""
    launches = result["environment"]["launches"]
    accel = launches.get("accel")
    shown = " + ".join(map(str, accel)) if isinstance(accel, list) else str(accel)
    return marked(shown, made_on(result), arch=launches.get("arch"))


def new_result(kind: str, *, seed: int, environment: Environment, trap_cost_ns: int | None = None) -> Result:
    """Return an empty result of a kind of benchmark."""
    return {
        "format": _FORMAT,
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "complete": False,
        "ended_by": None,
        "seed": seed,
        "modelled_trap_cost_ns": trap_cost_ns,
        "environment": environment,
        "sides": [],
        "samples": [],
        "counts": [],
        "analysis": None,
    }


def schema() -> dict[str, Any]:
    """Return the JSON Schema of result files."""
    text = resources.files(__package__).joinpath("bench_result.schema.json").read_text("utf-8")
    return dict(json.loads(text))


def require_place(path: Path) -> None:
    """Refuse a path where no result could be written, before anything is measured. Nothing is left there.

    :raise GuestlaunchError: it is a directory, or its folder (or the one in which that would be made) takes no file.
    """
    real = Path(os.path.realpath(path))
    try:
        if real.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if real.exists() and not real.is_file():
            return  # a device or a pipe
        with tempfile.TemporaryFile(dir=next(folder for folder in real.parents if folder.exists())):
            pass
    except OSError as error:
        raise GuestlaunchError("cannot write the result", path, error.strerror or error) from error


def save(result: Result, path: Path) -> None:
    """Write a result to a file, which appears when it is whole, or to a device or a pipe.

    :raise GuestlaunchError: when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_output(path, (json.dumps(result, indent=1) + "\n").encode())
    except OSError as error:
        raise GuestlaunchError("cannot write the result", path, error.strerror or error) from error


def load(path: Path) -> Result:
    """Read a result file and check it against its schema.

    :raise UsageError: when it is not a result file of a version this program reads.
    """
    import jsonschema

    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise UsageError("cannot read the result", path, why) from error
    if not is_result(document):
        raise UsageError("cannot read the result", path, "it is not a result file of guestlaunch bench")
    if document.get("schema_version") != SCHEMA_VERSION:
        why = f"its schema version is {document.get('schema_version')}, this program reads {SCHEMA_VERSION}"
        raise UsageError("cannot read the result", path, why)
    try:
        jsonschema.validate(document, schema())
    except jsonschema.ValidationError as error:
        raise UsageError("cannot read the result", path, f"{error.json_path}: {error.message}"[:300]) from error
    return cast("Result", document)


def is_result(document: object) -> bool:
    """Tell whether a JSON document calls itself a result file."""
    return isinstance(document, dict) and document.get("format") == _FORMAT
