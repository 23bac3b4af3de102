"""Builds that are interrupted, that run beside each other, that have no network; and what is refused at a launch."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.disks import DiskFactory
from tests.hosts import ACCEL
from tests.records import events
from tests.running import Guestlaunch, end


@pytest.fixture
def own_state(tmp_path: Path, built_state_dir: Path) -> dict[str, str]:
    """A state directory without appliances, but with the packages that have been downloaded."""
    store = tmp_path / "state/appliances"
    store.mkdir(parents=True, mode=0o700)
    (store / ".cache").symlink_to(built_state_dir / "appliances/.cache")
    return {"GUESTLAUNCH_STATE_DIR": str(tmp_path / "state")}


def in_store(environ: dict[str, str]) -> list[str]:
    """Return what is in the store of aarch64 appliances."""
    store = Path(environ["GUESTLAUNCH_STATE_DIR"]) / "appliances/aarch64"
    return sorted(path.name for path in store.iterdir())


def wait_for_step(process: subprocess.Popen[str], step: str) -> None:
    """Read a build's progress until a step begins."""
    assert process.stderr is not None
    for line in process.stderr:
        if f": {step} (" in line:
            return
    pytest.fail(f"the build never came to {step}")


def at_work(environ: dict[str, str]) -> list[str]:
    """Return the command lines of processes that work on the store."""
    needle = os.fsencode(environ["GUESTLAUNCH_STATE_DIR"])
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if needle in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


@pytest.mark.needs("network")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("step", "signals"),
    [
        ("package lists", (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)),
        ("unpack", (signal.SIGTERM, signal.SIGKILL)),
        ("root image", (signal.SIGINT,)),
    ],
)
def test_interrupted_build_leaves_nothing(
    guestlaunch: Guestlaunch, own_state: dict[str, str], step: str, signals: tuple[signal.Signals, ...]
) -> None:
    """SIGINT and SIGTERM clean up; what SIGKILL leaves, the next list removes. No child outlives its build."""
    for sent in signals:
        command = (guestlaunch.bin_dir / "guestlaunch", "appliance", "build")
        process = guestlaunch.start(*command, environ=own_state)
        wait_for_step(process, step)
        time.sleep(0.2)  # into the step
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[sent]
        assert "Traceback" not in stderr
        deadline = time.monotonic() + 10
        while at_work(own_state) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert at_work(own_state) == []
        if sent is signal.SIGKILL:
            assert len(in_store(own_state)) == 1
            assert guestlaunch("appliance", "list", "--json", environ=own_state).json() == []
        assert in_store(own_state) == []


@pytest.mark.needs("network")
@pytest.mark.timeout(600)
def test_two_builds_at_once(guestlaunch: Guestlaunch, own_state: dict[str, str]) -> None:
    """Both succeed, and the one that ended last is current, whole, and as its manifest says."""
    command = (guestlaunch.bin_dir / "guestlaunch", "appliance", "build", "--json")
    both = [guestlaunch.start(*command, environ=own_state) for _ in range(2)]
    outputs = [process.communicate(timeout=500) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    paths = {json.loads(stdout)["path"] for stdout, _ in outputs}
    [listed] = guestlaunch("appliance", "list", "--json", environ=own_state).json()
    assert len(paths) == 2
    assert listed["path"] in paths
    assert len(in_store(own_state)) == 3
    assert "as built" in guestlaunch("appliance", "verify", environ=own_state).ok().stdout
    assert guestlaunch("appliance", "remove", "--arch", "aarch64", environ=own_state).ok().stdout.count("removed") == 2
    assert in_store(own_state) == []
    again = guestlaunch("appliance", "remove", "--arch", "aarch64", environ=own_state)
    assert "no appliance for: aarch64" in again.error_line


@pytest.mark.needs("network")  # by which the host has its package lists, without which apt is not asked
def test_no_network(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """Without a way to the packages the build ends with one line that names apt's reason, and leaves nothing."""
    environ = {"GUESTLAUNCH_STATE_DIR": str(tmp_path / "state"), "APT_CONFIG": str(tmp_path / "apt.conf")}
    (tmp_path / "apt.conf").write_text('Acquire::http::Proxy "http://127.0.0.1:9";\nAcquire::Retries "0";\n')
    result = guestlaunch("appliance", "build", environ=environ)
    assert len([line for line in result.stderr.splitlines() if line.startswith("guestlaunch: ")]) == 1
    assert result.error_line.startswith("guestlaunch: cannot fetch the package lists: ")
    assert "127.0.0.1" in result.error_line
    assert in_store(environ) == []


def copy_of(appliance: Path, folder: Path, *replaced: str) -> Path:
    """Return a copy of an appliance: links, but for the files that a test will change, and without its lock."""
    folder.mkdir()
    for file in appliance.glob("[!.]*"):
        if file.name in replaced:
            subprocess.run(["cp", "--sparse=always", "--reflink=auto", file, folder], check=True)
        else:
            (folder / file.name).symlink_to(file)
    return folder


def test_damage_is_refused_by_name(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], disk_image: DiskFactory, tmp_path: Path
) -> None:
    """A changed, truncated or foreign file, and another libguestfs's appliance: refused before anything is started."""
    disk = disk_image()

    def refused(folder: Path) -> str:
        run = ("guestfish", *ACCEL, "--appliance", folder, "--", "--ro", "-a", disk, "run")
        return guestlaunch(*run).error_line

    truncated = copy_of(appliance["aarch64"], tmp_path / "truncated", "root")
    os.truncate(truncated / "root", (truncated / "root").stat().st_size // 2)
    assert f"{truncated}/root: truncated: " in refused(truncated)
    assert f"{truncated}/root: truncated: " in guestlaunch("appliance", "verify", truncated).error_line

    changed = copy_of(appliance["aarch64"], tmp_path / "changed", "kernel")
    with (changed / "kernel").open("r+b") as kernel:
        kernel.seek(1 << 20)
        kernel.write(b"something else")
    assert f"{changed}/kernel: changed since it was built" in refused(changed)

    foreign = copy_of(appliance["aarch64"], tmp_path / "foreign", "kernel")
    shutil.copyfile(appliance["x86_64"] / "kernel", foreign / "kernel")
    assert f"{foreign}/kernel: x86_64 kernel in an aarch64 appliance" in refused(foreign)

    older = copy_of(appliance["aarch64"], tmp_path / "older", "manifest.json")
    manifest = json.loads((older / "manifest.json").read_text())
    (older / "manifest.json").write_text(json.dumps(manifest | {"libguestfs": "1.40.2"}))
    line = refused(older)
    assert f"{older}: made for libguestfs 1.40.2, the host has {manifest['libguestfs']}" in line
    assert "guestlaunch appliance build --arch aarch64" in line


def test_libguestfs_own_init(
    guestlaunch: Guestlaunch, stock_init_appliance: Path, disk_image: DiskFactory, evidence: Path
) -> None:
    """It launches when it is named, sets up what it is known for, and its phases that no marker shows have a reason."""
    command = ("guestfish", *ACCEL, "--appliance", stock_init_appliance, "--", "--ro", "-a", disk_image(), "run")
    shell = "head -c 80 /init; ls /run/tmpfiles.d; ls -l /dev/fuse /dev/loop-control"
    said = guestlaunch(*command, ":", "list-filesystems", ":", "debug", "sh", shell).ok().stdout
    assert said.startswith("/dev/sda: ext4\n")
    assert "Starting /init script" in said
    assert "kmod.conf" in said
    assert len(re.findall(r"^c.* /dev/(fuse|loop-control)$", said, re.MULTILINE)) == 2
    line = json.loads((evidence / "timeline.jsonl").read_text().splitlines()[-1])
    phases = {phase["name"]: phase for phase in line["phases"]}
    assert phases["initrd"]["includes"] == ["init", "guestfsd"]
    for name in ("init", "guestfsd"):
        assert phases[name]["outcome"] == "unseen"
        assert "libguestfs's own" in phases[name]["reason"]


@pytest.mark.usefixtures("without_firmware")
def test_outdated_appliance_launches(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], disk_image: DiskFactory, tmp_path: Path, evidence: Path
) -> None:
    """One made from other guest scripts is for verify to complain of, for launches to use, and for no template."""
    older = copy_of(appliance["aarch64"], tmp_path / "older", "manifest.json")
    manifest = json.loads((older / "manifest.json").read_text())
    (older / "manifest.json").write_text(json.dumps(manifest | {"guest_scripts": "sha256:0"}))
    complaint = guestlaunch("appliance", "verify", older).error_line
    assert "built from other guest scripts than this guestlaunch has" in complaint
    refused = guestlaunch("template", "build", *ACCEL, "--appliance", older).error_line
    assert "the appliance was made by another guestlaunch (guestlaunch appliance build" in refused
    assert events(evidence, "launch_started") == []  # that is known before anything boots
    command = ("guestfish", *ACCEL, "--appliance", older, "--", "--ro", "-a", disk_image(), "run")
    assert guestlaunch(*command, ":", "list-filesystems").ok().stdout == "/dev/sda: ext4\n"


def test_fixed_appliance_made_elsewhere(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], disk_image: DiskFactory, tmp_path: Path
) -> None:
    """Without a manifest an appliance is anybody's: no serial is announced to it, and it is booted all the same.

    So it is by a kernel that takes signed drivers only, as under Secure Boot.
    """
    foreign = copy_of(appliance["aarch64"], tmp_path / "foreign")
    (foreign / "manifest.json").unlink()
    command = ("guestfish", *ACCEL, "--appliance", foreign, "--", "--ro", "-a", disk_image(), "run")
    script = (":", "list-filesystems", ":", "debug", "sh", "cat /proc/cmdline")
    environ = {"LIBGUESTFS_APPEND": "lockdown=integrity"}
    filesystems, cmdline = guestlaunch(*command, *script, environ=environ).ok().stdout.strip().splitlines()
    assert filesystems == "/dev/sda: ext4"
    assert "lockdown=integrity" in cmdline
    assert "root=UUID=" in cmdline
    assert "guestlaunch.root" not in cmdline
    assert "has no manifest" in guestlaunch("appliance", "verify", foreign).ok().stdout


@pytest.mark.usefixtures("without_firmware")
def test_appliance_in_use_is_not_removed(
    guestlaunch: Guestlaunch, own_state: dict[str, str], appliance: dict[str, Path], disk_image: DiskFactory
) -> None:
    """A launch holds its appliance: removing it meanwhile is refused with its path, and the launch goes on."""
    store = Path(own_state["GUESTLAUNCH_STATE_DIR"]) / "appliances/aarch64"
    store.mkdir()
    name = appliance["aarch64"].name
    copy_of(appliance["aarch64"], store / name)
    (store / "current").symlink_to(name)
    command = (guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, "--", "--ro", "-a", disk_image())
    process = guestlaunch.start(*command, environ=own_state)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("run\nlist-devices\n")
        process.stdin.flush()
        assert process.stdout.readline() == "/dev/sda\n"
        refused = guestlaunch("appliance", "remove", "--arch", "aarch64", environ=own_state)
        assert f"{store / name}: a launch is using it" in refused.error_line
        stdout, stderr = process.communicate("list-filesystems\n", timeout=60)
        assert (process.returncode, stdout) == (0, "/dev/sda: ext4\n"), stderr
    finally:
        end(process)
    guestlaunch("appliance", "remove", "--arch", "aarch64", environ=own_state).ok()
    assert not (store / name).exists()
