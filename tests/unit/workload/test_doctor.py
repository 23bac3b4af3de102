"""What doctor says of packages that are not there, and of KVM that launches do without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.distributions import DISTRIBUTIONS, Part
from orchestrator.domain.model import Accel, Arch
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError
from orchestrator.hypervisor.accel import AccelVerdict
from orchestrator.settings import Settings
from orchestrator.workload import doctor
from orchestrator.workload.doctor import Severity, _absent, _accels, _packages

DEBIAN = DISTRIBUTIONS[0]


@pytest.fixture
def on_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this host is, names are Debian's."""
    monkeypatch.setattr("orchestrator.distributions.find", lambda system=None: DEBIAN)


@pytest.fixture
def bare_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which nothing is found."""

    def lacks(*_args: object, **_options: object) -> None:
        raise CapabilityError("not there")

    for name in ("find_emulator", "find_firmware"):
        monkeypatch.setattr(doctor, name, lacks)
    monkeypatch.setattr(doctor, "flash_formats", lambda: ("raw",))
    monkeypatch.setattr(doctor, "_importable", lambda _module: False)
    monkeypatch.setattr(doctor, "_LIBVIRT_DRIVERS", ("no-such-folder/driver.so",))
    monkeypatch.setattr("shutil.which", lambda _program: None)


def absent(monkeypatch: pytest.MonkeyPatch, *parts: Part) -> None:
    monkeypatch.setattr(doctor, "_absent", lambda *, libvirt_works: iter(parts))


@pytest.mark.usefixtures("bare_host", "on_debian")
def test_a_bare_host_lacks_all() -> None:
    """All that a launch and its tools take is named, once, and one command installs it."""
    missing = list(_absent(libvirt_works=False))
    assert len(missing) == len(set(missing))
    assert set(Part) - set(missing) == {Part.LIBVIRT_USER, Part.GUESTMOUNT}
    finding = _packages(load_profile("aarch64-uefi"), libvirt_works=False)
    assert finding.verdict is Severity.BAD
    assert (
        "(apt install --no-install-recommends qemu-system-arm qemu-efi-aarch64 qemu-system-x86 ovmf" in finding.detail
    )


@pytest.mark.usefixtures("bare_host")
def test_a_driver_that_works_is_there() -> None:
    """Wherever the distribution put libvirt's driver: when it starts, it is there."""
    assert Part.LIBVIRT not in set(_absent(libvirt_works=True))


@pytest.mark.usefixtures("on_debian")
@pytest.mark.parametrize(
    ("profile", "part", "verdict"),
    [
        ("aarch64-uefi", Part.UEFI_AARCH64, Severity.BAD),
        ("aarch64-bare", Part.UEFI_AARCH64, Severity.NOTE),
        ("aarch64-uefi", Part.QEMU_X86_64, Severity.NOTE),
        ("x86_64-ovmf", Part.QEMU_X86_64, Severity.BAD),
        ("aarch64-uefi", Part.GUESTFISH, Severity.BAD),
        ("aarch64-uefi", Part.GUESTFS_TOOLS, Severity.NOTE),
        ("aarch64-uefi", Part.LIBFDT_PYTHON, Severity.NOTE),
    ],
)
def test_bad_is_what_the_profile_needs(
    profile: str, part: Part, verdict: Severity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the chosen profile cannot do without is bad; all else is worth a note."""
    absent(monkeypatch, part)
    finding = _packages(load_profile(profile), libvirt_works=True)
    assert finding.verdict is verdict
    assert f"not there: {part} (apt install --no-install-recommends {DEBIAN.package(part)})" == finding.detail


def test_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all is there, that is said."""
    absent(monkeypatch)
    assert _packages(load_profile("aarch64-uefi"), libvirt_works=True).verdict is Severity.OK


LATE = AccelVerdict(accel=Accel.TCG, reason="probe guest did not boot within 10 s")
BOOTED = AccelVerdict(accel=Accel.KVM, reason="probe guest booted")
NO_MACHINE = AccelVerdict(accel=Accel.TCG, reason="/dev/kvm opens but gives no machine: Invalid argument")
ABSENT = AccelVerdict(accel=Accel.TCG, reason="/dev/kvm: No such file or directory")
ASKED = AccelVerdict(accel=Accel.TCG, reason="asked for")


@pytest.mark.parametrize(
    ("accel", "device", "verdicts", "expected"),
    [
        ("auto", True, [LATE, BOOTED], ("ok", "kvm: probe guest booted")),
        ("auto", True, [LATE, LATE], ("note", "tcg: probe guest did not boot within 10 s")),
        ("auto", True, [NO_MACHINE, NO_MACHINE], ("note", f"tcg: {NO_MACHINE.reason}")),
        ("auto", False, [ABSENT, ABSENT], ("ok", f"tcg: {ABSENT.reason}")),
        ("tcg", True, [ASKED, ASKED], ("ok", "tcg: asked for")),
    ],
)
def test_kvm_that_is_there_and_not_used_is_worth_a_note(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    accel: str,
    device: bool,
    verdicts: list[AccelVerdict],
    expected: tuple[str, str],
) -> None:
    """A probe guest that took too long is started once more, and profiles of one arch have one answer."""
    answers: Iterator[AccelVerdict] = iter(verdicts)
    monkeypatch.setattr(doctor, "choose_accel", lambda *_, **__: next(answers))
    monkeypatch.setattr(doctor, "find_emulator", lambda _: "qemu")
    monkeypatch.setattr(doctor, "resolve", lambda *_: SimpleNamespace(kernel=tmp_path))
    monkeypatch.setattr(doctor, "profile_names", lambda: ("aarch64-bare", "aarch64-uefi"))
    monkeypatch.setattr(doctor, "host_arch", lambda: Arch.AARCH64)
    monkeypatch.setattr(doctor, "DEVICE", tmp_path / ("." if device else "no-kvm"))
    settings = Settings(state_dir=tmp_path, runtime_dir=tmp_path, accel=accel)
    found = list(_accels(settings, "aarch64-uefi"))
    assert [one.topic for one in found] == ["accel aarch64-bare", "accel aarch64-uefi"]
    assert {(str(one.verdict), one.detail) for one in found} == {expected}
