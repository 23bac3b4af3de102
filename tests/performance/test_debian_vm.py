"""A VM of a real image for arm64, until it is ready: changed by an appliance, or by its cloud-init. Run by hand.

tools/test -m performance -s tests/performance/test_debian_vm.py

IMAGE=FILE takes an image that `tests/debian_image.py` has made. Packages come from a mirror of the test's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.debian_image import make_image
from tests.debian_mirror import SUITE, DebianMirror, served
from tests.running import Guestlaunch

READY_S = 1800.0
PACKAGE = "hello"
# How libguestfs's appliances reach their host.
HOST = "169.254.2.2"
USER_DATA = "#cloud-config\nruncmd:\n- [sh, -c, 'echo by runcmd >/run/seen']\n"

pytestmark = [pytest.mark.performance, pytest.mark.timeout(4 * 3600)]


@pytest.fixture
def image(open_folder: Path, guestlaunch: Guestlaunch) -> Path:
    """The image."""
    made = open_folder / "image.qcow2"
    if not made.exists():
        given = os.environ.get("IMAGE")
        shutil.copyfile(given, made) if given else make_image(open_folder, guestlaunch)
        made.chmod(0o644)
    return made


def test_a_vm_that_is_changed_before_it_boots(
    guestlaunch: Guestlaunch,
    image: Path,
    open_folder: Path,
    tmp_path: Path,
    system_daemon: tuple[str, subprocess.Popen[bytes]],
) -> None:
    """User and key, a package of a mirror's, a command, a file, and what its own cloud-init is told; then by ssh."""
    uri, vms = system_daemon[0], open_folder / "vms"
    key, data, file = tmp_path / "key", tmp_path / "user-data", tmp_path / "file"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    data.write_text(USER_DATA)
    file.write_text("copied\n")
    mirror = DebianMirror(tmp_path, packages=(PACKAGE,))
    mirror.make()
    with served(mirror.top) as port:
        source = f"deb [trusted=yes] http://{HOST}:{port} {SUITE} main"
        guestlaunch(
            "exec", "--", "virt-customize", "--quiet", "--format", "qcow2", "-a", image, "--write",
            f"/etc/apt/sources.list:{source}", timeout_s=READY_S,
        ).ok()  # fmt: skip
        said = guestlaunch(
            "vm", "create", "one", "-c", uri, "--folder", vms, "--image", image, "--size", "4G", "--accel", "tcg",
            "--memory-mib", "1024", "--vcpus", "2", "--start", "auto", "--hostname", "one", "--user", "me",
            "--ssh-key", f"{key}.pub", "--install", PACKAGE, "--copy-in", f"{file}:/etc", "--run",
            "uname -m >/etc/customised", "--cloud-init", data, "--timeout", str(READY_S), "--json",
            timeout_s=2 * READY_S,
        )  # fmt: skip
    timeline = said.json()["timeline"]
    for tile in timeline["phases"]:
        if tile["duration_ns"]:
            sys.stdout.write(f"{tile['name']:<11} {tile['duration_ns'] / 1e9:8.2f} s\n")
    sys.stdout.write(f"ready       {timeline['launch_ns'] / 1e9:8.2f} s, told by {timeline['vm']['told_by']}\n")
    try:
        began = time.monotonic()
        script = "until [ -e /run/seen ]; do sleep 1; done; uname -nm; cat /run/seen /etc/file /etc/customised; hello"
        seen = guestlaunch("vm", "ssh", "one", "-c", uri, "--timeout", "600", "--", script, timeout_s=READY_S).ok()
        sys.stdout.write(f"by ssh, {time.monotonic() - began:.1f} s after it was ready:\n{seen.stdout}")
        assert seen.stdout.splitlines() == ["one aarch64", "by runcmd", "copied", "aarch64", "Hello, world!"]
    finally:
        guestlaunch("vm", "delete", "one", "-c", uri, "--folder", vms, "--force").ok()
