"""Whole tools, timed from their start to their exit: what each is run with, and the runs one after the other.

Sides are the ways to launch. Within a round the tools come in random order, and each is run by all sides, in random
order too, before the next: what the host does meanwhile is in all of them. A tool that changes its disk gets a copy
that nobody used before. What a result holds already is not run again. What it means is `tools_analysis`'s business.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.bench import rounds
from orchestrator.bench.disks import MIB
from orchestrator.bench.result import Result
from orchestrator.bench.rounds import RunEnd, Sample, Side, Task
from orchestrator.bench.start_sides import reason
from orchestrator.bench.tool_disks import ToolDisk
from orchestrator.errors import WorkloadError
from orchestrator.settings import variable
from orchestrator.timeline.phases import Start
from orchestrator.values import dataclass

if TYPE_CHECKING:  # SciPy comes with it
    from orchestrator.bench.recording import Recording

KIND = "tools"
RUN_COMMAND = "run-command"
_GROWN_MIB = 64  # what virt-resize has to give away
_COPY_S = 300.0
# Ready is when guestmount returns; its launch ends later than guestunmount does.
_MOUNT = (
    'pid=$1 mount=$2; shift 2; guestmount --pid-file "$pid" "$@" --ro "$mount" && echo ready'
    ' && number=$(cat "$pid") && guestunmount "$mount" && while kill -0 "$number" 2>/dev/null; do sleep 0.05; done'
)
_UNMOUNT_S = 60.0
# virt-df for each of several disks, each in a launch of its own, as people go over a directory of images.
DISKS = 4
IN_TURN, AT_ONCE = "virt-df-in-turn", "virt-df-at-once"
_EACH = 'cd "$1" && printf "%s\\0" * | xargs -0 -n 1 -P "$2" virt-df -a >/dev/null'


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTool:
    """A tool with what it is asked to do; `{disk}`, `{grown}` and `{folder}` are put in for each run.

    :ivar line: its arguments, of which `{which}` and `{mounted}` stand for what is mounted, where it must be told.
    :ivar writes: it changes the disk.
    :ivar on_any: it does with a file system; the others want an operating system.
    :ivar several: it is several launches, on as many disks: `{disks}` is a directory of them, each the same one.
    """

    name: str
    line: tuple[str, ...]
    writes: bool = False
    on_any: bool = False
    several: bool = False
    ends: RunEnd = RunEnd.EXIT

    @property
    def program(self) -> str:
        """What has to be installed for it."""
        if self.several:
            return "virt-df"
        return "guestmount" if self.line[0] == "sh" else self.line[0]

    @property
    def expands(self) -> bool:
        """Whether it makes a partition larger."""
        return "{grows}" in self.line


_DISK = ("-a", "{disk}")
TOOLS = (
    MeasuredTool(name="virt-df", line=("virt-df", *_DISK), on_any=True),
    MeasuredTool(name="virt-filesystems", line=("virt-filesystems", *_DISK, "--all", "--long"), on_any=True),
    MeasuredTool(name="virt-ls", line=("virt-ls", *_DISK, "{which}", "-lR", "/"), on_any=True),
    MeasuredTool(name="virt-cat", line=("virt-cat", *_DISK, "{which}", "/etc/hostname"), on_any=True),
    MeasuredTool(name="virt-inspector", line=("virt-inspector", *_DISK)),
    MeasuredTool(
        name="virt-customize", writes=True,
        line=("virt-customize", *_DISK, "--hostname", "customized", "--edit", "/etc/hosts: s/localhost/here/"),
    ),
    MeasuredTool(name=RUN_COMMAND, writes=True, line=("virt-customize", *_DISK, "--run-command", "echo done >/done")),
    MeasuredTool(name="virt-sysprep", writes=True, line=("virt-sysprep", *_DISK)),
    MeasuredTool(name="virt-sparsify", writes=True, on_any=True, line=("virt-sparsify", "--in-place", "{disk}")),
    MeasuredTool(name="virt-resize", line=("virt-resize", "--expand", "{grows}", "{disk}", "{grown}")),
    MeasuredTool(
        name="guestmount", on_any=True, ends=RunEnd.ANSWER,
        line=("sh", "-c", _MOUNT, "sh", "{folder}/pid", "{folder}/mount", *_DISK, "{mounted}"),
    ),
    MeasuredTool(name="guestfish", line=("guestfish", "--ro", *_DISK, "-i", "inspect-get-roots")),
    MeasuredTool(name=IN_TURN, on_any=True, several=True, line=("sh", "-c", _EACH, "sh", "{disks}", "1")),
    MeasuredTool(name=AT_ONCE, on_any=True, several=True, line=("sh", "-c", _EACH, "sh", "{disks}", str(DISKS))),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """One run of a tool on a disk by a side."""

    number: int  # of its round
    way: Side
    tool: MeasuredTool
    disk: ToolDisk

    @property
    def task(self) -> Task:
        """What is done."""
        return Task(tool=self.tool.name, disk=self.disk.layout)

    @property
    def title(self) -> str:
        """The step in words."""
        return f"{self.way.name}: {self.task}"


def fitting(tools: Sequence[MeasuredTool], disks: Sequence[ToolDisk]) -> list[tuple[MeasuredTool, ToolDisk]]:
    """Return which tools are run on which disks; those that take several disks, on the first alone."""
    return [
        (tool, disk) for disk in disks for tool in tools
        if (tool.on_any or disk.device is None) and (disk.grows is not None or not tool.expands)
        and (disk is disks[0] or not tool.several)
    ]  # fmt: skip


def steps(
    ways: Sequence[Side], pairs: Sequence[tuple[MeasuredTool, ToolDisk]], *, first: int, runs: int, seed: int
) -> list[ToolRun]:
    """Return all steps in order; the seed decides it.

    :param first: number of the first round; negative ones are warm-ups.
    """
    found: list[ToolRun] = []
    for number in range(first, runs):
        order = random.Random(f"{seed} {number}")  # noqa: S311 - an experiment's order, not a secret
        for tool, disk in order.sample(list(pairs), len(pairs)):
            found += [
                ToolRun(number=number, way=way, tool=tool, disk=disk) for way in order.sample(list(ways), len(ways))
            ]
    return found


def left(wanted: Sequence[ToolRun], result: Result) -> list[ToolRun]:
    """Return the steps that a result does not hold yet; those that failed are to be done again.

    So are the warm-ups of standby launches that go on: the daemon that kept clones for them has ended.
    """
    done = {(s["round"], s["side"], s.get("tool"), s.get("disk")) for s in result["samples"] if s["ok"]}
    missing = [step for step in wanted if (step.number, step.way.name, step.tool.name, step.disk.layout) not in done]
    going_on = {(step.way.name, step.task) for step in missing if step.way.start is Start.STANDBY}
    kept = {id(step) for step in missing}
    return [
        step for step in wanted
        if id(step) in kept or (step.number < 0 and (step.way.name, step.task) in going_on)
    ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolBench:
    """Where steps are carried out: what all of them share.

    :ivar preloads: variables for the programs that are run with them, in launches of ours.
    """

    recording: Recording
    folder: Path
    deadline_s: float
    preloads: Mapping[str, str]


def carry_out(
    bench: ToolBench,
    todo: Sequence[ToolRun],
    *,
    time_budget_s: float | None,
    ready: Callable[[], None],
    tell: Callable[[str, float | None], None],
) -> Iterator[Sample]:
    """Carry the steps out, each into the result as soon as it is done. What fails in its warm-up is left out.

    :param time_budget_s: no step is started later than this.
    :param ready: returns when the host is ready for the next step.
    """
    began = time.monotonic()
    out: set[tuple[str, Task]] = set()
    for position, step in enumerate(todo):
        if time_budget_s is not None and time.monotonic() - began > time_budget_s:
            return
        if (step.way.name, step.task) in out:
            continue
        what = "warm-up" if step.number < 0 else f"round {step.number + 1} of {todo[-1].number + 1}"
        tell(f"{what}: {step.title}; {len(todo) - position - 1} of {len(todo)} left after it", position / len(todo))
        ready()
        sample = run(bench, step, position)
        if sample.warm_up and sample.error:
            out.add((step.way.name, step.task))
            bench.recording.leave_out(step.title, reason(sample.error))
            tell(f"left out: {step.title}: {reason(sample.error)}", None)
        bench.recording.take((sample,), (step.way,), analysed=False)
        yield sample


def run(bench: ToolBench, step: ToolRun, position: int) -> Sample:
    """Carry one step out, on files of its own."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as made:
        folder = Path(made)
        (folder / "mount").mkdir()
        path = step.disk.path
        if step.tool.writes:
            path = folder / path.name
            _copy(step.disk.path, path)
        if step.tool.several:
            (folder / "disks").mkdir()
            for number in range(DISKS):
                (folder / "disks" / f"{number}.img").symlink_to(path)
        if step.tool.expands:
            with (folder / "grown.img").open("wb") as grown:
                grown.truncate(path.stat().st_size + _GROWN_MIB * MIB)
        try:
            return rounds.run(_side(bench, step, path, folder), step.number, position, deadline_s=bench.deadline_s)
        finally:
            if step.tool.program == "guestmount":
                _unmount(folder / "mount")


def _side(bench: ToolBench, step: ToolRun, path: Path, folder: Path) -> Side:
    values = {"{disk}": str(path), "{grown}": f"{folder}/grown.img", "{grows}": step.disk.grows or ""}
    values |= {"{disks}": f"{folder}/disks"}
    which = () if step.disk.device is None else ("-m", step.disk.device)
    line: list[str] = []
    for part in step.tool.line:
        if part == "{which}":
            line += which
        elif part == "{mounted}":
            line += which or ("-i",)
        else:
            line.append(values.get(part, part.replace("{folder}", str(folder))))
    launcher, start = step.way.launcher, step.way.start
    if launcher and step.tool.name == RUN_COMMAND:
        launcher = (*launcher, *(f"{name}={value}" for name, value in bench.preloads.items()))
    if step.number < 0 and start in {Start.WARM, Start.STANDBY}:  # a warm-up has what clones need made
        launcher, start = (*launcher, f"{variable('start')}=warm"), None
    command, ends = (*launcher, *line), frozenset({step.tool.ends})
    return replace(step.way, command=command, ends=ends, task=step.task, start=start, or_warm=step.tool.several)


def _copy(source: Path, target: Path) -> None:
    command = ("cp", "--sparse=always", "--reflink=auto", str(source), str(target))
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COPY_S, check=False)
    if done.returncode:
        raise WorkloadError("cannot copy the disk", source, done.stderr.strip() or f"exit status {done.returncode}")


def _unmount(mount: Path) -> None:
    """Take away what a run that failed or was ended left mounted: else its folder could not be removed."""
    if mount.is_mount():
        for program in ("guestunmount", "umount"):
            if shutil.which(program) and mount.is_mount():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    subprocess.run((program, str(mount)), capture_output=True, timeout=_UNMOUNT_S, check=False)
