"""Profiles: the shipped ones, the user's own, and what is wrong with a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.model import Arch, FirmwareKind
from orchestrator.domain.profiles import configs_dir, load_profile, parse_profile, profile_names
from orchestrator.errors import SettingsError
from orchestrator.settings import Settings

GOOD: dict[str, object] = {
    "arch": "aarch64",
    "machine": "virt",
    "firmware": "uefi",
    "cpu_tcg": "cortex-a57",
    "cpu_kvm": "host",
    "memory_mib": 768,
    "vcpus": 1,
    "console": "ttyAMA0",
}


@pytest.fixture(autouse=True)
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of settings, of a user who has none yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config/guestlaunch"


def test_shipped_profiles() -> None:
    """The five profiles are there, each of the arch and firmware that its name says."""
    assert profile_names() == ["aarch64-bare", "aarch64-uefi", "x86_64-bare", "x86_64-ovmf", "x86_64-seabios"]
    kinds = {
        "bare": FirmwareKind.NONE,
        "uefi": FirmwareKind.UEFI,
        "ovmf": FirmwareKind.UEFI,
        "seabios": FirmwareKind.SEABIOS,
    }
    for name in profile_names():
        profile = load_profile(name)
        arch, kind = name.rsplit("-", 1)
        assert (profile.name, profile.arch, profile.firmware) == (name, Arch(arch), kinds[kind])
        assert profile.description
    assert Settings(state_dir=Path(), runtime_dir=Path()).profile in profile_names()
    assert (configs_dir() / "profiles").is_dir()


def test_same_processor_with_and_without_firmware() -> None:
    """Profiles of an arch differ in the firmware alone, so that comparing them shows the firmware."""
    for one, other in (
        ("aarch64-uefi", "aarch64-bare"),
        ("x86_64-seabios", "x86_64-ovmf"),
        ("x86_64-seabios", "x86_64-bare"),
    ):
        a, b = load_profile(one), load_profile(other)
        assert (a.machine, a.cpu_tcg, a.memory_mib, a.vcpus) == (b.machine, b.cpu_tcg, b.memory_mib, b.vcpus)


def test_unknown_profile_names_the_nearest() -> None:
    """A slip of the pen gets the right name; a wild guess gets the list."""
    with pytest.raises(SettingsError, match="did you mean 'aarch64-uefi'"):
        load_profile("aarch64-uffi")
    with pytest.raises(SettingsError, match="profiles: aarch64-bare, aarch64-uefi"):
        load_profile("zzz")


def test_users_profiles_win(tmp_path: Path) -> None:
    """A user's directory adds profiles and masks shipped ones; a missing directory adds none."""
    shipped = (configs_dir() / "profiles/aarch64-uefi.toml").read_text()
    (tmp_path / "aarch64-uefi.toml").write_text(shipped.replace("memory_mib = 768", "memory_mib = 999"))
    (tmp_path / "mine.toml").write_text(shipped)
    extra = [tmp_path / "missing", tmp_path]
    assert load_profile("aarch64-uefi", extra).memory_mib == 999
    assert load_profile("mine", extra).name == "mine"
    assert "mine" in profile_names(extra)
    assert load_profile("aarch64-uefi").memory_mib == 768


def test_a_file_beside_the_users_settings_is_a_profile(config: Path) -> None:
    """It is found by its name, by whatever takes one."""
    (config / "profiles").mkdir(parents=True)
    (config / "profiles/mine.toml").write_text((configs_dir() / "profiles/aarch64-uefi.toml").read_text())
    assert load_profile("mine").arch is Arch.AARCH64
    assert "mine" in profile_names()
    assert "mine" not in profile_names(())


@pytest.mark.parametrize("content", ["arch = ", "\udcff"])
def test_unreadable_file(tmp_path: Path, content: str) -> None:
    """A file that is no TOML or no UTF-8 is named."""
    (tmp_path / "bad.toml").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(SettingsError, match=r"cannot read profile: .*bad\.toml"):
        load_profile("bad", [tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memmory_mib": 1}, "'memmory_mib' (did you mean 'memory_mib'?)"),
        ({"name": "x"}, "'name'"),
        ({"arch": "arm64"}, "did you mean 'aarch64'"),
        ({"arch": "s390x"}, "one of: aarch64, x86_64"),
        ({"firmware": "bios"}, "firmware 'bios' does not exist for aarch64"),
        ({"memory_mib": 0}, "memory_mib = 0"),
        ({"memory_mib": "768"}, "memory_mib = '768'"),
        ({"vcpus": True}, "vcpus = True"),
        ({"machine": ""}, "machine = ''"),
        ({"console": 3}, "console = 3"),
        ({"machine": None, "vcpus": None}, "missing: machine, vcpus"),
    ],
)
def test_bad_values(change: dict[str, object], message: str) -> None:
    """Each kind of mistake is one line that names the file, the key and what would be right."""
    table = {key: value for key, value in (GOOD | change).items() if value is not None}
    with pytest.raises(SettingsError) as caught:
        parse_profile("p", table, "p.toml")
    assert message in str(caught.value)
    assert "p.toml" in str(caught.value)


def test_good_values() -> None:
    """The table that the bad ones are made from is itself good."""
    assert parse_profile("p", GOOD, "p.toml").machine == "virt"
