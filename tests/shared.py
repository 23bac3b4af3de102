"""What is made once a run of the suite, and shared by its workers."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable
from pathlib import Path


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Have a folder made, by whoever comes first; return it. `make` fills another one, which then gets its name."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            staging = Path(tempfile.mkdtemp(dir=folder.parent))
            make(staging)
            staging.rename(folder)
    return folder
