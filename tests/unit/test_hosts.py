"""What a test needs of its host: named, looked up, and a reason to skip where it is not there."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tests import hosts
from tests.conftest import pytest_runtest_setup


def test_what_is_lacking_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs, files, modules and a way out of this host: each that is missing has its reason, once."""
    routes = tmp_path / "route"
    routes.write_text("Iface\tDestination\n")
    monkeypatch.setattr(hosts, "_ROUTES", routes)
    there = ("sh", str(tmp_path), "python:json")
    missing = ("no-such-program", "/no/such/file", "python:no_such_module", "network")
    assert hosts.lacking([*there, *missing, "no-such-program"]) == [
        "no no-such-program", "no /no/such/file", "no Python module no_such_module", "no network",
    ]  # fmt: skip
    routes.write_text("Iface\tDestination\neth0\t00000000\n")
    assert hosts.lacking([*there, "network"]) == []


@pytest.mark.parametrize(
    ("machine", "usable", "profile", "expected"),
    [
        ("aarch64", True, "aarch64-uefi", "kvm"),
        ("aarch64", True, "x86_64-bare", "tcg"),
        ("aarch64", False, "aarch64-uefi", "tcg"),
        ("x86_64", True, "aarch64-uefi", "tcg"),
        ("x86_64", True, "x86_64-bare", "tcg"),
    ],
)
def test_guests_of_an_arm_host_have_its_kvm(
    monkeypatch: pytest.MonkeyPatch, machine: str, usable: bool, profile: str, expected: str
) -> None:
    """Those of its own arch, where KVM may be used."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr("os.access", lambda *_: usable)
    assert hosts.accel(profile) == expected


@pytest.mark.parametrize("profile", ["x86_64-bare"])
def test_needs_of_a_test(request: pytest.FixtureRequest, profile: str) -> None:
    """Parameters tell what a functional test launches, and nothing of any other; what it lacks skips it."""
    assert hosts.needs_of(request.node) == []
    request.node.add_marker(pytest.mark.needs("one", "two"))
    request.node.add_marker("functional")
    assert hosts.needs_of(request.node) == ["one", "two", "qemu-system-x86_64"]
    with pytest.raises(pytest.skip.Exception, match="no one; no two"):
        pytest_runtest_setup(request.node)


def test_an_appliance_that_cannot_be_run_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for the appliance of an arch whose QEMU is missing, the dictionary skips the test with that reason."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(pytest.skip.Exception, match="no qemu-system-x86_64"):
        hosts.Appliances({"aarch64": Path("/a")})["x86_64"]
