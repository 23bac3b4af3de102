"""Who is confined, as whom, and by which of QEMU's options."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.domain.arguments import privilege_arguments
from orchestrator.domain.model import Privileges
from orchestrator.hypervisor import confinement

EVERYBODY = [range(1 << 32)]


@pytest.fixture
def emulator(tmp_path: Path) -> Path:
    """A program that libvirt knows."""
    file = tmp_path / "emulator"
    file.write_text("#!/bin/sh\necho 'QEMU emulator version 10.0.2'\n")
    file.chmod(0o755)
    return file


def remember(cache: Path, emulator: Path, version: int, *, ctime: int, seccomp: bool = True) -> None:
    """Write what libvirt would remember of an emulator."""
    folder = cache / "qemu" / "capabilities"
    folder.mkdir(parents=True)
    flag = "<flag name='seccomp-sandbox'/>" if seccomp else ""
    text = f"<qemuCaps><qemuctime>{ctime}</qemuctime>{flag}<version>{version}</version></qemuCaps>"
    (folder / f"{hashlib.sha256(os.fsencode(emulator)).hexdigest()}.xml").write_text(text)


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be root with all rights, in the host's own user namespace."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(confinement, "lacking", lambda: None)
    monkeypatch.setattr(confinement, "_mapped", lambda _: EVERYBODY)


def granted(emulator: Path, cache: Path, setting: str = "auto") -> Privileges:
    """Return what an emulator may keep."""
    found = confinement.privileges(setting, None, str(emulator), cache, host_network=None)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("version", "option"), [(7_002_022, "-runas"), (9_000_004, "-runas"), (9_001_000, "-run-with")]
)
def test_the_option_is_the_versions(emulator: Path, tmp_path: Path, version: int, option: str) -> None:
    """QEMU 9.1 has a new option, and QEMU 10 no longer the old one; libvirt has asked for the version already."""
    remember(tmp_path, emulator, version, ctime=int(emulator.stat().st_ctime))
    assert granted(emulator, tmp_path).option == option


def test_an_emulator_that_has_changed_is_asked(emulator: Path, tmp_path: Path) -> None:
    """What libvirt remembers of another state of the program does not count."""
    remember(tmp_path, emulator, 7_002_022, ctime=1)
    found = granted(emulator, tmp_path)
    assert (found.option, found.sandbox) == ("-run-with", False)


def test_arguments() -> None:
    """A QEMU that becomes another user may do so; one that stays root may not become anybody."""
    assert privilege_arguments(Privileges(user=5, option="-run-with", sandbox=False)) == ["-run-with", "user=5:5"]
    (_, filters, *rest) = privilege_arguments(Privileges(user=None))
    assert "elevateprivileges=deny" in filters
    assert rest == []


def test_each_has_a_user_of_its_own(emulator: Path, tmp_path: Path) -> None:
    """Users come by chance from those that nobody has."""
    remember(tmp_path, emulator, 7_002_022, ctime=int(emulator.stat().st_ctime))
    users = {granted(emulator, tmp_path).user for _ in range(50)}
    assert len(users) == 50
    assert all(user is not None and 0x7000_0000 <= user < 0x8000_0000 for user in users)


@pytest.mark.parametrize(
    ("mapped", "reason"),
    [([range(65_536)], None), ([range(1)], "no users to spare"), ([range(1000, 1001), range(1)], "no users to spare")],
)
def test_user_namespaces(
    monkeypatch: pytest.MonkeyPatch, emulator: Path, tmp_path: Path, mapped: list[range], reason: str | None
) -> None:
    """In a user namespace only its own users count; where there are too few, QEMU stays its root, and says why."""
    remember(tmp_path, emulator, 7_002_022, ctime=int(emulator.stat().st_ctime))
    monkeypatch.setattr(confinement, "_mapped", lambda _: mapped)
    found = granted(emulator, tmp_path)
    if reason is None:
        assert found.user is not None
        assert 20_000 <= found.user < 65_534
    else:
        assert found.user is None
        assert reason in str(found.reason)


def test_who_is_not_ours(monkeypatch: pytest.MonkeyPatch, emulator: Path, tmp_path: Path) -> None:
    """A user's QEMU is that user's, and libvirtd's runs as libvirtd has it."""
    for uri in ("qemu:///system", "qemu:///session"):
        assert confinement.privileges("auto", uri, str(emulator), tmp_path, host_network=None) is None
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert confinement.privileges("auto", None, str(emulator), tmp_path, host_network=None) is None
    assert not confinement.confined("auto", None)


def test_off(emulator: Path, tmp_path: Path) -> None:
    """The setting leaves QEMU root, with its filters."""
    found = granted(emulator, tmp_path, "off")
    assert (found.user, found.own_network, found.reason) == (None, False, "confine = off")
    assert not confinement.confined("off", None)
    assert confinement.confined("auto", "qemu:///embed")


def test_a_failure_reaches_the_caller() -> None:
    """What goes wrong on the thread that starts QEMU is raised where it was asked for."""

    def fail() -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        confinement.starting(Privileges(user=5), fail)


@pytest.mark.skipif(os.getuid() != 0, reason="only root has processes of others")
def test_bounds_hold_although_root_may_not_bound_others() -> None:
    """Without CAP_SYS_RESOURCE, as in a container; and our own threads stay root's."""
    with subprocess.Popen(["sleep", "60"], user=54_321, group=54_321, extra_groups=[]) as other:
        try:
            given = Privileges(user=54_321, option="-runas", sandbox=True, threads=77, data_bytes=1 << 30)
            script = (
                "import ctypes, json, sys, threading\n"
                "ctypes.CDLL(None).prctl(24, 24, 0, 0, 0)\n"  # CAP_SYS_RESOURCE leaves the bounding set ...
                "import os\n"
                "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1], *sys.argv[2:]])\n"
            )
            code = (
                "import os, sys\n"
                "from orchestrator.domain.model import Privileges\n"
                "from orchestrator.hypervisor import confinement\n"
                f"given = {given!r}\n"
                "confinement.bound(int(sys.argv[1]), given)\n"
                "found = confinement.confinement(int(sys.argv[1]), given)\n"
                "print(found.threads, found.memory_mib, found.reason, os.getresuid())\n"
            )
            said = subprocess.run(
                [sys.executable, "-c", script, code, str(other.pid)], check=True, capture_output=True, text=True
            )
        finally:
            other.kill()
    assert said.stdout == "77 1024 None (0, 0, 0)\n"
