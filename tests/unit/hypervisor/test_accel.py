"""The choice of accelerator: what rules KVM out, how a probe is judged, and when its verdict is believed again."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from orchestrator.domain.model import Accel, Arch
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.hypervisor import accel, kvm_proof
from orchestrator.hypervisor.accel import AccelVerdict, choose_accel

BOOTS = "echo; echo 'Kernel panic - not syncing: VFS: Unable to mount root fs'; sleep 30"
HANGS = "echo 'Booting from ROM'; sleep 30"
ENDS = "echo 'qemu: could not load kernel' >&2; exit 1"


@pytest.fixture(autouse=True)
def host_with_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host of a known arch whose /dev/kvm opens."""
    device, boot_id = tmp_path / "kvm", tmp_path / "boot_id"
    device.touch()
    boot_id.write_text("first\n")
    monkeypatch.setattr(accel, "DEVICE", device)
    monkeypatch.setattr(kvm_proof, "BOOT_ID", boot_id)
    monkeypatch.setattr(accel, "host_arch", lambda: Arch.X86_64)
    monkeypatch.setattr(accel, "_make_machine", lambda _: None)


def emulator(tmp_path: Path, script: str) -> str:
    """Write a program in QEMU's place, which counts its starts; return its path."""
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\necho x >> {tmp_path}/starts\n{script}\n")
    path.chmod(0o755)
    return str(path)


def starts(tmp_path: Path) -> int:
    """Return how often the emulator was started."""
    file = tmp_path / "starts"
    return len(file.read_text().split()) if file.exists() else 0


def choose(tmp_path: Path, qemu: str, *, policy: str = "auto", arch: Arch = Arch.X86_64) -> AccelVerdict:
    """Choose with a short deadline."""
    return choose_accel(
        policy, arch, emulator=qemu, kernel=Path("/kernel"), state_dir=tmp_path / "state", deadline_s=0.5
    )


@pytest.mark.parametrize(
    ("script", "chosen", "reason"),
    [
        (BOOTS, Accel.KVM, "probe guest booted"),
        (HANGS, Accel.TCG, "probe guest did not boot within 0.5 s"),
        (ENDS, Accel.TCG, "probe guest ended before it had booted: qemu: could not load kernel"),
        ("echo 'Kernel panic - not syncing: Fatal exception'", Accel.TCG, "ended before it had booted"),
    ],
)
def test_verdict_follows_the_probe(tmp_path: Path, script: str, chosen: Accel, reason: str) -> None:
    """Only a guest whose kernel ran from its first line to its last proves KVM."""
    verdict = choose(tmp_path, emulator(tmp_path, script))
    assert verdict.accel is chosen
    assert reason in verdict.reason
    assert not verdict.cached


def test_verdict_is_found_once_a_boot(tmp_path: Path) -> None:
    """The verdict is believed until the host boots again, QEMU changes, or it is forgotten."""
    qemu = emulator(tmp_path, ENDS)
    choose(tmp_path, qemu)
    again = choose(tmp_path, qemu)
    assert (again.accel, again.cached, starts(tmp_path)) == (Accel.TCG, True, 1)
    kvm_proof.BOOT_ID.write_text("second\n")
    assert not choose(tmp_path, qemu).cached
    emulator(tmp_path, BOOTS + "\n")
    assert choose(tmp_path, qemu).accel is Accel.KVM
    assert choose(tmp_path, qemu).cached
    kvm_proof.forget_verdicts(tmp_path / "state")
    assert not choose(tmp_path, qemu).cached
    assert starts(tmp_path) == 4


def test_verdict_belongs_to_its_device(tmp_path: Path) -> None:
    """Another device of the same name, as in a container, is probed by itself, and neither's verdict is lost."""
    qemu = emulator(tmp_path, f"if [ -s {accel.DEVICE} ]; then {ENDS}; fi; {BOOTS}")
    assert choose(tmp_path, qemu).accel is Accel.KVM
    own = tmp_path / "own"
    accel.DEVICE.rename(own)
    accel.DEVICE.write_text("refuses")
    refused = choose(tmp_path, qemu)
    assert (refused.accel, refused.cached) == (Accel.TCG, False)
    assert choose(tmp_path, qemu).cached
    assert starts(tmp_path) == 2


def test_two_devices_have_a_verdict_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers that share a state directory do not take turns in probing."""
    qemu = emulator(tmp_path, BOOTS)
    other = tmp_path / "other-kvm"
    other.touch()
    first = accel.DEVICE
    for device in (first, other, first, other):
        monkeypatch.setattr(accel, "DEVICE", device)
        assert choose(tmp_path, qemu).accel is Accel.KVM
    assert starts(tmp_path) == 2


def test_a_probe_that_timed_out_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next launch tries again; after a second time-out it is believed for a while, then tried once more."""
    now = time.monotonic_ns()
    monkeypatch.setattr(kvm_proof, "_FIRST_BELIEF_S", 3600.0)
    qemu = emulator(tmp_path, HANGS)
    for cached, count in ((False, 1), (False, 2), (True, 2), (True, 2)):
        verdict = choose(tmp_path, qemu)
        assert (verdict.accel, verdict.cached, starts(tmp_path)) == (Accel.TCG, cached, count)
    monkeypatch.setattr(time, "monotonic_ns", lambda: now + 2 * 3600 * 10**9)
    assert (choose(tmp_path, qemu).cached, starts(tmp_path)) == (False, 3)
    monkeypatch.setattr(time, "monotonic_ns", lambda: now + 4 * 3600 * 10**9)
    assert (choose(tmp_path, qemu).cached, starts(tmp_path)) == (True, 3)
    monkeypatch.setattr(time, "monotonic_ns", lambda: now + 7 * 3600 * 10**9)
    assert (choose(tmp_path, qemu).cached, starts(tmp_path)) == (False, 4)


def test_a_host_that_was_loaded_gets_kvm_later(tmp_path: Path) -> None:
    """A time-out is no verdict: once the probe guest boots in time, KVM is taken."""
    qemu = emulator(tmp_path, f"if [ $(wc -l < {tmp_path}/starts) = 1 ]; then {HANGS}; fi; {BOOTS}")
    assert [choose(tmp_path, qemu).accel for _ in range(3)] == [Accel.TCG, Accel.KVM, Accel.KVM]
    assert starts(tmp_path) == 2


def test_a_refusal_at_a_launch_outweighs_a_probe(tmp_path: Path) -> None:
    """What QEMU says of KVM when it is to run the guest is remembered, with its words."""
    qemu = emulator(tmp_path, BOOTS)
    assert choose(tmp_path, qemu).accel is Accel.KVM
    why = "failed to initialize kvm: Permission denied"
    assert accel.is_refusal(why)
    assert not accel.is_refusal('Failed to get "write" lock')
    kvm_proof.note_refusal(qemu, tmp_path / "state", accel.DEVICE, why)
    verdict = choose(tmp_path, qemu)
    assert (verdict.accel, verdict.reason) == (Accel.TCG, f"QEMU refused KVM: {why}")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', "null", '{"format": 2, "verdicts": [1, {"key": 2}]}'])
def test_damaged_verdict_is_found_out_again(tmp_path: Path, damage: str) -> None:
    """A damaged file is as good as none, and is mended."""
    qemu = emulator(tmp_path, BOOTS)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "kvm-verdict.json").write_text(damage)
    assert not choose(tmp_path, qemu).cached
    assert json.loads((tmp_path / "state" / "kvm-verdict.json").read_text())["verdicts"][0]["booted"] is True
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["kvm-verdict.json", "kvm-verdict.lock"]


def test_one_prober_at_a_time(tmp_path: Path) -> None:
    """Of several that ask at once one probes; the others get its verdict."""
    qemu = emulator(tmp_path, "sleep 0.2\n" + BOOTS)
    verdicts: list[AccelVerdict] = []
    threads = [threading.Thread(target=lambda: verdicts.append(choose(tmp_path, qemu))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [verdict.accel for verdict in verdicts] == [Accel.KVM] * 4
    assert sorted(verdict.cached for verdict in verdicts) == [False, True, True, True]
    assert starts(tmp_path) == 1


def test_probe_is_not_left_running(tmp_path: Path) -> None:
    """The probe guest is dead when the verdict is there."""
    qemu = emulator(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 30")
    begin = time.monotonic()
    choose(tmp_path, qemu)
    assert time.monotonic() - begin < 20
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_what_rules_kvm_out_without_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign arch and a missing device need no probe, and are errors for whoever insists on KVM."""
    qemu = emulator(tmp_path, BOOTS)
    foreign = choose(tmp_path, qemu, arch=Arch.AARCH64)
    assert foreign.accel is Accel.TCG
    assert "aarch64" in foreign.reason
    with pytest.raises(CapabilityError, match="aarch64"):
        choose(tmp_path, qemu, policy="kvm", arch=Arch.AARCH64)
    accel.DEVICE.unlink()
    assert "No such file" in choose(tmp_path, qemu).reason
    with pytest.raises(CapabilityError, match="No such file"):
        choose(tmp_path, qemu, policy="kvm")
    assert starts(tmp_path) == 0


def test_a_device_that_gives_no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens and is no KVM, as /dev/null in its place, needs no probe either."""
    monkeypatch.undo()
    monkeypatch.setattr(accel, "host_arch", lambda: Arch.X86_64)
    monkeypatch.setattr(accel, "DEVICE", Path("/dev/null"))
    verdict = choose(tmp_path, emulator(tmp_path, BOOTS))
    assert (verdict.accel, starts(tmp_path)) == (Accel.TCG, 0)
    assert "/dev/null opens but gives no machine" in verdict.reason


def test_explicit_choice_needs_no_proof(tmp_path: Path) -> None:
    """Whoever names an accelerator gets it without a probe; an unknown name is the user's mistake."""
    qemu = emulator(tmp_path, BOOTS)
    assert choose(tmp_path, qemu, policy="kvm").accel is Accel.KVM
    assert choose(tmp_path, qemu, policy="tcg").accel is Accel.TCG
    assert starts(tmp_path) == 0
    with pytest.raises(UsageError, match="kvm"):
        choose(tmp_path, qemu, policy="kwm")


def test_missing_emulator(tmp_path: Path) -> None:
    """A QEMU that is not there is a missing capability, not a verdict on KVM."""
    with pytest.raises(CapabilityError, match="no-qemu"):
        choose(tmp_path, str(tmp_path / "no-qemu"))
