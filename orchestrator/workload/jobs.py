"""Carries out jobs: makes their images, runs the worker process, keeps the deadline, gathers the result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from orchestrator.distributions import Part, hint
from orchestrator.errors import CapabilityError, WorkloadError
from orchestrator.images.policy import Policy, confine
from orchestrator.settings import Settings
from orchestrator.workload.job import Job, JobDisk
from orchestrator.workload.tools import swept

SCHEMA_VERSION = 1
TIMED_OUT = 124  # as timeout(1)
_END_SECONDS = 10.0
_QEMU_IMG_SECONDS = 120.0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a job. Times are in seconds.

    :ivar outcome: "success", "failure" or "timeout".
    :ivar commands: one entry a command, as the worker told it.
    """

    job: str
    outcome: str = "success"
    status: int = 0
    error: str | None = None
    duration_s: float = 0.0
    launch_s: float | None = None
    commands: list[dict[str, Any]] = field(default_factory=list)
    result: Any = None

    def take(self, event: Mapping[str, Any]) -> None:
        """Note one event of the worker."""
        match event["event"]:
            case "launched":
                self.launch_s = event["duration_s"]
            case "command":
                self.commands.append({key: value for key, value in event.items() if key != "event"})
            case "result":
                self.result = event["value"]
            case "failed":
                self.outcome, self.status, self.error = "failure", event["status"], event["error"]

    def to_json(self, timelines: Sequence[Mapping[str, object]]) -> dict[str, Any]:
        """Return the whole as it is printed with --json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "job": self.job,
            "outcome": self.outcome,
            "error": self.error,
            "duration_s": self.duration_s,
            "launch_s": self.launch_s,
            "commands": self.commands,
            "result": self.result,
            "timelines": timelines,
        }


def confined(job: Job, settings: Settings) -> Job:
    """Return a job whose images were checked where the settings do not trust them, and whose formats are all said.

    Done before libguestfs sees them: it has qemu-img open those that are read-only.

    :raise ImagePolicyError: one names what it may not, or its format would have to be guessed.
    """
    if settings.trusts_images:
        return job
    policy = Policy.of(settings)
    disks = []
    for disk in job.disks:
        assert disk.path is not None  # load_job has seen to that
        if disk.size_mib is None or disk.path.exists():
            found = confine(str(disk.path), disk.format, str(job.directory), policy)
            disks.append(dataclasses.replace(disk, format=found.format))
        else:
            disks.append(disk)
    return dataclasses.replace(job, disks=tuple(disks))


def carry_out(
    job: Job, environ: Mapping[str, str], progress: Callable[[Mapping[str, Any]], None] | None = None
) -> Outcome:
    """Carry out a job in a worker process and return what became of it.

    :param environ: environment in which libguestfs launches through us.
    :param progress: told each event as it comes.
    :raise WorkloadError: an image could not be made.
    """
    began = time.monotonic()
    outcome = Outcome(job=job.name)
    with _images(job.disks, outcome), swept(environ) as variables, _worker(job, variables) as (process, events):
        for event in _events(events, began + job.deadline_s):
            outcome.take(event)
            if progress is not None:
                progress(event)
        late = time.monotonic() >= began + job.deadline_s and process.poll() is None
        _conclude(job, outcome, _end(process, late=late), late=late)
        outcome.duration_s = time.monotonic() - began
    return outcome


@contextlib.contextmanager
def _worker(job: Job, environ: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start the worker, give it the job, and yield it with the pipe of its events. It does not outlive us."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as events:
        try:
            process = subprocess.Popen(
                [sys.executable, "-X", "utf8", "-m", "orchestrator.workload.worker"],
                stdin=subprocess.PIPE,
                stdout=2,  # the job's program may print; our own stdout is the result's
                env=dict(environ) | {"PYTHONPATH": _import_path(environ)},
                cwd=job.directory,
                pass_fds=(write_end,),
            )
        except OSError as error:
            raise WorkloadError("cannot start the job", job.directory, error.strerror or error) from error
        finally:
            os.close(write_end)
        assert process.stdin is not None  # it was started with a pipe
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(_as_json(job, write_end)).encode() + b"\n")
                process.stdin.flush()
            yield process, events
        finally:
            _end(process, late=True)  # where we are interrupted
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def _import_path(environ: Mapping[str, str]) -> str:
    """Return PYTHONPATH with where this package was found, ahead of the job's own directory."""
    ours = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([ours, *filter(None, [environ.get("PYTHONPATH")])])


def _as_json(job: Job, events_fd: int) -> dict[str, Any]:
    return {
        "name": job.name,
        "events_fd": events_fd,
        "disks": [{"path": str(d.path), "format": d.format, "readonly": d.readonly} for d in job.disks],
        "network": job.network,
        "commands": list(job.commands),
        "python": None if job.python is None else str(job.python),
    }


def _events(events: IO[bytes], deadline: float) -> Iterator[dict[str, Any]]:
    """Yield the worker's events until it ends or the deadline is over."""
    poll = select.poll()
    poll.register(events, select.POLLIN)
    os.set_blocking(events.fileno(), False)
    rest = b""
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(left * 1000):
            return
        data = events.read()
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _end(process: subprocess.Popen[bytes], *, late: bool) -> int:
    """Wait for the worker; end it first when it is late. Its launch ends with it."""
    if late and process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _conclude(job: Job, outcome: Outcome, status: int, *, late: bool) -> None:
    """Decide the outcome when the worker could not report it itself."""
    if late:
        outcome.outcome, outcome.status = "timeout", TIMED_OUT
        outcome.error = f"the job was ended: {job.name}: not done within its deadline of {job.deadline_s:g} s"
    elif status and outcome.outcome == "success":
        how = f"signal {-status}" if status < 0 else f"status {status}"
        outcome.outcome, outcome.status = "failure", 1
        outcome.error = f"the job failed: {job.name}: its worker ended with {how}"


@contextlib.contextmanager
def _images(disks: tuple[JobDisk, ...], outcome: Outcome) -> Iterator[None]:
    """Make the images that are not there; take them away again unless the job succeeds.

    :raise WorkloadError: one cannot be made.
    """
    made: list[Path] = []
    try:
        for disk in disks:
            assert disk.path is not None  # load_job has seen to that
            if disk.size_mib is not None and not disk.path.exists():
                made.append(disk.path)
                make_image(disk.path, disk.format or "raw", disk.size_mib)
        yield
    except BaseException:
        outcome.outcome = "failure"
        raise
    finally:
        if outcome.outcome != "success":
            for path in made:
                path.unlink(missing_ok=True)


def make_image(path: Path, image_format: str, size_mib: int) -> None:
    """Make an empty image.

    :raise WorkloadError: it cannot be made.
    :raise CapabilityError: qemu-img is missing.
    """
    command = ["qemu-img", "create", "-q", "-f", image_format, str(path.absolute()), f"{size_mib}M"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_QEMU_IMG_SECONDS)
    except FileNotFoundError as error:
        raise CapabilityError("cannot make the disk", path, "qemu-img is missing", hint(Part.QEMU_IMG)) from error
    except subprocess.CalledProcessError as error:
        raise WorkloadError("cannot make the disk", path, error.stderr.strip()) from error
    except subprocess.TimeoutExpired as error:
        raise WorkloadError("cannot make the disk", path, f"not done after {_QEMU_IMG_SECONDS:.0f} s") from error
