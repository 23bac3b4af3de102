"""The wheel: installed by pip into an environment that sees the distribution's bindings, it launches."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from orchestrator import __version__
from tests.conftest import TOP
from tests.disks import DiskFactory
from tests.records import records
from tests.running import Guestlaunch

pytestmark = [pytest.mark.timeout(600), pytest.mark.needs("network", "man", "qemu-system-x86_64")]

PAGES = ("man1/guestlaunch.1", "man1/guestlaunch-hv.1", "man5/guestlaunch.toml.5", "man8/guestlaunchd.8")


def pip(*arguments: str | Path) -> None:
    """Run the checkout's pip, with the user's settings of it."""
    environ = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_launches(tmp_path: Path, guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path) -> None:
    """Built and installed, it has its programs, profiles and manual, and launches without the checkout."""
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, TOP)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    data = f"guestlaunch-{__version__}.data"
    assert {f"{data}/data/share/man/{page}" for page in PAGES} <= set(names)
    assert not [name for name in names if re.match(r"tests/|tools/|\.build", name)]
    place = tmp_path / "venv"
    base = Path(sys.base_prefix) / "bin/python3"
    subprocess.run([base, "-m", "venv", "--system-site-packages", "--without-pip", place], check=True, timeout=60)
    pip("--python", place / "bin/python", "install", "--quiet", wheel)

    guestlaunch.environ["PATH"] = f"{place / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"
    for name in ("guestlaunch", "guestlaunchd"):
        assert __version__ in guestlaunch.run(place / "bin" / name, "--version", cwd=tmp_path).ok().stdout
    assert (
        guestlaunch.run("man", "--where", "guestlaunch", cwd=tmp_path).ok().stdout == f"{place}/share/man/{PAGES[0]}\n"
    )
    command = ("guestfish", "--accel", "tcg", "--profile", "x86_64-seabios", "--", "--ro", "-a", disk_image(), "run")
    guestlaunch.run(place / "bin/guestlaunch", *command, ":", "list-filesystems", cwd=tmp_path).ok()
    environment = guestlaunch.run(place / "bin/guestlaunch", "env", cwd=tmp_path).ok().stdout
    assert f"{place}/bin/guestlaunch-hv" in environment
    (record,) = records(evidence)
    assert record["outcome"] == "success"
