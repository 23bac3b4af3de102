"""Finds the version of the host's libguestfs without loading it."""

from __future__ import annotations

import re
import shutil
import subprocess

_QUERIES = (
    ("dpkg-query", "--show", "--showformat=${db:Status-Status} ${source:Upstream-Version}\n", "libguestfs0"),
    ("guestfish", "--version"),
)


def host_version() -> str | None:
    """Return the host's libguestfs version, `1.48.6`; None where libguestfs is not installed. Takes some 15 ms."""
    for query in _QUERIES:
        if shutil.which(query[0]) is None:
            continue
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        found = re.search(r"^(?:installed|guestfish) (\d+\.\d+\.\d+)", done.stdout, re.MULTILINE)
        if done.returncode == 0 and found:
            return found[1]
    return None
