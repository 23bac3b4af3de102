"""VMs that are there: found, listed, shut down, and removed with all that was made for them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import NotFoundError, UsageError
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.stored import DomainState, StoredDomain
from orchestrator.vm import folder as folders
from orchestrator.vm.home import home_of
from orchestrator.vm.note import VmNote, note_of
from orchestrator.vm.request import check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVm:
    """A VM of ours, as libvirt has it."""

    domain: StoredDomain
    note: VmNote
    state: DomainState

    def to_json(self) -> dict[str, Any]:
        """Return it, JSON-ready."""
        note = self.note
        return {
            "name": self.domain.name,
            "uuid": self.domain.uuid,
            "state": str(self.state),
            "arch": note.arch,
            "image": note.image,
            "created": note.created,
            "ready": note.ready or None,
            "ready_ms": int(note.ready_ms) if note.ready_ms else None,
            "files": list(note.paths),
            "specification": note.asked,
        }


def all_known(connection: Connection) -> list[KnownVm]:
    """Return the VMs of ours, sorted by name."""
    found = []
    for name in connection.list_names():
        domain = connection.stored(name)
        note = note_of(domain) if domain is not None else None
        if domain is not None and note is not None:
            found.append(KnownVm(domain=domain, note=note, state=domain.state()))
    return found


def find(connection: Connection, name: str) -> KnownVm:
    """Return a VM of ours.

    :raise NotFoundError: there is no domain of that name.
    :raise UsageError: it is none of ours.
    """
    domain = connection.stored(name)
    if domain is None:
        raise NotFoundError("no such VM", name, f"{connection.uri} has no domain of that name")
    note = note_of(domain)
    if note is None:
        why = f"{connection.uri} has a domain of that name, which is none of ours"
        raise UsageError("not one of our VMs", name, why, "virsh handles it")
    return KnownVm(domain=domain, note=note, state=domain.state())


def delete(connection: Connection, name: str, parent: Path, *, force: bool, tell: Callable[[str], None]) -> None:
    """Remove a VM: its domain, and the files that were made for it.

    :param parent: below which folders of VMs are, for what a creation left that was killed.
    :param force: one that runs is ended first.
    :raise UsageError: it runs, is none of ours, or none has such a name.
    :raise NotFoundError: there is nothing of it.
    """
    check_name(name)  # of a folder, too: .. is none
    with folders.held(parent, name) as folder:
        if connection.stored(name) is None and folders.begun(folder):
            folders.check_left(folder, connection.uri)
            tell(f"{name}: there is no domain; what its creation left is removed")
            _tell_left(folder, folders.clear(folder), tell)
            return
        before = find(connection, name)
        with folders.held_too(Path(before.note.folder), folder):
            found = find(connection, name)  # as it is now that nobody works on it
            if found.note.number != before.note.number:
                raise UsageError("VM is being worked on", name, "another command has it", "wait until that is done")
            _delete(found, connection, force=force, tell=tell)


def _delete(found: KnownVm, connection: Connection, *, force: bool, tell: Callable[[str], None]) -> None:
    name, home = found.domain.name, home_of(found.note, connection)
    if found.domain.is_active:
        if not force:
            raise UsageError("cannot delete VM", name, "it runs", f"guestlaunch vm stop {name}, or --force")
        found.domain.destroy()
    left = home.clear(found.note.files.split())  # before the domain, whose note says what they are, should one stay
    found.domain.undefine(nvram=bool(found.note.pool))
    _tell_left(home.folder, left, tell)


def _tell_left(folder: Path, left: list[str], tell: Callable[[str], None]) -> None:
    if left:
        tell(f"{folder}: left as it is, as there is something else in it: {', '.join(left)}")
