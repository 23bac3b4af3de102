"""A whole installation of Debian for arm64, and its first boot. Run by hand: emulated, it takes a good part of an hour.

tools/test -m performance -s tests/performance/test_debian_installation.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.debian_mirror import DebianMirror, served
from tests.running import Guestlaunch

pytestmark = pytest.mark.timeout(4 * 3600)

PACKAGE = "debian-installer-12-netboot-arm64"
PRESEED = Path(__file__).parents[1] / "data" / "debian" / "preseed.cfg"
INSTALL_S, BOOT_S = 3 * 3600, 1800


def kernel_version(folder: Path) -> str:
    """Return the version of the kernel in the installer's package."""
    subprocess.run(["apt-get", "-qq", "download", PACKAGE], cwd=folder, check=True, timeout=600)
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, folder / "images"], check=True, timeout=600)
    (kernel,) = folder.glob("images/**/text/debian-installer/arm64/linux")
    found = re.search(rb"Linux version (\S+) ", kernel.read_bytes())
    assert found is not None
    return found[1].decode()


@pytest.mark.parametrize("dma", ["on", "off"])
def test_debian_is_installed_and_boots(guestlaunch: Guestlaunch, tmp_path: Path, dma: str) -> None:
    """The installer leaves its record and ends; the disk boots by its own boot entry, to a login prompt."""
    mirror = DebianMirror(tmp_path, kernel_version(tmp_path))
    mirror.make()
    with served(mirror.top) as port:
        said = guestlaunch(
            "install", "--location", f"deb:{PACKAGE}", "--preseed", PRESEED, "--fw-cfg-dma", dma, "--vcpus", "2",
            "--memory-mib", "1536", "--accel", "tcg", "--disk", tmp_path / "d.qcow2", "--size", "4G",
            "--timeout", str(INSTALL_S), "--boot-timeout", str(BOOT_S), "--console", tmp_path / "console", "--cmdline",
            f"DEBIAN_FRONTEND=text TERM=dumb console=ttyAMA0 mirror/http/hostname=10.0.2.2:{port}",
            timeout_s=INSTALL_S + BOOT_S,
        )  # fmt: skip
    sys.stdout.write(said.stdout)
    assert said.status == 0, str(said)
    assert "installed, and boots" in said.stdout
