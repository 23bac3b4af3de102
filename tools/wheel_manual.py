"""Puts the man pages into the wheel, made from the commands as they are: PREFIX/share/man, beside PREFIX/bin.

man(1) looks there for whoever has PREFIX/bin in PATH. An editable installation has none: tools/setup writes its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualHook(BuildHookInterface):
    """Makes the pages before the wheel is packed, and removes them afterwards."""

    _made: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the pages, and name them as data of the wheel."""
        if version == "editable":
            return
        self._made = tempfile.mkdtemp(prefix="guestlaunch-man-")
        command = [sys.executable, "-m", "orchestrator.cli.main", "help", "--write", self._made]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([self.root, *sys.path]), "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run(command, cwd=self.root, env=environ, stdout=sys.stderr, check=True)
        for page in sorted(Path(self._made).rglob("*.[0-9]")):
            build_data["shared_data"][str(page)] = f"share/man/{page.relative_to(self._made)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the pages."""
        del version, build_data, artifact_path
        if self._made is not None:
            shutil.rmtree(self._made)
