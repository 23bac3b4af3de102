"""A template as values: an appliance saved at the gate in its init, and all that it depends on.

Its key is a digest of those facts, so a template that any of them has outdated is never found again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator import locks
from orchestrator.errors import NotFoundError
from orchestrator.values import dataclass

Facts: TypeAlias = Mapping[str, str | int]

FORMAT = 5  # version of a template's files, manifest, gate and devices; templates of another are swept
MANIFEST = "template.json"
USES = "uses"  # a byte for each clone
RAM, STATE, ROOT, NVRAM, FIRMWARE, CONSOLE = "ram", "state", "root.qcow2", "nvram.fd", "firmware", "console"
FILES = (RAM, STATE, ROOT, FIRMWARE, CONSOLE)


def identity(path: str | Path) -> str:
    """Return what distinguishes a file from others, and from itself after a change: path, size, mtime.

    :raise OSError: it cannot be read.
    """
    resolved = Path(path).resolve()
    status = resolved.stat()
    return f"{resolved} {status.st_size} {status.st_mtime_ns}"


def key_of(facts: Facts) -> str:
    """Return the key of a template that depends on facts."""
    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One template. Paths are absolute; sizes in bytes.

    :ivar facts: what it depends on, by name.
    :ivar request: the launch request that it was booted for, as JSON values.
    :ivar files: size and digest of each of its files.
    :ivar learned: nobody asked for it: it was made for a kind of launch that had none.
    :ivar built: when, ISO 8601 in UTC; `seconds` is how long it took.
    """

    path: Path
    key: str
    facts: Facts
    request: Mapping[str, Any]
    files: Mapping[str, tuple[int, str]]
    built: str
    seconds: float
    learned: bool = False

    @property
    def ram(self) -> Path:
        """The guest's memory, mapped by each clone."""
        return self.path / RAM

    @property
    def state(self) -> Path:
        """The state of all else: CPU, devices, flash."""
        return self.path / STATE

    @property
    def root(self) -> Path:
        """The appliance's root as it was at the gate, a qcow2 overlay."""
        return self.path / ROOT

    @property
    def firmware(self) -> Path:
        """The small file that stands in for UEFI firmware."""
        return self.path / FIRMWARE

    @property
    def nvram(self) -> Path:
        """The variable store, where the profile's clones have flash."""
        return self.path / NVRAM

    def recording(self) -> bytes:
        """Return what firmware and kernel said on the console when the template booted, marked as a recording.

        :raise OSError: it cannot be read.
        """
        said = (self.path / CONSOLE).read_bytes()
        head = f"guestlaunch: this guest is a clone of template {self.key}; recorded when that booted, {self.built}:"
        return b"%b\r\n%b\r\nguestlaunch: end of the recording\r\n" % (head.encode(), said.rstrip(b"\r\n"))

    @property
    def disk_bytes(self) -> int:
        """The space that it takes on disk."""
        return sum(file.stat().st_blocks * 512 for file in self.path.iterdir())

    @property
    def uses(self) -> int:
        """How many clones it has had."""
        try:
            return (self.path / USES).stat().st_size
        except OSError:
            return 0

    @property
    def used_s(self) -> float:
        """When it was last cloned, in seconds since the epoch; when it was built, if it never was."""
        return self.path.stat().st_mtime

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the template from being removed while it is in use, and note that it is used.

        :raise NotFoundError: it has been removed meanwhile.
        """
        with locks.locked(self.path, exclusive=False) as lock:
            if not lock:
                raise NotFoundError("cannot use the template", self.key, "it has just been removed")
            with suppress(OSError):  # on a file system that has become read-only, a clone has no use for this
                os.utime(self.path)
                uses = os.open(self.path / USES, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.write(uses, b".")
                finally:
                    os.close(uses)
            yield
