"""Folders that appear whole: gone where their making failed, never in a sweeper's way, never met half-removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import locks, published


def make(home: Path, name: str) -> Path:
    """Put a folder with something in it into its place."""
    with published.staging(home) as folder:
        (folder / "content").write_bytes(b"x")
        return folder.rename(home / name)


def names(home: Path) -> list[str]:
    """Return what is there."""
    return sorted(path.name for path in home.iterdir())


def test_what_is_renamed_stays(tmp_path: Path) -> None:
    """What was put into its place is there when its making is over; nothing else is."""
    assert (make(tmp_path, "a") / "content").read_bytes() == b"x"
    with published.staging(tmp_path) as folder:
        (folder / "half").touch()
    assert names(tmp_path) == ["a"]


def test_a_sweeper_that_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that a sweeper takes in the instant before it is locked is left to it; another one is made."""
    swept: list[Path] = []
    locked = locks.locked

    def after_a_sweep(folder: Path, *, exclusive: bool) -> object:
        monkeypatch.setattr(locks, "locked", locked)
        swept.extend(published.sweep([folder], published.is_aside))
        return locked(folder, exclusive=exclusive)

    monkeypatch.setattr(locks, "locked", after_a_sweep)
    with published.staging(tmp_path) as folder:
        assert len(swept) == 1
        assert swept != [folder]
        assert published.sweep(tmp_path.iterdir(), published.is_aside) == []
        assert names(tmp_path) == [folder.name]
    assert names(tmp_path) == []


def test_what_is_held_is_not_removed(tmp_path: Path) -> None:
    """Who holds a folder keeps it in its place, unless it has to make room for another one of its name."""
    folder = make(tmp_path, "a")
    with locks.locked(folder, exclusive=False):
        assert not published.remove(folder)
        assert names(tmp_path) == ["a"]
        published.withdraw(folder)
    assert names(tmp_path) == []
    assert published.remove(folder)


def test_what_is_not_ours_is_not_called_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's folder cannot be locked, but not because somebody uses it."""
    folder = make(tmp_path, "a")
    monkeypatch.setattr(locks, "open_lock", lambda *_, **__: os.open("/nonexistent", os.O_RDWR))
    assert not published.remove(folder)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(PermissionError, match=str(folder)):
        published.remove(folder)
