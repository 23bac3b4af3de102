"""Another firmware build for one side: the descriptor decides, the rest of the user's configuration stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.bench import firmware
from orchestrator.bench.firmware import firmware_file, with_firmware
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError, UsageError

PROFILE = load_profile("aarch64-uefi")


def descriptor(folder: Path, name: str, arch: str = "aarch64") -> Path:
    """Write a firmware descriptor with its files."""
    files = {}
    for kind in ("code", "vars"):
        files[kind] = str(folder / f"{name}-{kind}.fd")
        Path(files[kind]).write_bytes(bytes(64))
    machine = "virt-*" if arch == "aarch64" else "pc-q35-*"
    document = {
        "description": name,
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": files["code"], "format": "raw"},
            "nvram-template": {"filename": files["vars"], "format": "raw"},
        },
        "targets": [{"architecture": arch, "machines": [machine]}],
        "features": [],
        "tags": [],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """A user with a configuration and a firmware descriptor."""
    own = tmp_path / "home" / "qemu" / "firmware"
    own.mkdir(parents=True)
    descriptor(own, "10-own")
    (tmp_path / "home" / "guestlaunch").mkdir()
    (tmp_path / "home" / "guestlaunch" / "config.toml").write_text("vcpus = 2\n")
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "home")}


def test_the_named_descriptor_wins(home: dict[str, str], tmp_path: Path) -> None:
    """The side's launches take the firmware that is named, and find everything else as it is."""
    usual = firmware_file(PROFILE, home)
    assert usual is not None
    assert usual.endswith("10-own-code.fd")
    side = tmp_path / "side"
    side.mkdir()
    changed = with_firmware(descriptor(tmp_path, "99-mine"), side, PROFILE, home)
    assert firmware_file(PROFILE, changed) == str(tmp_path / "99-mine-code.fd")
    assert Path(changed["XDG_CONFIG_HOME"], "guestlaunch/config.toml").read_text() == "vcpus = 2\n"
    assert Path(changed["XDG_CONFIG_HOME"], "qemu/firmware/10-own.json").exists()
    assert changed["GUESTLAUNCH_RUNTIME_DIR"] == str(side / "run")  # a daemon would not know of it


@pytest.mark.parametrize(("name", "why"), [("other", "not for aarch64"), ("text", "not JSON"), ("none", "No such")])
def test_what_cannot_be_used_is_refused(name: str, why: str, home: dict[str, str], tmp_path: Path) -> None:
    """Firmware for another arch, something that is no descriptor, a file that is not there."""
    descriptor(tmp_path, "other", "x86_64")
    (tmp_path / "text.json").write_text("firmware")
    side = tmp_path / "side"
    side.mkdir()
    with pytest.raises(UsageError, match=why):
        with_firmware(tmp_path / f"{name}.json", side, PROFILE, home)


def test_a_profile_without_firmware_has_no_file(home: dict[str, str]) -> None:
    """Nothing is made up."""
    assert firmware_file(load_profile("aarch64-bare"), home) is None


def test_a_qemu_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SeaBIOS lies is asked of a QEMU that may hang, or not be a program at all."""
    silent = tmp_path / "qemu"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(firmware, "find_emulator", lambda _arch: str(silent))
    monkeypatch.setattr(firmware, "_ANSWER_S", 0.2)
    for mode in (0o600, 0o700):
        silent.chmod(mode)
        with pytest.raises(CapabilityError, match=f"cannot run QEMU: {silent}"):
            firmware_file(load_profile("x86_64-seabios"), {})
