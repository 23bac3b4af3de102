"""Orchestrator processes for tests: each holds a connection and one tiny guest, and does as it is told by lines."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from tests.tiny_domains import tiny_domain

TOP = Path(__file__).resolve().parents[1]

# Starts a guest, says where everything is, and does what the lines on its standard input ask for.
ORCHESTRATOR = """
import json, sys
from pathlib import Path
from orchestrator.errors import GuestlaunchError
from orchestrator.hypervisor.connect import open_connection

uri, state_dir, xml, claimed = json.loads(sys.argv[1])

def say(**values):
    print(json.dumps(values), flush=True)

try:
    with open_connection(uri, Path(state_dir)) as connection:
        if claimed:
            connection.root.claim(Path(claimed))
        guest = connection.create(xml)
        root = str(connection.root.path) if connection.root else None
        say(pid=guest.pid, root=root, names=connection.list_names(), local=connection.is_local)
        for line in sys.stdin:
            if line == "resume\\n":
                guest.resume()
                say(status=guest.qmp("query-status")["status"])
            elif line == "end\\n":
                ending = guest.end(10)
                say(reason=ending.reason, exit_code=ending.exit_code, names=connection.list_names())
            elif line == "lost\\n":
                say(lost=connection.lost.wait(20))
            elif line == "unanswered\\n":
                say(lost=connection.lost.wait(25))
            elif line == "gone\\n":
                try:
                    guest.wait_gone(10)
                except GuestlaunchError as error:
                    say(error=type(error).__name__)
except GuestlaunchError as error:
    say(error=type(error).__name__, text=str(error))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orchestrator:
    """A running orchestrator process."""

    process: subprocess.Popen[str]

    def answer(self) -> dict[str, Any]:
        """Return its next line; empty when it ended without one."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        return answer

    def ask(self, request: str) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self.answer()

    def finish(self) -> int:
        """Let it end by itself and return its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(30)


Start = Callable[..., Orchestrator]


@contextlib.contextmanager
def starting(evidence: Path) -> Iterator[Start]:
    """Start orchestrators; those that still run at the end of the context are killed."""
    with contextlib.ExitStack() as stack:

        def begin(
            state_dir: Path,
            name: str = "guest",
            *,
            uri: str | None = None,
            claimed: Path | None = None,
            environ: dict[str, str] | None = None,
            user: int | None = None,
            prefix: Sequence[str] = (),
        ) -> Orchestrator:
            log: IO[bytes] = stack.enter_context((evidence / f"{name}.stderr").open("wb"))
            request = json.dumps([uri, str(state_dir), tiny_domain(name), str(claimed) if claimed else None])
            process = stack.enter_context(
                subprocess.Popen(
                    [*prefix, sys.executable, "-c", ORCHESTRATOR, request],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    cwd="/",
                    env={**os.environ, "PYTHONPATH": str(TOP), **(environ or {})},
                    user=user,
                    group=user,
                    extra_groups=None if user is None else [],
                )
            )
            stack.callback(process.kill)
            return Orchestrator(process=process)

        yield begin


def require_readable_by(user: int) -> None:
    """Skip the test where a user cannot run this checkout."""
    reachable = subprocess.run(
        [sys.executable, "-c", "import orchestrator, libvirt"], user=user, group=user, extra_groups=[], cwd="/",
        env={"PYTHONPATH": str(TOP)}, check=False, capture_output=True,
    )  # fmt: skip
    if reachable.returncode:
        pytest.skip("other users cannot read this checkout")


def gone(*paths: Path, within_s: float = 10.0) -> bool:
    """Tell whether all paths have vanished in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(path.exists() for path in paths):
            return True
        time.sleep(0.05)
    return False
