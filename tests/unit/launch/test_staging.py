"""Staging of a launch's files, and stop requests."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError, LaunchError
from orchestrator.firmware.descriptors import Firmware
from orchestrator.firmware.nvram import settle
from orchestrator.launch.staging import directory, make_loader, make_rom, root_overlay, write_secret
from orchestrator.launch.stop import Stop


def test_stop_is_waitable_and_keeps_its_first_reason() -> None:
    """A stop request makes its descriptor readable."""
    with Stop() as stop:
        assert not stop.requested
        stop.request("first")
        stop.request("second")
        assert stop.reason == "first"
        assert os.eventfd_read(stop.fileno()) == 2


def test_launch_directory_is_private_and_goes(tmp_path: Path) -> None:
    """The directory is ours alone, holds secrets as 0600, and is removed with its content."""
    with directory(tmp_path / "launches", "gl-1") as path:
        secret = write_secret("s3cret", path / "key")
        assert path.stat().st_mode & 0o777 == 0o700
        assert secret.stat().st_mode & 0o777 == 0o600
        assert secret.read_text() == "s3cret"
    assert not path.exists()


def test_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """The error names the directory, and nothing is left."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(LaunchError, match="cannot make the launch's directory: .*file/gl-1"),
        directory(tmp_path / "file", "gl-1"),
    ):
        pass


@pytest.mark.parametrize(
    ("appliance", "wanted", "begins"),
    [("one", True, b"settled"), ("one", False, b"package"), (None, True, b"package")],
    ids=["appliance", "switched off", "a kernel that is tried"],
)
def test_variables_of_an_appliances_firmware_are_settled(
    tmp_path: Path, appliance: str | None, wanted: bool, begins: bytes
) -> None:
    """Whoever tries a kernel, or compares firmware, has a machine that was never switched on."""
    code, variables, left = (tmp_path / name for name in ("code", "variables", "left"))
    code.touch()
    variables.write_bytes(b"package's")
    left.write_bytes(b"settled'.")
    firmware = Firmware(
        code=str(code), code_format="raw", nvram_template=str(variables), nvram_format="raw", description="d",
        descriptor=tmp_path,
    )  # fmt: skip
    settle(left, code=code, template=variables, cache=tmp_path / "cache")
    settings = SimpleNamespace(state_dir=tmp_path, settled_nvram=wanted)
    spec: Any = SimpleNamespace(plan=SimpleNamespace(firmware=firmware, appliance=appliance), settings=settings)
    place: Any = SimpleNamespace(data=tmp_path)
    with contextlib.ExitStack() as owner:
        loader = make_loader(spec, place, owner)
        assert loader is not None
        assert loader.nvram is not None
        assert Path(loader.nvram).read_bytes().startswith(begins)
    assert not list(tmp_path.glob("nvram-*"))


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({}, b"settled'."),
        ({"settled_nvram": False}, b"package's"),
        ({"pflash": ("/c", "/tmp/libguestfs123456/vars1.fd")}, b"settled'."),
        ({"connect": "qemu:///embed"}, b"settled'."),
        ({"own": True}, None),
        ({"connect": "qemu:///system"}, None),
        ({"appliance": None}, None),
        ({"arch": Arch.X86_64}, None),
        ({"nvram_format": "qcow2"}, None),
        ({"code_format": "qcow2"}, None),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_arms_flash_is_filled_without_a_file_behind_it(
    tmp_path: Path, changes: dict[str, Any], begins: bytes | None
) -> None:
    """What is the client's own, or another libvirt's to know, stays a file."""
    code, variables, left = (tmp_path / name for name in ("code", "variables", "left"))
    for file, content in ((code, b"code"), (variables, b"package's"), (left, b"settled'.")):
        file.write_bytes(content + bytes(100))
    firmware = Firmware(
        code=str(code), code_format=changes.get("code_format", "raw"), nvram_template=str(variables),
        nvram_format=changes.get("nvram_format", "raw"), description="d", descriptor=tmp_path,
    )  # fmt: skip
    settle(left, code=code, template=variables, cache=tmp_path / "cache")
    pflash = (str(code), str(variables)) if "own" in changes else changes.get("pflash")
    profile = SimpleNamespace(arch=changes.get("arch", Arch.AARCH64))
    spec: Any = SimpleNamespace(
        plan=SimpleNamespace(firmware=firmware, appliance=changes.get("appliance", "one"), profile=profile),
        settings=SimpleNamespace(
            state_dir=tmp_path, settled_nvram=changes.get("settled_nvram", True), connect=changes.get("connect")
        ),
        request=SimpleNamespace(pflash=pflash),
    )
    rom = make_rom(spec)
    assert (rom is None) == (begins is None)
    if rom is not None:
        assert (Path(rom.code).read_bytes(), Path(rom.variables).read_bytes()) == (b"code", begins)


def test_missing_root_is_named(tmp_path: Path) -> None:
    """An overlay over nothing is refused before qemu-img runs."""
    with pytest.raises(ApplianceError, match="cannot read the appliance's root: .*/root: No such file"):
        root_overlay(tmp_path / "root", "raw", tmp_path, tmp_path / "cache")
