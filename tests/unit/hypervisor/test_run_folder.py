"""A /run that root may not write to: what starts libvirt's driver has one of its own, with all that is in the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.hypervisor import run_folder

TOP = Path(__file__).resolve().parents[3]
READ_ONLY = """
mount -t tmpfs run /run
mkdir -p /run/kept/below $LIBVIRT
echo text >/run/kept/below/file; echo more >/run/file; ln -s kept/below /run/link
mount -o remount,ro /run
exec "$@"
"""
LOOK = """
import json, os
from orchestrator.hypervisor import run_folder

def look():
    os.makedirs("/run/libvirt/hostdevmgr")
    return [open(f"/run/{name}").read().strip() for name in ("link/file", "file")]

lacking = run_folder.is_lacking()
print(json.dumps([lacking, run_folder.call(look), os.path.exists("/run/libvirt/hostdevmgr")]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("there", ["", "/run/libvirt"])
def test_a_read_only_run(there: str) -> None:
    """Within the call the folder can be made, and the rest is there; everybody else's /run is as it was."""
    command = ["unshare", "--mount", "sh", "-euc", READ_ONLY, "sh", sys.executable, "-c", LOOK]
    environ = {**os.environ, "LIBVIRT": there, "PYTHONPATH": str(TOP)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [True, ["text", "more"], False], done.stderr


def test_without_a_namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where none is to be had, the function is called nevertheless, and what it raises is the caller's."""

    def refuse(_folder: Path) -> None:
        raise PermissionError(1, "no")

    def fail() -> None:
        raise ValueError("refused")

    monkeypatch.setattr(run_folder, "_replace", refuse)
    assert run_folder.call(lambda: 7) == 7
    with pytest.raises(ValueError, match="refused"):
        run_folder.call(fail)


def test_a_folder_that_can_be_made_is_not_lacking(tmp_path: Path) -> None:
    """Nor is one that is there."""
    assert not run_folder.is_lacking(tmp_path / "libvirt" / "hostdevmgr")
    assert not run_folder.is_lacking(tmp_path)
