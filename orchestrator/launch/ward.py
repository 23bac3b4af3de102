"""Our end of the reaper: what must go when we die. One reaper process an orchestrator."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from orchestrator.launch import reaper

_OWN = "*"
_END_SECONDS = 15.0


class Ward:
    """Keeps the reaper's list; a context manager that ends the reaper with a clean slate."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._listed: dict[str, list[Path]] = {}

    def start(self) -> None:
        """Start the reaper, in a session of its own so that no signal to our group ends it."""
        with self._lock:
            self._ensure()

    def _ensure(self) -> None:
        """Start the reaper, or start it again with the whole list when somebody killed it."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
            cwd="/",
        )
        for uuid, paths in self._listed.items():
            for path in paths:
                self._tell(f"+ {uuid} {json.dumps(str(path))}")

    def _tell(self, line: str) -> None:
        assert self._process is not None  # every caller has made sure of it
        assert self._process.stdin is not None  # it was started with a pipe
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode("ascii") + b"\n")

    def own(self, path: Path) -> None:
        """List a path that belongs to this process rather than to a launch."""
        self._add(_OWN, path)

    def _add(self, uuid: str, path: Path) -> None:
        with self._lock:
            self._ensure()
            self._listed.setdefault(uuid, []).append(path)
            self._tell(f"+ {uuid} {json.dumps(str(path))}")

    @contextlib.contextmanager
    def over(self, uuid: str, *paths: Path) -> Iterator[None]:
        """Have the domain with this UUID and these paths removed if we die within the context."""
        for path in paths:
            self._add(uuid, path)
        try:
            yield
        finally:
            with self._lock:
                self._listed.pop(uuid, None)
                self._ensure()
                self._tell(f"- {uuid}")

    def close(self) -> None:
        """End the reaper; what is still on its list it removes."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None  # it was started with a pipe
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
