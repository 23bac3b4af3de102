"""The choice of firmware by descriptors: precedence, masking, and a reason for each one passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import FirmwareError
from orchestrator.firmware.descriptors import descriptor_dirs, descriptor_files, find_firmware, firmware_with_code


@pytest.fixture
def dirs(tmp_path: Path) -> list[Path]:
    """The user's, the administrator's and the packages' directory."""
    made = [tmp_path / name for name in ("user", "etc", "usr")]
    for directory in made:
        directory.mkdir()
    return made


def write(path: Path, **changes: object) -> Path:
    """Write a good aarch64 descriptor with changes, and the files it names; None takes a key away."""
    code, nvram = path.with_suffix(".code"), path.with_suffix(".vars")
    code.touch()
    nvram.touch()
    document: dict[str, object] = {
        "description": path.stem,
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(code), "format": "raw"},
            "nvram-template": {"filename": str(nvram), "format": "raw"},
        },
        "targets": [{"architecture": "aarch64", "machines": ["virt-*"]}],
        "features": [],
        "tags": [],
    }
    document |= changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    return path


def test_chosen_in_name_order_over_all_directories(dirs: list[Path]) -> None:
    """The first name wins, whichever directory it is in."""
    write(dirs[0] / "60-user.json")
    wanted = write(dirs[2] / "50-usr.json")
    found = find_firmware("aarch64", "virt", dirs)
    assert (found.descriptor, found.code) == (wanted, str(wanted.with_suffix(".code")))
    assert found.nvram_template == str(wanted.with_suffix(".vars"))


def test_same_name_masks(dirs: list[Path]) -> None:
    """A file masks those of the same name in less important directories."""
    for directory in reversed(dirs):
        write(directory / "50-x.json")
        assert descriptor_files(dirs) == [directory / "50-x.json"]


def test_empty_file_masks_only(dirs: list[Path]) -> None:
    """An empty file takes a less important one away and is no candidate itself."""
    write(dirs[2] / "50-x.json")
    (dirs[1] / "50-x.json").touch()
    assert descriptor_files(dirs) == []


def test_only_json_files_count(dirs: list[Path]) -> None:
    """Other names and directories are no descriptors; a missing directory holds none."""
    (dirs[0] / "50-x.txt").write_text("{}")
    (dirs[0] / "60-x.json").mkdir()
    assert descriptor_files([*dirs, dirs[0] / "missing"]) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"targets": [{"architecture": "aarch64", "machines": ["sbsa-*"]}]}, "not for machine virt, only sbsa-*"),
        ({"interface-types": ["bios"]}, "not UEFI"),
        ({"features": ["secure-boot", "enrolled-keys"]}, "enforces Secure Boot"),
        ({"features": ["requires-smm"]}, "requires SMM"),
        ({"mapping": {"device": "memory", "filename": "/x"}}, "mapped as memory"),
        ({"targets": None}, "not a valid firmware descriptor: KeyError 'targets'"),
        ({"targets": {}}, "not a valid firmware descriptor: TypeError"),
        ({"mapping": []}, "not a valid firmware descriptor: TypeError"),
    ],
)
def test_skipped_with_its_reason(dirs: list[Path], changes: dict[str, Any], reason: str) -> None:
    """An unsuitable candidate is passed over, and both the choice and the error say why."""
    bad = write(dirs[2] / "10-bad.json", **changes)
    with pytest.raises(FirmwareError, match="no firmware descriptor for aarch64") as caught:
        find_firmware("aarch64", "virt", dirs)
    assert reason in str(caught.value)
    assert "install qemu-efi-aarch64" in str(caught.value)
    write(dirs[2] / "20-good.json")
    [skipped] = find_firmware("aarch64", "virt", dirs).skipped
    assert skipped.descriptor == bad
    assert reason in skipped.reason


def test_a_build_without_secure_boot_is_preferred(dirs: list[Path]) -> None:
    """The order of names does not decide between them, the features do; the one passed over is named."""
    secure = write(dirs[2] / "50-secure.json", features=["secure-boot", "verbose-static"])
    plain = write(dirs[2] / "60-plain.json", features=["verbose-static"])
    found = find_firmware("aarch64", "virt", dirs)
    assert found.descriptor == plain
    [skipped] = found.skipped
    assert skipped.descriptor == secure
    assert "Secure Boot" in skipped.reason


def test_secure_boot_where_there_is_nothing_else_or_it_is_asked_for(dirs: list[Path]) -> None:
    """A host that has no other build starts with that one; an administrator's is taken in its order."""
    secure = write(dirs[2] / "50-secure.json", features=["secure-boot"])
    write(dirs[2] / "51-secure.json", features=["secure-boot"])
    found = find_firmware("aarch64", "virt", dirs)
    assert found.descriptor == secure
    assert [skipped.descriptor.name for skipped in found.skipped] == ["51-secure.json"]
    write(dirs[2] / "60-plain.json")
    asked = write(dirs[1] / "40-secure.json", features=["secure-boot"])
    assert find_firmware("aarch64", "virt", dirs).descriptor == asked


@pytest.mark.parametrize("suffix", [".code", ".vars"])
def test_missing_file_is_skipped(dirs: list[Path], suffix: str) -> None:
    """A descriptor of an image that is not installed does not count."""
    path = write(dirs[0] / "10-x.json")
    path.with_suffix(suffix).unlink()
    with pytest.raises(FirmwareError, match="does not exist"):
        find_firmware("aarch64", "virt", dirs)


def test_flash_modes(dirs: list[Path]) -> None:
    """Split is taken, said or unsaid; combined and stateless are not."""
    path = write(dirs[0] / "10-x.json")
    document = json.loads(path.read_text())
    for mode, fits in (("split", True), ("combined", False), ("stateless", False)):
        document["mapping"]["mode"] = mode
        path.write_text(json.dumps(document))
        if fits:
            assert find_firmware("aarch64", "virt", dirs).descriptor == path
        else:
            with pytest.raises(FirmwareError, match=f"flash mode {mode}, not split"):
                find_firmware("aarch64", "virt", dirs)


def test_formats_are_the_callers(dirs: list[Path]) -> None:
    """qcow2 images are chosen only by a caller that can use them."""
    path = write(dirs[0] / "10-x.json")
    document = json.loads(path.read_text())
    document["mapping"]["executable"]["format"] = "qcow2"
    path.write_text(json.dumps(document))
    assert find_firmware("aarch64", "virt", dirs, formats=("raw", "qcow2")).code_format == "qcow2"
    with pytest.raises(FirmwareError, match="code format qcow2, not raw"):
        find_firmware("aarch64", "virt", dirs)


def test_unreadable_json_is_skipped(dirs: list[Path]) -> None:
    """A broken file is a candidate passed over, not the end."""
    (dirs[0] / "10-x.json").write_text("{")
    (dirs[0] / "11-x.json").write_bytes(b"\xff\xfe")
    write(dirs[0] / "20-x.json")
    assert [s.reason.startswith("cannot be read") for s in find_firmware("aarch64", "virt", dirs).skipped] == [True] * 2


@pytest.mark.parametrize("machine", ["q35", "pc-q35-7.2"])
def test_machine_names(dirs: list[Path], machine: str) -> None:
    """A machine's alias finds what is meant for its versions; another machine's firmware does not fit."""
    write(dirs[0] / "10-x.json", targets=[{"architecture": "x86_64", "machines": ["pc-q35-*"]}])
    assert find_firmware("x86_64", machine, dirs).description == "10-x"
    with pytest.raises(FirmwareError, match="not for machine pc,"):
        find_firmware("x86_64", "pc", dirs)


def test_error_says_where_it_looked(dirs: list[Path]) -> None:
    """With no candidate at all the error names the directories, and no other arch's descriptors."""
    write(dirs[0] / "10-x.json")
    with pytest.raises(FirmwareError) as caught:
        find_firmware("x86_64", "q35", dirs)
    assert str(dirs[1]) in str(caught.value)
    assert "10-x" not in str(caught.value)
    assert "install ovmf" in str(caught.value)


def test_directories_follow_the_specification() -> None:
    """User before administrator before packages, as QEMU's firmware.json has it; the home is the fallback."""
    assert [str(d) for d in descriptor_dirs({"XDG_CONFIG_HOME": "/c"})] == [
        "/c/qemu/firmware",
        "/etc/qemu/firmware",
        "/usr/share/qemu/firmware",
    ]
    assert str(descriptor_dirs({"HOME": "/h"})[0]) == "/h/.config/qemu/firmware"


_NESTED = {"targets": json.loads("[" * 900 + "]" * 900)}


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"targets": ' + b"[" * 100_000,
        b"{",
        b"\xff\xfe",
        b"\0" * 4096,
        b" " * (1 << 20),
        b"null",
        b"[]",
        b'"uefi"',
        b"1e999",
        b"9" * 10_000,
        json.dumps(_NESTED).encode(),
    ],
    ids=lambda content: f"{content[:12]!r}, {len(content)} bytes",
)
def test_whatever_a_descriptor_holds(dirs: list[Path], content: bytes) -> None:
    """What is no descriptor is passed over with a short reason, and the next one is taken."""
    (dirs[0] / "10-x.json").write_bytes(content)
    good = write(dirs[2] / "20-x.json")
    found = find_firmware("aarch64", "virt", dirs)
    assert found.descriptor == good
    [skipped] = found.skipped
    assert 0 < len(skipped.reason) <= 201


@pytest.mark.parametrize("key", ["interface-types", "mapping", "targets", "features", "description"])
@pytest.mark.parametrize("value", [None, 1, 1.5, "x", [], [1], {}, {"x": []}, [[]], "\ud800", "x" * 10_000])
def test_whatever_a_key_holds(dirs: list[Path], key: str, value: object) -> None:
    """A value of a wrong type is a reason to pass over a descriptor, never an error of ours."""
    path = write(dirs[0] / "10-x.json")
    document = json.loads(path.read_text())
    document[key] = value
    path.write_text(json.dumps(document))
    good = write(dirs[2] / "20-x.json")
    assert find_firmware("aarch64", "virt", dirs).descriptor in {path, good}
    for name in ("executable", "nvram-template"):
        document = json.loads(good.read_text())
        document["mapping"][name] = {"filename": value, "format": value} if key == "mapping" else value
        path.write_text(json.dumps(document))
        assert find_firmware("aarch64", "virt", dirs).descriptor == good


def test_a_descriptor_that_goes_meanwhile(dirs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is being removed takes its descriptor away under us: the next one is taken."""
    gone = write(dirs[0] / "10-x.json")
    good = write(dirs[0] / "20-x.json")
    monkeypatch.setattr(
        "orchestrator.firmware.descriptors._only_masks", lambda path: path.unlink() if path == gone else None
    )
    assert find_firmware("aarch64", "virt", dirs).descriptor == good


def test_firmware_by_its_code(dirs: list[Path]) -> None:
    """The descriptor that names a code file is found, by any of its names, if it is for that machine."""
    write(dirs[2] / "40-first.json")
    wanted = write(dirs[2] / "50-wanted.json")
    write(dirs[2] / "60-other.json", targets=[{"architecture": "x86_64", "machines": ["pc-q35-*"]}])
    (dirs[0] / "link").symlink_to(wanted.with_suffix(".code"))
    for name in (wanted.with_suffix(".code"), dirs[0] / "link"):
        found = firmware_with_code(str(name), "aarch64", "virt", dirs)
        assert found is not None
        assert found.descriptor == wanted
    for name in (dirs[2] / "60-other.code", dirs[2] / "none"):
        assert firmware_with_code(str(name), "aarch64", "virt", dirs) is None
