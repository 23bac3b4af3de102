"""Result files that people send in: small, anonymous, and read as if somebody meant harm.

Made from a benchmark's result: what the machine is, which programs ran, and a few figures. No host or user names, no
paths, no launch ids: what is not listed here is not in the file. Its reader believes nothing: size, shape and
each of the values are checked, and it becomes a frozen value or an error.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.bench import seed, start_sides
from orchestrator.bench.result import Result
from orchestrator.bench.samples import columns
from orchestrator.errors import UsageError
from orchestrator.records.provenance import of_event

FORMAT = "guestlaunch submission"
SCHEMA_VERSION = 1
MOST_BYTES = 64 << 10
# The only names of sides that are passed on: a side may be named after a file.
SIDES = (
    *start_sides.OURS,
    seed.STOCK,
    *seed.NAIVE.values(),
    *seed.TRANSFER.values(),
    "DMA off",
    "DMA on",
    "guestlaunch",
)
METRICS = ("wall", "launch", "transfer")
_NUMBER = re.compile(r"\d+(?:\.\d+){1,3}")
_TEXT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Computer:
    """What a machine is, as far as figures depend on it; None for what is not known. Versions are numbers alone."""

    arch: str
    cpu_model: str | None
    cpus: int | None
    memory_gib: int | None
    kernel: str | None
    qemu: str | None
    libvirt: str | None
    libguestfs: str | None
    host: str | None  # bare, virtualised, emulated
    clock: str | None  # of that host, or instructions that an emulator counted

    @property
    def label(self) -> str:
        """What kind of host it is, as a label of `records.provenance`."""
        return of_event({"host": self.host, "clock": self.clock}).label


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What one side took in `runs` runs, in ns; `megabytes` of a transfer by itself."""

    side: str
    metric: str
    megabytes: int | None
    runs: int
    median_ns: int
    low_ns: int
    high_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One machine's result.

    :ivar halved: whether DMA halves a launch there, as its benchmark computed it.
    :ivar payload_bytes: kernel and initrd of a cold launch.
    """

    date: str
    guestlaunch: str
    kind: str
    complete: bool
    machine: Computer
    accel: str | None
    guest_arch: str | None
    modelled_trap_cost_ns: int | None
    payload_bytes: int | None
    halved: str | None
    figures: tuple[Figure, ...]

    def figure(self, side: str, metric: str) -> Figure | None:
        """Return a figure of a side; of transfers by themselves the largest."""
        found = [one for one in self.figures if (one.side, one.metric) == (side, metric)]
        return max(found, key=lambda one: one.megabytes or 0, default=None)


def from_result(result: Result) -> Submission:
    """Return what of a result may be sent in.

    :raise UsageError: there is nothing in it that could be.
    """
    host, launches = result["environment"]["host"], result["environment"]["launches"]
    figures = tuple(_figures(result))
    if not figures:
        raise UsageError("nothing to send in", result["kind"], "it holds no figure of a side that is known everywhere")
    newest_ns = max(sample["started_wall_ns"] for sample in result["samples"])
    sides = {side["name"]: side["facts"] for side in result["sides"]}
    payload = sides.get(start_sides.COLD, {}).get("payload_bytes")
    made = of_event({"host": host.get("kind"), "clock": host.get("clock")})
    return Submission(
        date=dt.datetime.fromtimestamp(newest_ns / 1e9, dt.UTC).strftime("%Y-%m-%d"),
        guestlaunch=_version(orchestrator.__version__) or "0.0",
        kind=result["kind"],
        complete=result["complete"],
        machine=Computer(
            arch=host["arch"] if host["arch"] in {"aarch64", "x86_64"} else "other",
            cpu_model=_plain(host["cpu_model"]),
            cpus=host["cpus"],
            memory_gib=round(host["memory_mib"] / 1024) or None,
            kernel=_version(host["kernel"]),
            qemu=_version(host["qemu"]),
            libvirt=_version(host["libvirt"]),
            libguestfs=_version(host["libguestfs"]),
            host=made.host and str(made.host),
            clock=made.clock and str(made.clock),
        ),
        accel=_one_of(launches.get("accel"), "kvm", "tcg"),
        guest_arch=_one_of(launches.get("arch"), "aarch64", "x86_64"),
        modelled_trap_cost_ns=result["modelled_trap_cost_ns"],
        payload_bytes=payload if isinstance(payload, int) else None,
        halved=_one_of((result["analysis"] or {}).get("halved"), "yes", "no", "undecided"),
        figures=figures,
    )


def _figures(result: Result) -> Iterator[Figure]:
    for side in (side["name"] for side in result["sides"] if side["name"] in SIDES):
        for name, values in columns(result, side).items():
            metric, _, size = name.partition(" ")
            seen = [round(value) for value in values if value is not None]
            if metric not in METRICS or not seen:
                continue
            megabytes = round(float(size.removesuffix(" MB"))) if size else None
            yield Figure(
                side=side, metric=metric, megabytes=megabytes, runs=len(seen),
                median_ns=round(statistics.median(seen)), low_ns=min(seen), high_ns=max(seen),
            )  # fmt: skip


def _version(text: str | None) -> str | None:
    """Return the number in what a program says of itself: the names of builders and hosts stand beside it."""
    found = _NUMBER.search(text or "")
    return found[0][:_TEXT] if found else None


def _plain(text: str | None) -> str | None:
    kept = re.sub(r"[^ -~]", "", text or "")[:_TEXT].strip()
    return kept or None


def _one_of(value: object, *known: str) -> str | None:
    return next((one for one in known if one == value), None)


def write(submission: Submission) -> str:
    """Return the text of a file."""
    return json.dumps({"format": FORMAT, "schema_version": SCHEMA_VERSION, **asdict(submission)}, indent=1) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of these files."""
    text = resources.files(__package__).joinpath("submission.schema.json").read_text("utf-8")
    return dict(json.loads(text))


def is_submission(beginning: bytes) -> bool:
    """Tell from its beginning whether a file calls itself one."""
    return f'"format": "{FORMAT}"'.encode() in beginning


def read(path: Path) -> Submission:
    """Read a file that somebody has sent.

    :raise UsageError: it cannot be read, or is not such a file, whole.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError("cannot read the submission", path, error.strerror or error) from error
    try:
        return parse(data)
    except ValueError as error:
        raise UsageError("cannot read the submission", path, error) from error


def parse(data: bytes) -> Submission:
    """Return what a file says.

    :raise ValueError: with why it is refused, in printable text.
    """
    import jsonschema

    if len(data) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES >> 10} KiB")
    try:
        document = json.loads(data.decode("ascii"), parse_constant=_refused, parse_float=_refused)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON in ASCII: {str(error)[:100]!a}") from error
    try:
        jsonschema.validate(document, schema())
    except jsonschema.ValidationError as error:
        raise ValueError(ascii(f"{error.json_path}: {error.message}"[:200])[1:-1]) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _require_printable(document)
    fields: dict[str, Any] = {k: v for k, v in document.items() if k not in {"format", "schema_version"}}
    machine = Computer(**fields.pop("machine"))
    return Submission(**fields | {"machine": machine, "figures": tuple(Figure(**one) for one in fields["figures"])})


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no whole number")


def _require_printable(value: object) -> None:
    """Refuse text that could do something to a terminal.

    :raise ValueError: there is such text. A pattern of a schema may let a newline pass at the end.
    """
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("it has text that cannot be printed")
    for inside in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _require_printable(inside)
