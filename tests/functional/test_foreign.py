"""Commands run in a guest of another architecture than the host's, by unmodified tools, in an appliance of that one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.disks import host
from tests.running import Guestlaunch

pytestmark = pytest.mark.needs("qemu-system-aarch64", "qemu-system-x86_64")

OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}[os.uname().machine]
TCG = ("--profile", {"aarch64": "aarch64-uefi", "x86_64": "x86_64-ovmf"}[OTHER], "--accel", "tcg")
LIBRARIES = f"usr/lib/{OTHER}-linux-gnu"
LOADER = {"aarch64": "lib/ld-linux-aarch64.so.1", "x86_64": "lib64/ld-linux-x86-64.so.2"}[OTHER]
# What is taken from the appliance's root, and where it is put.
PROGRAMS_AND_LIBRARIES = {
    "usr/bin/dash": "bin/sh",
    "usr/bin/uname": "bin/uname",
    f"{LIBRARIES}/libc.so.6": f"lib/{OTHER}-linux-gnu/libc.so.6",
    f"{LIBRARIES}/{Path(LOADER).name}": LOADER,
}
TEXTS = {"etc/fstab": "/dev/sda / ext4 defaults 0 1\n", "etc/os-release": "ID=debian\nVERSION_ID=12\n"}


@pytest.fixture
def system(appliance: dict[str, Path], tmp_path: Path) -> Path:
    """An image with the smallest system of the other architecture that can run a command."""
    content, image = tmp_path / "content", tmp_path / "system.img"
    for source, target in PROGRAMS_AND_LIBRARIES.items():
        path = content / target
        path.parent.mkdir(parents=True, exist_ok=True)
        host("/usr/sbin/debugfs", "-R", f'dump -p /{source} "{path}"', appliance[OTHER] / "root")
        path.chmod(0o755)
    for name, text in TEXTS.items():
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_text(text)
    for name in ("dev", "proc", "sys", "tmp"):
        (content / name).mkdir()
    host("/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", content, image, "16M")
    return image


def test_a_command_runs_in_a_foreign_guest(guestlaunch: Guestlaunch, template: Path, system: Path) -> None:
    """virt-customize, which refuses it by itself, runs it natively; the image says which profile that takes."""
    del template  # what there is to clone is cloned
    command = ("virt-customize", "--no-network", "-q", "--format=raw", "-a", system)
    guestlaunch(
        "exec", "--profile", "auto", "--accel", "tcg", "--", *command, "--run-command", "uname -m >/machine"
    ).ok()
    assert host("/usr/sbin/debugfs", "-R", "cat /machine", system) == f"{OTHER}\n"


def test_what_cannot_be_had_is_said_before_the_tool_runs(
    guestlaunch: Guestlaunch, state_dir: Path, tmp_path: Path
) -> None:
    """The tool then runs without it."""
    command = ("sh", "-c", 'echo "[$LD_PRELOAD]"')
    state = tmp_path / "a folder"
    state.mkdir(mode=0o700)
    (state / "appliances").symlink_to(state_dir / "appliances")
    without = guestlaunch("exec", *TCG, "--", *command, environ={"GUESTLAUNCH_STATE_DIR": str(state)}).ok()
    assert without.stdout == "[]\n"
    assert without.stderr.startswith(
        f"guestlaunch: warning: cannot run commands in a foreign guest: {state}/cache/guest-arch-"
    )
    assert "guest-arch-" in guestlaunch("exec", *TCG, "--", *command).ok().stdout


def test_plain_programs_have_it_when_asked(guestlaunch: Guestlaunch) -> None:
    """The exports name it with --foreign, and else leave LD_PRELOAD alone."""
    assert "LD_PRELOAD" not in guestlaunch("env", *TCG).ok().stdout
    assert "export LD_PRELOAD=" in guestlaunch("env", *TCG, "--foreign").ok().stdout
    assert "unset LD_PRELOAD" in guestlaunch("env", *TCG, "--foreign", "--unset").ok().stdout
