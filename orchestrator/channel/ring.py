"""The console's memory: a bounded ring of bytes, shown as escaped lines. Knows no sockets."""

from __future__ import annotations

import re

# What a guest says goes into errors and records: no more of it than a person would read.
_LONGEST = 400
_PANIC = re.compile(rb"Kernel panic - not syncing: ([^\r\n]{0,400})")
_FIRMWARE = re.compile(rb"UEFI firmware \(version (\S{0,100}) (built at [^()\r\n]{1,100})\)")
# Terminal sequences (CSI, OSC, two-byte escapes) say nothing in a log and can harm a terminal.
_TERMINAL = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_=>])")


class ConsoleRing:
    """Keeps the last `capacity` bytes of a console, and notices what matters while they pass."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held = bytearray()

    def feed(self, block: bytes) -> None:
        """Append bytes; the oldest go when more than the capacity is held."""
        self._held += block[-self._capacity :]
        del self._held[: -self._capacity]

    def content(self) -> bytes:
        """Return what is held."""
        return bytes(self._held)

    def panic(self) -> str | None:
        """Return the kernel's own words when it panicked."""
        match = _PANIC.search(self.content())
        return escape(match.group(1)) if match else None

    def firmware_version(self) -> str | None:
        """Return the version that the UEFI firmware printed of itself, or when it was built: Debian's has no other."""
        match = _FIRMWARE.search(self.content())
        return escape(match.group(1) or match.group(2)) if match else None

    def tail(self, lines: int) -> tuple[str, ...]:
        """Return the last non-empty lines, escaped; of a long one the beginning."""
        found: list[str] = []
        for line in reversed(re.split(rb"[\r\n]+", self.content())):
            text = escape(line[: 4 * _LONGEST])
            if text.strip():
                found.append(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
            if len(found) == lines:
                break
        return tuple(reversed(found))


def escape(line: bytes) -> str:
    r"""Return a console line as printable text: terminal sequences dropped, other control bytes as \xNN."""
    text = _TERMINAL.sub(b"", line).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)
