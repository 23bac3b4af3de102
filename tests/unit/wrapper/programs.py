"""How tests start guestlaunch-hv: the module in a fresh interpreter, as the installed script would."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TOP = str(Path(__file__).resolve().parents[3])
CODE = "from orchestrator.wrapper.hv import main; main()"
COMMAND = (sys.executable, "-c", CODE)


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without what would steer the wrapper, and with variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GUESTLAUNCH_", "LIBGUESTFS_", "PYTHON", "XDG_"))}
    return {**kept, "PYTHONPATH": TOP, **variables}


def script(folder: Path) -> Path:
    """Make the program as an installed script in folder, and return its path."""
    path = folder / "guestlaunch-hv"
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {TOP!r})\n{CODE}\n", encoding="utf-8")
    path.chmod(0o755)
    return path
