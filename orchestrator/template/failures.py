"""Templates that could not be built in the background: not tried again before some time, and in the end not at all."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from orchestrator import files

_MOST = 5  # failures, after which only a person has it built
_FIRST_PAUSE_S = 600.0
_FACTOR = 6  # each pause is so many times the one before
_REMEMBERED = 100  # templates
_LONGEST_BYTES = 1 << 16


def _file(state_dir: Path) -> Path:
    return state_dir / "cache" / "unbuilt.json"


def why_not_again(state_dir: Path, key: str, now_s: float | None = None) -> str | None:
    """Return why a template is not to be built now, None when it may be.

    :param now_s: seconds since the epoch.
    """
    count, last_s = _load(state_dir).get(key, (0, 0.0))
    if count == 0:
        return None
    if count >= _MOST:
        return f"it could not be built {count} times"
    pause_s = _FIRST_PAUSE_S * _FACTOR ** (count - 1)
    if 0 <= (time.time() if now_s is None else now_s) - last_s < pause_s:
        return f"it could not be built, and is tried again after {pause_s / 60:.0f} minutes"
    return None


def note(state_dir: Path, key: str, now_s: float | None = None) -> None:
    """Remember that a template could not be built; where that cannot be written down, it is tried sooner."""
    known = _load(state_dir)
    count, _ = known.pop(key, (0, 0.0))
    _save(state_dir, known | {key: (count + 1, time.time() if now_s is None else now_s)})


def forget(state_dir: Path, key: str) -> None:
    """Forget the failures of a template that was built after all."""
    known = _load(state_dir)
    if known.pop(key, None) is not None:
        _save(state_dir, known)


def _save(state_dir: Path, known: dict[str, tuple[int, float]]) -> None:
    text = json.dumps(dict(list(known.items())[-_REMEMBERED:]))
    with contextlib.suppress(OSError):
        os.close(files.open_folder(_file(state_dir).parent, make=True))
        files.write_whole(_file(state_dir), text.encode())


def _load(state_dir: Path) -> dict[str, tuple[int, float]]:
    try:
        with _file(state_dir).open("rb") as file:
            read = json.loads(file.read(_LONGEST_BYTES))
        return {str(key): (int(count), float(last_s)) for key, (count, last_s) in read.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        return {}
