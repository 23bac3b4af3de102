"""The process that carries out one job through the `guestfs` bindings; the only importer of `guestfs`.

Runs as `python -m orchestrator.workload.worker`: the job comes as one line of JSON on standard input, which stays
open as long as our parent lives; what happens goes out as JSON lines on the descriptor that the job names. A process
of its own, because a call into the library can only be ended from outside.

    {"event": "launched", "duration_s": 17.2}
    {"event": "command", "command": "...", "outcome": "success", "output": ..., "duration_s": 0.1}
    {"event": "command", "command": "...", "outcome": "failure", "error": "...", "duration_s": 0.1}
    {"event": "result", "value": ...}
    {"event": "failed", "error": "...", "status": 1}
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator import surroundings
from orchestrator.distributions import Part, hint
from orchestrator.errors import CapabilityError, GuestlaunchError, UsageError, WorkloadError
from orchestrator.workload.commands import Call, parse

Emit = Callable[..., None]


def main() -> int:
    """Carry out the job on standard input; return the exit status."""
    surroundings.settle()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the terminal's: our parent says what there is to say
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    with os.fdopen(job["events_fd"], "w", encoding="utf-8", errors="backslashreplace") as events:

        def emit(event: str, **values: object) -> None:
            events.write(json.dumps({"event": event, **values}, default=plain) + "\n")
            events.flush()

        try:
            carry_out(job, emit)
        except GuestlaunchError as error:
            emit("failed", error=str(error), status=error.exit_status)
            return error.exit_status
    return 0


def _end_with_parent() -> None:
    """End this process, in the middle of whatever call it is in, when the one that started it is gone."""
    os.read(0, 1)  # not sys.stdin.read(): a lock held at the end of the interpreter is fatal to it
    os._exit(1)


def carry_out(job: Mapping[str, Any], emit: Emit) -> None:
    """Launch an appliance with the job's disks, and do the job's work in it.

    :raise GuestlaunchError: the job is wrong, the launch failed, or a command did.
    """
    guestfs = bindings()
    calls = [call for line in job["commands"] if (call := parse(line, guestfs.GuestFS)) is not None]
    program = _program(Path(job["python"])) if job["python"] else None
    g = guestfs.GuestFS(python_return_dict=True)
    try:
        for disk in job["disks"]:
            options = {"format": disk["format"]} if disk["format"] else {}
            g.add_drive_opts(disk["path"], readonly=disk["readonly"], **options)
        if job["network"]:
            g.set_network(True)
        began = time.monotonic()
        g.launch()
        emit("launched", duration_s=time.monotonic() - began)
        for call in calls:
            _call(g, call, emit)
        if program is not None:
            emit("result", value=program(g))
        g.shutdown()  # reports what close would not: data that could not be written
    except RuntimeError as error:  # what the bindings raise for every error of the library
        raise WorkloadError("the job failed", job["name"], error) from error
    finally:
        g.close()


def bindings() -> ModuleType:
    """Import the bindings.

    :raise CapabilityError: they are not there.
    """
    try:
        import guestfs  # here: a missing package is to be one line
    except ImportError as error:
        how = f"{hint(Part.GUESTFS_PYTHON)}; a virtual environment needs --system-site-packages"
        raise CapabilityError("cannot run jobs", "the guestfs bindings", error, how) from error
    module: ModuleType = guestfs
    return module


def _call(g: object, call: Call, emit: Emit) -> None:
    """Carry out one command and tell what came of it.

    :raise WorkloadError: it failed, and may not.
    """
    if call.method == "launch":
        return  # done already, and harmless to write, as in a guestfish script
    began = time.monotonic()
    try:
        output = getattr(g, call.method)(*call.arguments, **call.options)
    except RuntimeError as error:
        emit("command", command=call.line, outcome="failure", error=str(error), duration_s=time.monotonic() - began)
        if call.may_fail:
            return
        raise WorkloadError("command failed", call.line, error) from error
    emit("command", command=call.line, outcome="success", output=output, duration_s=time.monotonic() - began)


def _program(path: Path) -> Callable[[object], object]:
    """Load a Python file and return its run().

    :raise UsageError: it cannot be loaded, or has none.
    """
    import runpy  # here: only for jobs in Python

    try:
        names = runpy.run_path(str(path))
    except Exception as error:  # the user's own code: whatever it raises is the job's mistake
        raise UsageError("cannot load the job's program", path, f"{type(error).__name__}: {error}") from error
    run = names.get("run")
    if not callable(run):
        raise UsageError("cannot load the job's program", path, "it has no run(g)")

    def guarded(g: object) -> object:
        try:
            return run(g)
        except Exception as error:  # as above
            raise WorkloadError("the job's program failed", path, f"{type(error).__name__}: {error}") from error

    return guarded


def plain(value: object) -> object:
    """Turn what JSON cannot hold into what it can: bytes into text, or into hexadecimal if they are not text."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"hex": value.hex()}
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
