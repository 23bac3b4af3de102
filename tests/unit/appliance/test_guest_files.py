"""The files that run in the guest, and which appliance has which."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.appliance import guest_files
from orchestrator.appliance.guest_files import INITRD_FILES, INITRD_INIT, ROOT_INIT, root_files, scripts_digest
from orchestrator.appliance.manifest import Init

FOLDER = Path(guest_files.__file__).parent / "guest"


def test_each_file_has_its_place() -> None:
    """Whatever is in the folder goes into the initrd, the root or both."""
    assert {*INITRD_FILES, ROOT_INIT, *root_files()} == {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert INITRD_INIT not in root_files()
    assert ROOT_INIT not in root_files()


def test_digest_depends_on_what_is_in_the_appliance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the root's init makes a lean appliance another one, but not one with libguestfs's own init."""
    lean, stock = scripts_digest(Init.LEAN), scripts_digest(Init.STOCK)
    assert lean != stock
    real = guest_files.guest_file

    def changed(name: str) -> bytes:
        return real(name) + (b"# changed\n" if name == ROOT_INIT else b"")

    monkeypatch.setattr(guest_files, "guest_file", changed)
    assert scripts_digest(Init.LEAN) != lean
    assert scripts_digest(Init.STOCK) == stock
