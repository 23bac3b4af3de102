"""A VM of an image, until it is ready, by `guestlaunch vm create` and by `virt-install --import --cloud-init`. By hand.

IMAGE=debian.qcow2 RUNS=3 tools/test -m performance -s tests/performance/test_vm_against_virt_install.py

The image is Debian's for arm64 with cloud-init, as `tests/debian_image.py` makes it. Both sides have the same libvirt,
image (an overlay over it), user data, memory, CPU and accelerator, and take turns. The sign that it is ready is the
same line, on a virtio-serial port, by the user data's last command; its time begins with the command's start.
What was measured is in RESULTS.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import Guestlaunch

IMAGE = os.environ.get("IMAGE")
RUNS = int(os.environ.get("RUNS", "3"))
READY_S = 900.0
SIZE_GIB, MEMORY_MIB, VCPUS, CPU = 4, 1024, 2, os.environ.get("CPU", "cortex-a57")
CODE, VARS = "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"  # the image is not signed
PORT = "org.guestlaunch.control.0"
USER_DATA = f"#cloud-config\nruncmd:\n- [sh, -c, 'echo guestlaunch-ready >/dev/virtio-ports/{PORT}']\n"

pytestmark = [pytest.mark.performance, pytest.mark.timeout(4 * 3600)]


class Bench:
    """Makes the same VM in either way, on a libvirt of the test's."""

    def __init__(self, guestlaunch: Guestlaunch, uri: str, image: Path, folder: Path) -> None:
        self._guestlaunch, self._uri, self._image, self._folder = guestlaunch, uri, image, folder
        self._data = folder / "user-data"
        self._data.write_text(USER_DATA)

    def guestlaunch(self) -> float:
        """Make it by our command; returns the seconds until it was ready."""
        began = time.monotonic()
        said = self._guestlaunch(
            "vm", "create", "one", "-c", self._uri, "--image", self._image, "--cloud-init", self._data, "--accel",
            "tcg", "--memory-mib", str(MEMORY_MIB), "--vcpus", str(VCPUS), "--cpu", CPU, "--folder",
            self._folder / "vms", "--ready", "record", "--timeout", str(READY_S), "--start", "auto", "--json",
            timeout_s=READY_S,
        )  # fmt: skip
        seconds = time.monotonic() - began
        timeline = said.json()["timeline"]
        tiles = {one["name"]: one["duration_ns"] for one in timeline["phases"] if one["duration_ns"]}
        sys.stdout.write(" ".join(f"{name} {tile / 1e9:.2f}" for name, tile in tiles.items()) + "\n")
        self._guestlaunch("vm", "delete", "one", "-c", self._uri, "--folder", self._folder / "vms", "--force").ok()
        return seconds

    def _virsh(self, *words: str) -> str:
        command = ["virsh", "-c", self._uri, *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout

    def _pools(self) -> set[str]:
        return set(self._virsh("pool-list", "--all", "--name").split())

    def virt_install(self) -> float:
        """Make it by virt-install; returns the seconds until it was ready."""
        disk, path, console = (self._folder / name for name in ("other.qcow2", "port", "console"))
        with socket.socket(socket.AF_UNIX) as port:
            port.bind(str(path))
            path.chmod(0o777)
            port.listen(1)
            port.settimeout(READY_S)
            pools = self._pools()
            began = time.monotonic()
            firmware = f"loader={CODE},loader.readonly=yes,loader.type=pflash,nvram.template={VARS}"
            overlay = f"path={disk},size={SIZE_GIB},format=qcow2,backing_store={self._image},backing_format=qcow2"
            command = [
                "virt-install", "--connect", self._uri, "--name", "other", "--import", "--arch", "aarch64", "--machine",
                "virt", "--boot", firmware, "--virt-type", "qemu", "--memory", str(MEMORY_MIB), "--vcpus", str(VCPUS),
                "--cpu", CPU, "--osinfo", "debian11", "--network", "user", "--graphics", "none",
                "--noautoconsole", "--controller", "type=scsi,model=virtio-scsi", "--disk", overlay,
                "--cloud-init", f"user-data={self._data}", "--serial", f"file,path={console}", "--channel",
                f"unix,source.mode=connect,source.path={path},target.type=virtio,target.name={PORT}",
            ]  # fmt: skip
            try:
                said = subprocess.run(command, check=False, capture_output=True, text=True, timeout=READY_S)
                assert said.returncode == 0, said.stderr
                connection, _ = port.accept()
                connection.settimeout(READY_S)
                with connection:
                    heard = b""
                    while b"guestlaunch-ready" not in heard:
                        block = connection.recv(4096)
                        assert block, heard
                        heard += block
                return time.monotonic() - began
            finally:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._virsh("destroy", "other")
                    self._virsh("undefine", "--nvram", "--remove-all-storage", "other")
                    for pool in self._pools() - pools:  # virt-install makes one of each folder that it sees, for good
                        self._virsh("pool-destroy", pool)
                        self._virsh("pool-undefine", pool)
                path.unlink()
                disk.unlink(missing_ok=True)
                console.unlink(missing_ok=True)


def test_until_it_is_ready(
    guestlaunch: Guestlaunch, system_daemon: tuple[str, subprocess.Popen[bytes]], open_folder: Path
) -> None:
    """So many of each, in turn."""
    assert IMAGE, "IMAGE=FILE names the image"
    assert shutil.which("virt-install"), "virt-install is not installed (package virtinst)"
    image = open_folder / "image.qcow2"
    shutil.copyfile(IMAGE, image)
    image.chmod(0o644)
    bench = Bench(guestlaunch, system_daemon[0], image, open_folder)
    sides: dict[str, Callable[[], float]] = {"guestlaunch": bench.guestlaunch, "virt-install": bench.virt_install}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(RUNS):
        for name in sorted(sides, reverse=number % 2 == 1):
            load = os.getloadavg()[0]
            seconds[name].append(sides[name]())
            sys.stdout.write(f"{name}: ready after {seconds[name][-1]:.1f} s (load {load:.1f} before)\n")
    for name, every in seconds.items():
        spread = f"median {statistics.median(every):.1f} s, {min(every):.1f} to {max(every):.1f}"
        sys.stdout.write(f"{name} (tcg, {CPU}): n = {len(every)}, {spread}\n")
    sys.stdout.write(json.dumps(seconds) + "\n")
