"""Run one host program within a deadline; knows nothing of what it does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.errors import ApplianceError, CapabilityError
from orchestrator.tether import Tether

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # a normal user's PATH often lacks depmod and mke2fs


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point of the monotonic clock, in seconds, after which work is given up."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline that lies `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Return the seconds that are left, never below zero."""
        return max(0.0, self.at - time.monotonic())


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    path = f"{os.environ.get('PATH', '/usr/bin:/bin')}:{_SBIN}"
    return {**os.environ, "PATH": path, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **(extra or {})}


def require(program: str, package: str, *, what: str = "cannot build an appliance") -> str:
    """Return the path of a host program.

    :param what: what cannot be done without it.
    :raise CapabilityError: it is not installed; names the package that has it.
    """
    found = shutil.which(program, path=_environment(None)["PATH"])
    if found is None:
        raise CapabilityError(what, program, "not installed", f"install the package {package}")
    return found


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: it leads its own session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(argv: Sequence[str], why: str, output: str) -> ApplianceError:
    tail = output.strip().splitlines()[-4:]
    return ApplianceError("cannot build the appliance", Path(argv[0]).name, "; ".join([why, *tail]))


def run(
    argv: Sequence[str],
    deadline: Deadline,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a program and return its standard output. It does not outlive us, nor does what it starts.

    :param on_line: called from another thread with each line of standard output as it comes.
    :raise ApplianceError: it failed or was not done by the deadline; says the end of its output.
    """
    lines: list[str] = []

    def read(stream: IO[bytes]) -> None:
        for raw in stream:
            lines.append(raw.decode(errors="replace"))
            if on_line:
                on_line(lines[-1].rstrip("\n"))

    with closing(Tether()) as tether, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(environment),
            cwd=cwd,
            start_new_session=True,
            pass_fds=(tether.reading,),
        )
        tether.tie(-process.pid, signal.SIGKILL)
        assert process.stdout is not None
        reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            process.wait(deadline.left())
        except subprocess.TimeoutExpired as error:
            raise _failure(argv, "not done by the deadline", "") from error
        finally:
            _stop(process)
            reader.join()
            process.stdout.close()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if process.returncode != 0:
        raise _failure(argv, f"exit status {process.returncode}", said or "".join(lines))
    return "".join(lines)
