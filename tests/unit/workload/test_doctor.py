"""What doctor says of packages that are not there."""

from __future__ import annotations

import pytest

from orchestrator.distributions import DISTRIBUTIONS, Part
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError
from orchestrator.workload import doctor
from orchestrator.workload.doctor import Severity, _absent, _packages

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
