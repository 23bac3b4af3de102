"""guestlaunch env --unset: it takes away what env has set, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from orchestrator.cli.main import main


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Return what guestlaunch env prints."""
    monkeypatch.setattr(sys, "argv", ["guestlaunch", "env", *words])
    assert main() == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("own_state")
def test_unset_needs_no_appliance(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Who removed the appliance, or is in another state directory, gets rid of the variables."""
    lines = said(monkeypatch, capsys, "--unset")
    assert {"unset LIBGUESTFS_HV", "unset LIBGUESTFS_PATH", "unset LD_PRELOAD", "unset GUESTLAUNCH_STATE_DIR"} <= {
        *lines
    }


@pytest.mark.usefixtures("own_state")
def test_unset_leaves_what_the_user_preloads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only our library goes, whether or not --foreign is said again."""
    monkeypatch.setenv("LD_PRELOAD", "/state/cache/guest-arch-0123456789abcdef.so:/lib/my lib.so:'x")
    for words in (("--unset",), ("--foreign", "--unset")):
        [line] = [line for line in said(monkeypatch, capsys, *words) if "LD_PRELOAD" in line]
        shell = [shutil.which("sh") or "sh", "-c", f'{line}; printf %s "$LD_PRELOAD"']
        assert subprocess.run(shell, env={}, capture_output=True, text=True, check=True).stdout == "/lib/my:lib.so:'x"
