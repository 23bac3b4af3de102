"""A guest's state without its memory, saved and loaded by real QEMUs. The guests are tiny and run nothing of ours."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

# By way of our binding, which keeps libvirt from writing to stderr.
pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")

from orchestrator import errors
from orchestrator.domain.model import Arch
from orchestrator.hypervisor import migration
from orchestrator.hypervisor.connection import Connection
from tests.disks import MIB
from tests.tiny_domains import tiny_domain

if TYPE_CHECKING:
    from orchestrator.hypervisor.guest import Guest

Create: TypeAlias = "Callable[..., Guest]"

MEMORY_MIB = 64  # of a tiny domain
MARK_AT = 48 * MIB
MARK = b"what the template had in its memory" * 100
RAM_STARTS_AT = {Arch.AARCH64: 1 << 30, Arch.X86_64: 0}
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def opened_before_leftovers_are_counted(embedded: Connection, no_leftovers: None) -> None:
    """Order the fixtures: the root belongs to the whole session, what one test adds to it does not."""


@pytest.fixture
def ram(tmp_path: Path) -> Path:
    """A file for a guest's memory, with something in it."""
    file = tmp_path / "ram, of a template"
    with file.open("wb") as memory:
        memory.truncate(MEMORY_MIB * MIB)
        memory.seek(MARK_AT)
        memory.write(MARK)
    return file


def memory(file: Path, *, private: bool, size_mib: int = MEMORY_MIB) -> tuple[str, ...]:
    """Return the arguments that put a guest's memory in a file."""
    backend = f"memory-backend-file,id=ram,mem-path={str(file).replace(',', ',,')},size={size_mib}M"
    return ("-object", f"{backend},share={'off' if private else 'on'}", "-machine", "memory-backend=ram")


def saved(
    create: Create, ram: Path, tmp_path: Path, *more: str, arch: Arch = Arch.AARCH64, name: str = "template"
) -> Path:
    """Save a guest that ran for a moment, end it, and return its state."""
    guest = create(tiny_domain(name, arch, qemu_args=(*memory(ram, private=False), *more)))
    guest.resume()
    state = tmp_path / f"{name}.state"
    migration.save(guest, state, DEADLINE_S)
    assert guest.qmp("query-status")["status"] == "postmigrate"
    assert guest.end(10).exit_code == 0
    return state


def waiting(create: Create, ram: Path, name: str, *more: str, arch: Arch = Arch.AARCH64) -> Guest:
    """Start a guest that waits for a state."""
    return create(tiny_domain(name, arch, qemu_args=(*memory(ram, private=True), "-incoming", "defer", *more)))


@pytest.mark.parametrize("arch", list(Arch))
def test_clones_go_on_where_the_template_was_saved(create: Create, ram: Path, tmp_path: Path, arch: Arch) -> None:
    """Two clones run at once from one file of memory, which stays as it is; the state holds none of it."""
    state = saved(create, ram, tmp_path, arch=arch)
    assert state.stat().st_size < MEMORY_MIB * MIB / 4
    before = hashlib.sha256(ram.read_bytes()).digest()
    for number in range(2):
        clone = waiting(create, ram, f"clone-{number}", arch=arch)
        migration.load(clone, state, DEADLINE_S)
        assert not (tmp_path / "socket").exists()
        assert clone.qmp("query-status")["running"] is False
        dump = tmp_path / f"dump-{number}"
        place = {"val": RAM_STARTS_AT[arch] + MARK_AT, "size": len(MARK), "filename": str(dump)}
        clone.qmp("pmemsave", place)
        assert dump.read_bytes() == MARK
        clone.resume()
        assert clone.qmp("query-status")["status"] == "running"
    assert hashlib.sha256(ram.read_bytes()).digest() == before


@pytest.mark.parametrize(
    ("of_the_template", "arch"),
    [
        (("-device", "virtio-rng-pci"), Arch.AARCH64),
        (("-device", "virtio-scsi-pci"), Arch.X86_64),
        (("-machine", "virtualization=on"), Arch.AARCH64),
    ],
)
def test_a_state_that_does_not_fit(
    create: Create, ram: Path, tmp_path: Path, of_the_template: tuple[str, ...], arch: Arch
) -> None:
    """QEMU refuses what a larger machine left, in an error that names the domain; no socket stays."""
    state = saved(create, ram, tmp_path, *of_the_template, arch=arch)
    clone = waiting(create, ram, "misfit", arch=arch)
    with pytest.raises((errors.MonitorError, errors.QemuExitedError)) as caught:
        migration.load(clone, state, DEADLINE_S)
    assert "misfit" in str(caught.value)
    assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_damaged_state(create: Create, ram: Path, tmp_path: Path, keep: float) -> None:
    """A state that ends too soon is an error, long before the deadline."""
    state = saved(create, ram, tmp_path)
    os.truncate(state, int(keep if keep > 1 else keep * state.stat().st_size))
    clone = waiting(create, ram, "damaged")
    with pytest.raises((errors.MonitorError, errors.QemuExitedError)):
        migration.load(clone, state, DEADLINE_S)


def test_no_state(create: Create, ram: Path, tmp_path: Path) -> None:
    """A missing file is what the error names, and no socket stays."""
    clone = waiting(create, ram, "none")
    with pytest.raises(FileNotFoundError, match="no-such-state"):
        migration.load(clone, tmp_path / "no-such-state", DEADLINE_S)
    assert not (tmp_path / "socket").exists()


def test_a_guest_that_waits_for_nothing(create: Create, ram: Path, tmp_path: Path) -> None:
    """A guest that was not started for a state takes none."""
    state = saved(create, ram, tmp_path)
    guest = create(tiny_domain("ordinary", qemu_args=memory(ram, private=True)))
    with pytest.raises(errors.MonitorError, match="ordinary"):
        migration.load(guest, state, DEADLINE_S)


def test_no_space_for_the_state(create: Create, ram: Path, tmp_path: Path) -> None:
    """A state that cannot be written to its end is an error, even when QEMU has sent all of it."""
    whole = saved(create, ram, tmp_path, name="whole").stat().st_size
    guest = create(tiny_domain("cut", qemu_args=memory(ram, private=False)))
    guest.resume()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole // 2, usual[1]))
    try:
        with pytest.raises((OSError, errors.GuestlaunchError)):
            migration.save(guest, tmp_path / "cut.state", DEADLINE_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
