"""Each profile in each way to launch, and appliances that tell nothing: what every release must be able to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemons import standing_by
from tests.disks import DiskFactory
from tests.hosts import ACCEL, accel
from tests.records import records, seen
from tests.running import Guestlaunch

PROFILES = ("aarch64-uefi", "aarch64-bare", "x86_64-seabios", "x86_64-bare", "x86_64-ovmf")
SCRIPT = ("run", ":", "list-filesystems")


@pytest.mark.parametrize("profile", PROFILES)
def test_warm_and_standby(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path, templates: Path, profile: str
) -> None:
    """A template is built and cloned, by the command itself and by a daemon with a clone ready: all are proven."""
    asked = ("guestfish", "--accel", accel(profile), "--profile", profile)
    disk = disk_image()
    for start in ("warm", "standby"):
        if start == "warm":
            said = guestlaunch(*asked, "--start", "warm", "--", "--ro", "-a", disk, *SCRIPT)
        else:
            guestlaunch.environ["GUESTLAUNCH_PROFILE"] = profile
            with standing_by(guestlaunch):
                said = guestlaunch(*asked, "--start", "auto", "--", "--ro", "-a", disk, *SCRIPT)
        assert said.ok().stdout == "/dev/sda: ext4\n"
        record = records(evidence)[-1]
        assert (record["start"], record["outcome"], record["ready"]) == (start, "success", True)
        assert {"gate", "guestfsd", "ready", "workload"} <= seen(record)
    assert list(templates.glob(f"{profile}-*"))


@pytest.mark.parametrize(("dma", "measure"), [("on", "on"), ("off", "off")])
def test_an_init_that_tells_nothing(
    guestlaunch: Guestlaunch, stock_init_appliance: Path, disk_image: DiskFactory, evidence: Path, dma: str,
    measure: str,
) -> None:  # fmt: skip
    """With its own init: firmware that opens all ports is not taken for it, whether phases are dated or not."""
    options = (*ACCEL, "--fw-cfg-dma", dma, "--appliance", stock_init_appliance)
    command = ("guestfish", *options, "--", "--ro", "-a", disk_image(), *SCRIPT)
    environ = {"GUESTLAUNCH_MEASURE": measure}
    assert guestlaunch(*command, environ=environ).ok().stdout == "/dev/sda: ext4\n"
    (record,) = records(evidence)
    assert (record["outcome"], record["ready"]) == ("success", True)
    assert {"ready", "workload"} <= seen(record)
    assert ("fw_cfg_kernel" in seen(record)) is (measure == "on")
    phases = {phase["name"]: phase for phase in record["phases"]}
    before = phases["fw_cfg_kernel"]["start_ns"] or phases["firmware"]["start_ns"]
    # The guest's kernel and init lie between: firmware's opening would be at once.
    assert phases["ready"]["start_ns"] - before > 0.5 * (record["launch_ns"] - before)
