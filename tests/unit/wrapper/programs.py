"""How tests start guestlaunch-hv: the module in a fresh interpreter, as the installed script would."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from orchestrator import wrapper

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


def installed(folder: Path) -> Path:
    """Install the shell script that users have in folder, as an editable install does, and return its path."""
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "_guestlaunch.pth").write_text(f"{TOP}\n", encoding="utf-8")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    return Path(shutil.copy(Path(wrapper.__file__).with_name("guestlaunch-hv"), programs))
