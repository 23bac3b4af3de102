"""The files of a VM: made for it, removed by name, and had by one command at a time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from orchestrator.errors import FirmwareError, UsageError
from orchestrator.settings import Settings
from orchestrator.vm import folder as folders
from orchestrator.vm import known
from orchestrator.vm.request import VmRequest

if TYPE_CHECKING:
    from orchestrator.firmware.descriptors import Firmware
    from orchestrator.hypervisor.connection import Connection


def test_only_what_was_made_is_removed(tmp_path: Path) -> None:
    """What else lies there stays, with the folder."""
    own = tmp_path / "one"
    folders.make(own, "qemu:///session", passable=True)
    assert own.stat().st_mode & 0o777 == 0o711
    for name in (folders.DISK, folders.NVRAM, "notes"):
        (own / name).touch()
    assert folders.clear(own) == ["notes"]
    (own / "notes").unlink()
    assert folders.clear(own) == []
    assert not folders.begun(own)


def test_what_is_told_to_cloud_init_is_a_secret(tmp_path: Path) -> None:
    """Others may pass through the folder."""
    folders.make_seed(tmp_path, b"passwords")
    assert (tmp_path / folders.SEED).read_bytes() == b"passwords"
    assert (tmp_path / folders.SEED).stat().st_mode & 0o777 == 0o600


def test_variables_that_are_none(tmp_path: Path) -> None:
    """What QEMU would refuse without its name is refused by it; nothing is made."""
    given, own = tmp_path / "given.fd", tmp_path / "own.fd"
    own.write_bytes(bytes(4096))
    request = VmRequest(name="one", image=tmp_path / "image", nvram=given)
    with pytest.raises(UsageError, match="given.fd"):
        request.check()
    given.write_bytes(b"short")
    request.check()
    firmware = cast("Firmware", SimpleNamespace(nvram_template=own))
    with pytest.raises(FirmwareError, match=r"given.fd: it has 5 bytes, and this firmware's variables 4096"):
        folders.make_nvram(request, firmware, tmp_path, Settings(state_dir=tmp_path, runtime_dir=tmp_path))
    assert not (tmp_path / folders.NVRAM).exists()
    given.write_bytes(own.read_bytes())
    assert (
        folders.make_nvram(request, firmware, tmp_path, Settings(state_dir=tmp_path, runtime_dir=tmp_path))
        .stat()
        .st_size
        == 4096
    )


@pytest.mark.parametrize("name", ["..", ".", "", "../one", "/one"])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    """What is beside the folder of VMs is not removed as what a creation has left."""
    (tmp_path / "vms").mkdir()
    disks = [tmp_path / folders.DISK, tmp_path / "vms" / folders.DISK]
    for disk in disks:
        disk.touch()
    connection = cast("Connection", SimpleNamespace(stored=lambda _: None, uri="qemu:///session"))
    with pytest.raises(UsageError, match="bad name of a VM"):
        known.delete(connection, name, tmp_path / "vms", force=True, tell=lambda _: None)
    assert all(disk.exists() for disk in disks)


def test_a_folder_of_another_connections_vm(tmp_path: Path) -> None:
    """VMs of two daemons may have the same name: the one's disk is not what a creation on the other has left."""
    own = tmp_path / "vms" / "one"
    with folders.held(tmp_path / "vms", "one"):
        folders.make(own, "qemu:///session", passable=False)
    (own / folders.DISK).touch()
    connection = SimpleNamespace(stored=lambda _: None, uri="qemu:///system", is_local=True)
    with pytest.raises(UsageError, match="it is that of a VM on qemu:///session"):
        known.delete(cast("Connection", connection), "one", tmp_path / "vms", force=True, tell=lambda _: None)
    assert (own / folders.DISK).exists()
    connection.uri = "qemu:///session"
    told: list[str] = []
    known.delete(cast("Connection", connection), "one", tmp_path / "vms", force=True, tell=told.append)
    assert told == ["one: there is no domain; what its creation left is removed"]
    assert not own.exists()


def test_one_command_at_a_time(tmp_path: Path) -> None:
    """The second is refused; nothing stays of the lock."""
    with folders.held(tmp_path / "vms", "one"):
        with pytest.raises(UsageError, match="another command has it"), folders.held(tmp_path / "vms", "one"):
            pass
        with folders.held(tmp_path / "vms", "two"):
            pass
    assert list((tmp_path / "vms").iterdir()) == []
