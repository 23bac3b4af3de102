"""The environment of tools: which appliance they get, and what becomes of variables that are set already."""

from __future__ import annotations

import dataclasses
import os
import struct
import sys
import sysconfig
from pathlib import Path

import pytest

from orchestrator.errors import ApplianceError, CapabilityError, NotFoundError, UsageError
from orchestrator.settings import Settings, for_launch
from orchestrator.workload import environment
from orchestrator.workload.environment import choose_appliance, tool_environment, variables_set


def fixed(path: Path, *, arch: str = "aarch64", readme: bool = True) -> Path:
    """Make a directory that looks like a fixed appliance: just enough for the checks that precede a launch."""
    path.mkdir(parents=True)
    kernel = bytearray(0x210)
    if arch == "aarch64":
        kernel[0x38:0x3C] = b"ARM\x64"
    else:
        kernel[0x1FE:0x200] = b"\x55\xaa"
        kernel[0x202:0x206] = b"HdrS"
        struct.pack_into("<H", kernel, 0x206, 0x20F)
    (path / "kernel").write_bytes(bytes(kernel) * 64)
    (path / "initrd").write_bytes(cpio())
    (path / "root").write_bytes(ext4())
    if readme:
        (path / "README.fixed").write_text("")
    return path


def cpio() -> bytes:
    """Return an empty archive: only its trailer."""
    name = b"TRAILER!!!\0"
    header = b"070701" + b"".join(b"%08x" % value for value in (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(name), 0))
    return (header + name).ljust(512, b"\0")


def ext4() -> bytes:
    """Return the beginning of an ext file system."""
    data = bytearray(4096)
    data[1080:1082] = b"\x53\xef"
    data[1128:1144] = bytes(range(16))
    return bytes(data)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with a built appliance for aarch64 in their store."""
    made = Settings(state_dir=tmp_path / "state", runtime_dir=tmp_path / "run")
    fixed(made.appliance_store / "aarch64/20260101T000000-x")
    (made.appliance_store / "aarch64/current").symlink_to("20260101T000000-x")
    return made


def test_what_is_set(settings: Settings, tmp_path: Path) -> None:
    """The library is pointed at our wrapper, a fixed appliance and its direct back end; the rest stays."""
    made = tool_environment({"HOME": "/h", "LIBGUESTFS_MEMSIZE": "999"}, settings, socket=tmp_path / "s", client="tok")
    env = made.variables
    assert env["LIBGUESTFS_BACKEND"] == "direct"
    assert Path(env["LIBGUESTFS_PATH"]).name == "20260101T000000-x"
    assert Path(env["LIBGUESTFS_HV"]).name == "guestlaunch-hv"
    assert Path(env["LIBGUESTFS_HV"]).is_absolute()
    assert (env["HOME"], env["LIBGUESTFS_MEMSIZE"]) == ("/h", "999")
    assert (env["GUESTLAUNCH_SOCKET"], env["GUESTLAUNCH_CLIENT"]) == (str(tmp_path / "s"), "tok")
    assert env["GUESTLAUNCH_QUIET"] == "1"
    assert made.warnings == ()


def test_settings_reach_the_launch(settings: Settings, tmp_path: Path) -> None:
    """What the command was told holds for the launch, also against a daemon that was told otherwise."""
    ours = dataclasses.replace(settings, fw_cfg_dma=True, vcpus=3)
    made = tool_environment({"GUESTLAUNCH_FW_CFG_DMA": "off", "GUESTLAUNCH_CONFIG": "/gone"}, ours)
    daemon = dataclasses.replace(settings, fw_cfg_dma=False, vcpus=9)
    assert for_launch(daemon, made.variables, tmp_path) == dataclasses.replace(ours)


def test_exports_are_few(settings: Settings) -> None:
    """`guestlaunch env` prints what differs from what there is, and no server that will be gone."""
    ours = dataclasses.replace(settings, fw_cfg_dma=False)
    made = tool_environment({"GUESTLAUNCH_ACCEL": "tcg"}, dataclasses.replace(ours, accel="auto"), everything=False)
    assert {name for name in made.ours if not name.endswith("_DIR")} == {
        "LIBGUESTFS_HV", "LIBGUESTFS_PATH", "LIBGUESTFS_BACKEND", "GUESTLAUNCH_FW_CFG_DMA", "GUESTLAUNCH_ACCEL",
    }  # fmt: skip
    assert made.ours["GUESTLAUNCH_ACCEL"] == "auto"


def test_exports_name_directories_that_are_not_the_default(settings: Settings) -> None:
    """A state directory given as an option must reach the launches of later commands."""
    made = tool_environment({}, settings, everything=False)
    assert made.ours["GUESTLAUNCH_STATE_DIR"] == str(settings.state_dir)
    assert made.ours["GUESTLAUNCH_RUNTIME_DIR"] == str(settings.runtime_dir)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIBGUESTFS_BACKEND", "libvirt:qemu:///session"),
        ("LIBGUESTFS_ATTACH_METHOD", "appliance"),
        ("LIBGUESTFS_HV", "/usr/bin/qemu-system-x86_64"),
        ("LIBGUESTFS_QEMU", "/usr/bin/kvm"),
    ],
)
def test_overridden_variables_are_named(settings: Settings, name: str, value: str) -> None:
    """What has to give way is said in one line, and does give way."""
    made = tool_environment({name: value}, settings)
    assert [line for line in made.warnings if f"{name}={value}" in line]
    assert value not in made.variables.values()


def test_own_values_are_no_conflict(settings: Settings) -> None:
    """A shell that has eval'ed `guestlaunch env` gets no warnings from our commands."""
    once = tool_environment({}, settings, everything=False)
    assert tool_environment(dict(once.variables), settings).warnings == ()


def test_backend_settings_pass(settings: Settings) -> None:
    """force_tcg is libguestfs's to turn into an argument; it is not ours to drop."""
    made = tool_environment({"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}, settings)
    assert made.variables["LIBGUESTFS_BACKEND_SETTINGS"] == "force_tcg"


def test_users_own_appliance(settings: Settings, tmp_path: Path) -> None:
    """A fixed appliance in LIBGUESTFS_PATH is taken as the user's choice, in any place of the search path."""
    own = fixed(tmp_path / "own")
    assert choose_appliance(settings, {"LIBGUESTFS_PATH": f"/nonexistent:{own}"}) == (own, ())


def test_path_without_an_appliance(settings: Settings) -> None:
    """A LIBGUESTFS_PATH that holds none (the stock supermin one) is passed over with a line."""
    path, [warning] = choose_appliance(settings, {"LIBGUESTFS_PATH": "/usr/lib/guestfs"})
    assert path.name == "20260101T000000-x"
    assert "/usr/lib/guestfs" in warning


def test_settings_win_over_the_path(settings: Settings, tmp_path: Path) -> None:
    """--appliance is the last word."""
    one, two = fixed(tmp_path / "one"), fixed(tmp_path / "two")
    path, warnings = choose_appliance(dataclasses.replace(settings, appliance=one), {"LIBGUESTFS_PATH": str(two)})
    assert path == one
    assert len(warnings) == 1


def test_appliance_of_another_arch(settings: Settings, tmp_path: Path) -> None:
    """An x86 appliance for an aarch64 profile is refused, naming both."""
    own = fixed(tmp_path / "own", arch="x86_64")
    with pytest.raises(ApplianceError, match="it is for x86_64, profile aarch64-uefi is for aarch64"):
        choose_appliance(dataclasses.replace(settings, appliance=own), {})


def test_built_appliance_of_another_arch_gives_way(settings: Settings, tmp_path: Path) -> None:
    """In a shell that has eval'ed `guestlaunch env` for one arch, a command for the other gets its own appliance."""
    x86 = fixed(settings.appliance_store / "x86_64/20260101T000000-y", arch="x86_64")
    assert choose_appliance(settings, {"LIBGUESTFS_PATH": str(x86)})[0].parent.name == "aarch64"
    (tmp_path / "link").symlink_to(x86)
    assert choose_appliance(settings, {"LIBGUESTFS_PATH": str(tmp_path / "link")})[1] == ()
    own = fixed(tmp_path / "own", arch="x86_64")  # the user's own is the user's choice
    with pytest.raises(ApplianceError, match="it is for x86_64"):
        choose_appliance(settings, {"LIBGUESTFS_PATH": str(own)})


def test_what_is_taken_away_again(settings: Settings, tmp_path: Path) -> None:
    """All that was set, also when no appliance is left."""
    ours = dataclasses.replace(settings, vcpus=3)
    made = tool_environment({}, ours, everything=False)
    gone = dataclasses.replace(ours, state_dir=tmp_path / "gone")
    assert set(variables_set(made.variables, gone)) == set(made.ours)


def test_appliance_that_libguestfs_would_not_know(settings: Settings, tmp_path: Path) -> None:
    """Without README.fixed libguestfs would look elsewhere: said before anything is started."""
    own = fixed(tmp_path / "own", readme=False)
    with pytest.raises(ApplianceError, match=r"README\.fixed"):
        choose_appliance(dataclasses.replace(settings, appliance=own), {})


def test_no_appliance(settings: Settings) -> None:
    """Without one, the command that makes one is named."""
    with pytest.raises(NotFoundError, match="guestlaunch appliance build --arch x86_64"):
        choose_appliance(dataclasses.replace(settings, profile="x86_64-seabios"), {})


def test_runtime_directory_too_long(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket of libguestfs that would not fit is named with both lengths. As root it lies in /tmp."""
    long = str(tmp_path / ("x" * 90))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="the kernel takes 107"):
        environment.check_runtime_directory({"XDG_RUNTIME_DIR": long})
    environment.check_runtime_directory({"XDG_RUNTIME_DIR": "/run/user/1000"})
    environment.check_runtime_directory({})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    environment.check_runtime_directory({"XDG_RUNTIME_DIR": long})


def test_wrapper_is_found_beside_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the program, also through a link to it; else a clear line."""
    program = tmp_path / "bin/guestlaunch-hv"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "bin/guestlaunch").write_text("")
    (tmp_path / "guestlaunch").symlink_to("bin/guestlaunch")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "guestlaunch")])
    assert environment.wrapper_path() == program
    program.unlink()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CapabilityError, match="guestlaunch-hv"):
        environment.wrapper_path()
