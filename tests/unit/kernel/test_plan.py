"""What a run will be, decided before anything is made: refusals name what cannot work, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.appliance.initrd import read_cpio
from orchestrator.domain.model import Accel, Arch
from orchestrator.errors import ApplianceError, CapabilityError, DiskError, FirmwareError, NotFoundError
from orchestrator.firmware.descriptors import Firmware
from orchestrator.hypervisor.accel import AccelVerdict
from orchestrator.kernel import plan as plan_module
from orchestrator.kernel.plan import KernelPlan, plan_run
from orchestrator.kernel.request import KernelRequest, Told
from orchestrator.settings import Settings
from tests.unit.appliance.test_kernel_form import AARCH64, X86_64, bzimage, image, portable, unified
from tests.unit.kernel.test_image import BANNER


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Firmware:
    """A host with QEMU, firmware and a busybox of the guest's arch, and without an appliance."""
    made = Firmware(
        code="/usual/code.fd", code_format="qcow2", nvram_template="/usual/vars.fd", nvram_format="qcow2",
        description="usual", descriptor=tmp_path,
    )  # fmt: skip

    def none(*_: object) -> Any:  # noqa: ANN401 - it raises
        raise NotFoundError("no appliance")

    monkeypatch.setattr(plan_module, "host_arch", lambda: Arch.AARCH64)
    monkeypatch.setattr(plan_module, "find_emulator", lambda *_, **__: "/qemu")
    monkeypatch.setattr(plan_module, "find_firmware", lambda *_, **__: made)
    monkeypatch.setattr(plan_module, "flash_formats", lambda: ("raw",))
    monkeypatch.setattr(plan_module, "resolve_appliance", none)
    monkeypatch.setattr(plan_module, "busybox", lambda *_: b"busybox")
    monkeypatch.setattr(
        plan_module, "choose_accel", lambda policy, *_, **__: AccelVerdict(accel=Accel.TCG, reason=f"policy {policy}")
    )
    return made


def planned(tmp_path: Path, *, profile: str = "aarch64-uefi", kernel: bytes | None = None, **asked: Any) -> KernelPlan:  # noqa: ANN401 - a request's fields
    """Plan a run of a kernel."""
    path = tmp_path / "Image"
    path.write_bytes(image() + BANNER if kernel is None else kernel)
    settings = Settings(state_dir=tmp_path / "s", runtime_dir=tmp_path / "r", profile=profile, accel="tcg")
    return plan_run(KernelRequest(kernel=path, **asked), settings)


@pytest.mark.usefixtures("usual")
def test_our_initrd_is_there_for_a_command(tmp_path: Path) -> None:
    """With its number and its words; without a command or a wish for it there is none."""
    plain = planned(tmp_path)
    assert (plain.own_initrd, plain.plan.initrd_bytes) == (b"", 0)
    assert "rdinit" not in plain.launch.cmdline
    theirs = tmp_path / "initrd"
    theirs.write_bytes(b"\x1f\x8b" + bytes(99))
    run = planned(tmp_path, command=("echo", "a b"), initrds=(theirs,))
    assert run.plan.initrd_bytes == 104 + len(run.own_initrd)
    files = {entry.name: entry.data for entry in read_cpio(run.own_initrd)}
    assert f"number={run.number}\n".encode() in files["guestlaunch/run"]
    assert b"set -- echo 'a b'\n" in files["guestlaunch/run"]
    assert run.launch.cmdline.endswith("rdinit=/guestlaunch/init")
    assert planned(tmp_path, command=("true",)).number != run.number


@pytest.mark.usefixtures("usual")
def test_a_unified_image_gives_way_to_what_the_user_brings(tmp_path: Path) -> None:
    """It is started as it is where nothing of its own would be in the way."""
    packed = unified(image() + BANNER)
    run = planned(tmp_path, kernel=packed)
    assert (run.image.started_as, run.launch.cmdline) == ("itself", "")
    assert planned(tmp_path, kernel=packed, cmdline="quiet").launch.cmdline.endswith("panic=-1 quiet")
    for asked in ({"command": ("true",)}, {"builtin": True}, {"unpack": True}):
        assert planned(tmp_path, kernel=packed, **asked).image.started_as == "Image"


@pytest.mark.usefixtures("usual")
def test_a_unified_image_without_an_initrd_is_started_with_another(tmp_path: Path) -> None:
    """Its own command line goes with it, as firmware hides that by a word of its own. QEMU for x86 cannot do it."""
    packed = unified(image() + BANNER, initrd=False)
    run = planned(tmp_path, kernel=packed, command=("true",))
    assert run.image.started_as == "itself"
    assert run.launch.cmdline == "console=ttyAMA0 panic=-1 rdinit=/guestlaunch/init root=/dev/sda"
    theirs = tmp_path / "initrd"
    theirs.write_bytes(b"\x1f\x8b" + bytes(99))
    run = planned(tmp_path, kernel=packed, initrds=(theirs,))
    assert (run.image.started_as, run.plan.initrd_bytes) == ("itself", 101)
    assert run.launch.cmdline == "console=ttyAMA0 panic=-1 root=/dev/sda"
    run = planned(tmp_path, kernel=packed, initrds=(theirs,), cmdline="quiet")
    assert run.launch.cmdline == "console=ttyAMA0 panic=-1 quiet"
    packed = unified(bzimage(), machine=X86_64, initrd=False)
    run = planned(tmp_path, profile="x86_64-ovmf", kernel=packed, command=("true",))
    assert run.image.started_as == "bzImage"


@pytest.mark.usefixtures("usual")
def test_an_unpacked_unified_image_brings_its_own(tmp_path: Path) -> None:
    """Without firmware it starts as with it: its initrd and command line are there unless the user brings others."""
    packed = unified(image() + BANNER)
    run = planned(tmp_path, profile="aarch64-bare", kernel=packed)
    assert (run.own_initrd, run.plan.initrd_bytes) == (bytes(900), 900)
    assert run.launch.cmdline == "console=ttyAMA0 panic=-1 root=/dev/sda"
    theirs = tmp_path / "initrd"
    theirs.write_bytes(b"\x1f\x8b" + bytes(99))
    run = planned(tmp_path, profile="aarch64-bare", kernel=packed, initrds=(theirs,), cmdline="quiet")
    assert (run.own_initrd, run.plan.initrd_bytes) == (b"", 101)
    assert run.launch.cmdline == "console=ttyAMA0 panic=-1 quiet"
    run = planned(tmp_path, profile="aarch64-bare", kernel=packed, command=("true",))
    assert b"guestlaunch/init" in run.own_initrd


@pytest.mark.usefixtures("usual")
@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"initrds": (Path("/nonexistent/initrd"),)}, ApplianceError, "cannot read the initrd: /nonexistent/initrd"),
        ({"disks": ((Path("/nonexistent/disk"), False),)}, DiskError, "cannot open the disk: /nonexistent/disk"),
        ({"share": Path("/nonexistent/share"), "command": ("true",)}, CapabilityError, "/nonexistent/share"),
        ({"firmware": (Path("/nonexistent/code"), None)}, FirmwareError, "/nonexistent/code: no such file"),
        ({"modules": Path("/nonexistent/modules"), "command": ("true",)}, Exception, "/nonexistent/modules"),
        (
            {"profile": "aarch64-bare", "credentials": (Told(name="a", text="b"),)},
            CapabilityError,
            "without firmware nobody tells the guest of SMBIOS",
        ),
        ({"profile": "aarch64-bare", "firmware": (Path("/dev/null"), None)}, FirmwareError, "without UEFI firmware"),
        (
            {"kernel": portable(AARCH64, {b".text": bytes(99)}), "command": ("true",)},
            ApplianceError,
            "it is an EFI program, and no kernel",
        ),
        ({"profile": "x86_64-ovmf"}, ApplianceError, "aarch64 kernel on x86_64"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, asked: dict[str, Any], error: type[Exception], says: str) -> None:
    """With the object's name, before anything is made."""
    with pytest.raises(error, match=says):
        planned(tmp_path, **asked)
    assert not (tmp_path / "s" / "launches").exists()


def test_firmware_of_the_users_own(tmp_path: Path, usual: Firmware) -> None:
    """Either file may be named; the other is the host's usual."""
    code, variables = tmp_path / "code.fd", tmp_path / "vars.fd"
    for path in (code, variables):
        path.write_bytes(b"x")
    assert planned(tmp_path).plan.firmware == usual
    chosen = planned(tmp_path, firmware=(code, None)).plan.firmware
    assert chosen is not None
    assert (chosen.code, chosen.code_format, chosen.nvram_template) == (str(code), "raw", "/usual/vars.fd")
    chosen = planned(tmp_path, firmware=(None, variables)).plan.firmware
    assert chosen is not None
    assert (chosen.code, chosen.nvram_template, chosen.nvram_format) == ("/usual/code.fd", str(variables), "raw")
    chosen = planned(tmp_path, firmware=(code, variables)).plan.firmware
    assert chosen is not None
    assert (chosen.code, chosen.nvram_template) == (str(code), str(variables))


@pytest.mark.usefixtures("usual")
def test_kvm_is_not_proven_by_the_kernel_that_is_tried(tmp_path: Path) -> None:
    """Without an appliance nothing proves it; who insists on an accelerator has the last word."""
    path = tmp_path / "Image"
    path.write_bytes(image() + BANNER)
    reasons = []
    for accel in ("auto", "kvm"):
        settings = Settings(state_dir=tmp_path, runtime_dir=tmp_path, accel=accel)
        reasons.append(plan_run(KernelRequest(kernel=path), settings).plan.accel_reason)
    assert reasons == ["there is no appliance to prove with that KVM works", "policy kvm"]


@pytest.mark.usefixtures("usual")
def test_disks_in_their_order(tmp_path: Path) -> None:
    """A format is told by the first bytes, and what may not be written to is not."""
    raw, qcow2 = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(bytes(4096))
    qcow2.write_bytes(b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(504))
    found = planned(tmp_path, disks=((raw, False), (qcow2, True))).plan.disks
    assert [(disk.format, disk.readonly) for disk in found] == [("raw", False), ("qcow2", True)]
