"""What guestlaunch appliance prints of an appliance, for people and for machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main as cli

ROOT_UUID = "0f0e0d0c-0b0a-0908-0706-050403020100"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A fixed appliance without a manifest, as other programs make it: the least that is one."""
    folder = tmp_path / "a fixed appliance"
    folder.mkdir()
    kernel = bytearray(0x800)
    kernel[0x38:0x3C] = b"ARM\x64"
    (folder / "kernel").write_bytes(kernel)
    (folder / "initrd").write_bytes(b"\x1f\x8b" + bytes(100))
    root = bytearray(0x1000)
    root[0x438:0x43A] = b"\x53\xef"
    root[0x468:0x478] = bytes(reversed(range(16)))
    (folder / "root").write_bytes(root)
    return folder


def run(*arguments: str | Path, state: Path) -> subprocess.CompletedProcess[str]:
    """Run `guestlaunch appliance ARGUMENTS` on a terminal of 80 columns."""
    command = [sys.executable, "-m", cli.__name__, "appliance", "--state-dir", str(state), *map(str, arguments)]
    environ = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)


def test_show_and_verify(foreign: Path, tmp_path: Path) -> None:
    """Each fact has a line of its own; JSON has the same facts as numbers and texts."""
    shown = run("show", foreign, state=tmp_path).stdout.splitlines()
    assert shown[0].split() == ["arch", "aarch64"]
    assert f"{'root_uuid':<12} {ROOT_UUID}" in shown
    assert f"{'libguestfs':<12} unknown" in shown
    assert shown[shown.index(f"{'bytes':<12} kernel 2048") + 1].strip() == "initrd 102"
    facts = json.loads(run("show", "--json", foreign, state=tmp_path).stdout)
    assert facts["bytes"] == {"kernel": 2048, "initrd": 102, "root": 4096}
    assert (facts["path"], facts["digests"], facts["packages"]) == (str(foreign), {}, {})
    verified = run("verify", "--json", foreign, state=tmp_path)
    assert (verified.returncode, json.loads(verified.stdout)["manifest"]) == (0, False)


def test_nothing_built(tmp_path: Path) -> None:
    """An empty store is an empty list, and no appliance to show, verify or remove: one line each, with what to do."""
    listed = run("list", "--json", state=tmp_path)
    assert (listed.returncode, listed.stdout.strip()) == (0, "[]")
    for command in ("show", "verify"):
        refused = run(command, state=tmp_path)
        assert refused.returncode != 0
        assert re.fullmatch(r"guestlaunch: no appliance for: aarch64: .*appliance build.*\n", refused.stderr)
    assert run("remove", "--arch", "x86_64", state=tmp_path).stderr.startswith("guestlaunch: no appliance for: x86_64")


@pytest.mark.parametrize("command", ["build", "list", "show", "verify", "remove"])
def test_help(command: str, tmp_path: Path) -> None:
    """Each command's help has examples and --json, explains each option, and fits into 80 columns."""
    text = run(command, "--help", state=tmp_path).stdout
    assert f"guestlaunch appliance {command}" in text.partition("Examples:")[2]
    assert "--json" in text
    assert max(map(len, text.splitlines())) <= 80
    for line in re.findall(r"^  --.*$", text, re.MULTILINE):
        assert re.search(r"\S  +[A-Z]", line) or line.endswith(("]", "SECONDS")), line
