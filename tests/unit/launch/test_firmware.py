"""The pflash pair that libguestfs names on Arm is taken for what it is: installed code, and a copy of its variables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain.profiles import load_profile
from orchestrator.firmware.descriptors import Firmware
from orchestrator.launch import plan
from orchestrator.launch.context import LaunchSpec
from orchestrator.launch.request import LaunchRequest
from orchestrator.settings import Settings
from tests.unit.launch.fakes import PLAN

MIB = 1 << 20


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Code and variables of the only firmware that a descriptor names."""
    code, variables = tmp_path / "CODE.fd", tmp_path / "VARS.fd"
    code.write_bytes(bytes(MIB))
    variables.write_bytes(b"variables".ljust(2 * MIB, b"\0"))
    files = {"executable": code, "nvram-template": variables}
    document = {
        "description": "UEFI",
        "interface-types": ["uefi"],
        "mapping": {"device": "flash"} | {key: {"filename": str(p), "format": "raw"} for key, p in files.items()},
        "targets": [{"architecture": "aarch64", "machines": ["virt-*"]}],
        "features": [],
        "tags": [],
    }
    folder = tmp_path / "config/qemu/firmware"
    folder.mkdir(parents=True)
    (folder / "10-only.json").write_text(json.dumps(document))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return code, variables


def chosen(code: Path, variables: Path) -> Firmware:
    """Return the firmware of a launch that names this pair."""
    request = LaunchRequest(kernel="/k", initrd="/i", cmdline="", pflash=(str(code), str(variables)))
    found = plan.choose_firmware(request, load_profile("aarch64-uefi"))
    assert found is not None
    return found


def test_a_copy_of_the_installed_variables(installed: tuple[Path, Path], tmp_path: Path) -> None:
    """Each launch has a copy of its own: the firmware, and so a template's key, is the same for all of them."""
    code, variables = installed
    for name in ("libguestfsAbCd12/vars1.fd", "libguestfsZ9y8X7/vars23.fd"):
        copy = tmp_path / name
        copy.parent.mkdir()
        copy.write_bytes(variables.read_bytes())
        assert chosen(code, copy).nvram_template == str(variables)


def test_what_a_template_remembers_holds_when_the_copy_is_gone(installed: tuple[Path, Path], tmp_path: Path) -> None:
    """A daemon that starts later plans the same launch anew, by the request that the template was made for."""
    code, variables = installed
    copy = tmp_path / "libguestfsAbCd12/vars1.fd"
    copy.parent.mkdir()
    copy.write_bytes(variables.read_bytes())
    found = chosen(code, copy)
    request = LaunchRequest(kernel="/k", initrd="/i", cmdline="", pflash=(str(code), str(copy)))
    spec = LaunchSpec(
        request=request, settings=Settings(state_dir=tmp_path, runtime_dir=tmp_path), plan=replace(PLAN, firmware=found)
    )
    remembered = spec.without_tool().request
    copy.unlink()
    assert remembered.pflash is not None
    later = chosen(*map(Path, remembered.pflash))
    assert (later.code, later.nvram_template) == (found.code, found.nvram_template)
    assert replace(spec, plan=replace(PLAN, firmware=None)).without_tool().request.pflash == request.pflash


def test_variables_of_the_users_own(installed: tuple[Path, Path], tmp_path: Path) -> None:
    """Other names, other contents, another size, or code of no descriptor: the pair is used as it is named."""
    code, variables = installed
    data = variables.read_bytes()
    for name, content in (
        ("mine/vars1.fd", data),
        ("libguestfsAbCd12/mine.fd", data),
        ("libguestfsAbCd13/vars1.fd", b"Variables" + data[9:]),
        ("libguestfsAbCd14/vars1.fd", data + b"x"),
    ):
        own = tmp_path / name
        own.parent.mkdir()
        own.write_bytes(content)
        assert chosen(code, own).nvram_template == str(own)
    copy = tmp_path / "libguestfsAbCd15/vars1.fd"
    copy.parent.mkdir()
    copy.write_bytes(data)
    assert chosen(variables, copy).nvram_template == str(copy)


def test_a_guest_of_another_arch(installed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What libguestfs on Arm names is Arm's: another guest has its own, also by what its template remembers."""
    code, variables = installed
    copy = tmp_path / "libguestfsAbCd12/vars1.fd"
    copy.parent.mkdir()
    copy.write_bytes(variables.read_bytes())
    other = replace(chosen(code, copy), code="/ovmf", nvram_template="/ovmf-vars")
    monkeypatch.setattr(plan, "find_firmware", lambda *_, **__: other)
    request = LaunchRequest(kernel="/k", initrd="/i", cmdline="", pflash=(str(code), str(copy)))
    profile = load_profile("x86_64-ovmf")
    assert plan.choose_firmware(request, profile) is other
    spec = LaunchSpec(
        request=request,
        settings=Settings(state_dir=tmp_path, runtime_dir=tmp_path),
        plan=replace(PLAN, firmware=other, profile=profile),
    )
    assert spec.without_tool().request.pflash is None
    mine = replace(request, pflash=("/mine", "/my-variables"))
    found = plan.choose_firmware(mine, profile)
    assert found is not None
    assert (found.code, found.nvram_template) == mine.pflash
