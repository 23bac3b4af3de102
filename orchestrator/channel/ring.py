"""The console's memory: a bounded ring of bytes, shown as escaped lines. Knows no sockets."""

from __future__ import annotations

import re
from collections import deque

_PANIC = re.compile(rb"Kernel panic - not syncing: ([^\r\n]*)")
_FIRMWARE = re.compile(rb"UEFI firmware \(version (\S*) (built at [^()\r\n]+)\)")
# Terminal sequences (CSI, OSC, two-byte escapes) say nothing in a log and can harm a terminal.
_TERMINAL = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_=>])")


class ConsoleRing:
    """Keeps the last `capacity` bytes of a console, and notices what matters while they pass."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: deque[bytes] = deque()
        self._held = 0
        self.seen_bytes = 0

    def feed(self, block: bytes) -> None:
        """Append bytes; the oldest blocks go when more than the capacity is held."""
        self.seen_bytes += len(block)
        self._blocks.append(block[-self._capacity :])
        self._held += len(self._blocks[-1])
        while self._held > self._capacity:
            excess = self._held - self._capacity
            oldest = self._blocks.popleft()
            if len(oldest) > excess:
                self._blocks.appendleft(oldest[excess:])
            self._held -= min(excess, len(oldest))

    def content(self) -> bytes:
        """Return what is held."""
        return b"".join(self._blocks)

    def panic(self) -> str | None:
        """Return the kernel's own words when it panicked."""
        match = _PANIC.search(self.content())
        return escape(match.group(1)) if match else None

    def firmware_version(self) -> str | None:
        """Return the version that the UEFI firmware printed of itself, or when it was built: Debian's has no other."""
        match = _FIRMWARE.search(self.content())
        return escape(match.group(1) or match.group(2)) if match else None

    def tail(self, lines: int) -> tuple[str, ...]:
        """Return the last non-empty lines, escaped."""
        text = [escape(line) for line in re.split(rb"[\r\n]+", self.content())]
        return tuple([line for line in text if line.strip()][-lines:])


def escape(line: bytes) -> str:
    r"""Return a console line as printable text: terminal sequences dropped, other control bytes as \xNN."""
    text = _TERMINAL.sub(b"", line).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)
