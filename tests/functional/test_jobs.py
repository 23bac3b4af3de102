"""Jobs in real guests: the shipped examples, failures, the deadline, and the demo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.disks import DiskFactory
from tests.hosts import ACCEL
from tests.leftovers import GONE_WITHIN_S, left_behind, look
from tests.running import Guestlaunch

JOBS = Path(__file__).resolve().parents[2] / "configs/jobs"


def test_examples(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """A disk made from nothing by the first example is understood by the other two."""
    disk = tmp_path / "new disk.img"
    made = guestlaunch("run", *ACCEL, JOBS / "provision.toml", "--disk", disk, "--json", timeout_s=600).json()
    assert made["outcome"] == "success"
    [checksum] = [one["output"] for one in made["commands"] if one["command"].startswith("checksum")]
    assert len(checksum) == 64
    [record] = made["timelines"]
    assert (record["fw_cfg_dma"], record["arch"], record["ready"]) == (True, "aarch64", True)

    found = guestlaunch("run", *ACCEL, JOBS / "filesystems.toml", "--disk", disk, "--json", timeout_s=600).json()
    [root] = found["result"]
    assert (root["device"], root["type"], root["label"]) == ("/dev/vg/root", "ext4", "root")
    assert 4 << 20 < root["used"] < root["size"] < 256 << 20

    shown = guestlaunch("run", *ACCEL, JOBS / "inspect.toml", "--disk", disk, timeout_s=600).ok().stdout
    assert '"hostname": "provisioned"' in shown
    assert "inspect: success" in shown
    assert "fw_cfg_kernel" in shown


@pytest.mark.usefixtures("without_firmware")
def test_failure_and_may_fail(guestlaunch: Guestlaunch, disk_image: DiskFactory, tmp_path: Path) -> None:
    """A command that fails ends the job with the library's words; one that may fail does not."""
    job = tmp_path / "j.toml"
    job.write_text(
        f'commands = ["-mount-ro /dev/sdx /", "mount-ro /dev/sda /", "cat /a.txt", "cat /missing", "list-devices"]\n'
        f'[[disks]]\npath = "{disk_image(files={"/a.txt": "A"}).name}"\nformat = "raw"\n'
    )
    result = guestlaunch("run", *ACCEL, job, "--json")
    assert result.status == 1
    assert "cat /missing" in result.error_line
    printed = json.loads(result.stdout)
    assert [one["outcome"] for one in printed["commands"]] == ["failure", "success", "success", "failure"]
    assert printed["commands"][2]["output"] == "A"


def test_deadline(guestlaunch: Guestlaunch, tmp_path: Path, session_dir: Path) -> None:
    """A job that takes too long is ended in mid-launch: status 124, its image and its guest are gone."""
    before = look(session_dir)
    job = tmp_path / "j.toml"
    job.write_text(
        'deadline_s = 1\ncommands = ["list-devices"]\n'
        '[[disks]]\npath = "new.img"\nformat = "raw"\nreadonly = false\nsize_mib = 16\n'
    )
    result = guestlaunch("run", *ACCEL, "--start", "cold", job)
    assert result.status == 124
    assert "deadline of 1 s" in result.error_line
    assert not (tmp_path / "new.img").exists()
    assert left_behind(session_dir, before, within_s=GONE_WITHIN_S) == []


def test_demo(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """The demo makes its disk, launches with DMA and without, and says what it saw."""
    shown = guestlaunch("demo", *ACCEL, "--workdir", tmp_path / "demo", "--json", timeout_s=900).json()
    [on], [off] = shown["on"], shown["off"]
    assert (on["fw_cfg_dma"], off["fw_cfg_dma"]) == (True, False)
    times = off["transfer_ns"] / on["transfer_ns"]  # one of each: a busy host may turn it round
    assert any(line.endswith(f": {times:.2f} times as long without.") for line in shown["verdict"])
    assert (tmp_path / "demo/disk.img").exists()
