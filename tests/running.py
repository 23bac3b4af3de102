"""Runs the project's commands as a user would: real programs, an environment of their own, a deadline for each."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# A cold launch takes 20 s on a quiet machine under TCG; this is for a busy one.
DEADLINE_S = 180.0
# Words for the kernel command line of every guest of a run: TESTS_APPEND=guestlaunch.prepared=0 switches means off.
APPENDED = "TESTS_APPEND"

_started: weakref.WeakSet[subprocess.Popen[str]] = weakref.WeakSet()
_over = threading.Event()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A command that has ended.

    :ivar status: exit status; negative: the signal that ended it.
    """

    args: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    duration_s: float

    def __str__(self) -> str:
        """Show all of it, for a failed test."""
        head = f"$ {shlex.join(self.args)}\nstatus {self.status} after {self.duration_s:.1f} s"
        return f"{head}\n-- stdout\n{self.stdout}\n-- stderr\n{self.stderr}"

    def ok(self) -> Self:
        """Return the result itself; fail the test unless the status is 0."""
        assert self.status == 0, str(self)
        return self

    def json(self) -> Any:  # noqa: ANN401 - whatever the command printed
        """Return standard output, parsed."""
        return json.loads(self.ok().stdout)

    @property
    def error_line(self) -> str:
        """The one line that a failed command ends with; fails the test when it did not fail, or showed a traceback."""
        assert self.status != 0, str(self)
        assert "Traceback" not in self.stderr, str(self)
        lines = self.stderr.strip().splitlines()
        assert lines, str(self)
        return lines[-1]


def session_environment(session_dir: Path, state_dir: Path, evidence: Path) -> dict[str, str]:
    """Return the environment of a test's commands: the user's, without settings that would reach into the test."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("GUESTLAUNCH_", "LIBGUESTFS_"))}
    for name in ("tmp", "xdg", "config"):
        (session_dir / name).mkdir(mode=0o700, exist_ok=True)
    if APPENDED in os.environ:
        environ["LIBGUESTFS_APPEND"] = os.environ[APPENDED]
    return environ | {
        "GUESTLAUNCH_STATE_DIR": str(state_dir),
        "GUESTLAUNCH_RUNTIME_DIR": str(session_dir / "run"),
        # A template that one test leaves must not change another's launches: those that clone say so.
        "GUESTLAUNCH_START": "cold",
        "GUESTLAUNCH_STANDBY": "0",
        "GUESTLAUNCH_LEARN": "off",  # nothing is to run on behind a test's back
        "GUESTLAUNCH_TIMELINE": str(evidence / "timeline.jsonl"),
        "GUESTLAUNCH_LOG": str(evidence / "events.jsonl"),
        "XDG_RUNTIME_DIR": str(session_dir / "xdg"),
        "XDG_CONFIG_HOME": str(session_dir / "config"),
        "TMPDIR": str(session_dir / "tmp"),
        "LC_ALL": "C.UTF-8",
    }


@dataclass(slots=True, kw_only=True)
class Guestlaunch:
    """Runs `guestlaunch` and other programs in one test's environment.

    :ivar bin_dir: where our commands are; first in PATH.
    :ivar environ: environment of what is run; a test may change it.
    :ivar evidence: folder that takes what each command printed.
    """

    bin_dir: Path
    environ: dict[str, str]
    evidence: Path
    _running: list[subprocess.Popen[str]] = field(default_factory=list)
    _count: int = 0

    def __enter__(self) -> Self:
        """Start with nothing running."""
        self.environ["PATH"] = f"{self.bin_dir}:{self.environ.get('PATH', os.defpath)}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what a test has started and not waited for."""
        for process in self._running:
            end(process)
            if process.stdin is not None and process.stdin.closed:
                process.stdin = None  # communicate() would flush it
            process.communicate()

    def __call__(self, *args: str | Path, **options: Any) -> Result:  # noqa: ANN401 - those of run()
        """Run `guestlaunch ARGS`; see `run`."""
        return self.run(self.bin_dir / "guestlaunch", *args, **options)

    def run(
        self,
        *args: str | Path,
        stdin: str = "",
        timeout_s: float = DEADLINE_S,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Result:
        """Run any program to its end.

        :param environ: added to the environment.
        :raise AssertionError: it did not end in time; it and its children have then been killed.
        """
        began = time.monotonic()
        process = self.start(*args, environ=environ, cwd=cwd)
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
            late = False
        except subprocess.TimeoutExpired:
            end(process)
            stdout, stderr = process.communicate()
            late = True
        self._running.remove(process)
        result = Result(
            args=tuple(map(str, args)),
            status=process.returncode,
            stdout=stdout,
            stderr=stderr,
            duration_s=time.monotonic() - began,
        )
        self._count += 1
        (self.evidence / f"command-{self._count:02}.txt").write_text(f"{result}\n", "utf-8", "surrogateescape")
        assert not late, f"not done after {timeout_s:.0f} s: {result}"
        return result

    def start(
        self, *args: str | Path, environ: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start a program in a process group of its own, with pipes; it is killed at the test's end at the latest."""
        assert not _over.is_set(), "the run is being ended"
        process = subprocess.Popen(
            list(map(str, args)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ | dict(environ or {}),
            cwd=cwd,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._running.append(process)
        _started.add(process)
        return process

    def exports(self, *options: str | Path) -> dict[str, str]:
        """Return the variables that `guestlaunch env` would export, as a shell understands them."""
        text = self("env", *options).ok().stdout
        shell = self.run("/bin/sh", "-c", 'eval "$1"; env -0', "sh", text).ok()
        after = dict(entry.split("=", 1) for entry in shell.stdout.split("\0") if entry)
        own = {"_", "PWD", "OLDPWD", "SHLVL"}  # what the shell sets for itself
        return {key: value for key, value in after.items() if self.environ.get(key) != value and key not in own}


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process's group and reap the process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


def end_all() -> None:
    """Have every command end that a test of this process has started, and start none any more: a thread may wait."""
    _over.set()
    for process in list(_started):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
