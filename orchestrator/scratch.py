"""Temporary folders, gone when whoever made them is done with them; after SIGKILL, when the next is made."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator import published

_PREFIX = "guestlaunch-scratch-"


@contextlib.contextmanager
def folder(home: Path | None = None) -> Iterator[Path]:
    """Give a new folder where temporary files belong, for as long as the context lasts.

    Those of this user's whose makers were killed are removed first.

    :param home: an existing folder instead of $TMPDIR.
    :raise OSError: it cannot be made.
    """
    home = home or Path(tempfile.gettempdir())
    published.sweep(home.glob(f"{_PREFIX}*"), _is_left)
    with published.aside(home, _PREFIX) as made:
        yield made


def _is_left(found: Path) -> bool:
    """Tell whether a folder may be removed if nobody holds it: it is ours, and nothing is mounted in it."""
    try:
        status = found.lstat()
        mounted = found.name in Path("/proc/self/mountinfo").read_text("utf-8", "replace")
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not mounted
