"""Where what was made lies, outside of any checkout, and under which names: keys of what it was made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator import files, locks, published

VARIABLE = "ARM_HOST_CACHE"
_KINDS = ("systems", "appliances", "saved")
_UNUSED_S = 14 * 24 * 3600


def default_folder(environ: Mapping[str, str]) -> Path:
    """Return the cache's folder: the variable's, else one below XDG_CACHE_HOME or ~/.cache."""
    if named := environ.get(VARIABLE):
        return Path(named).absolute()
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "guestlaunch/arm-host"


def key(*parts: object) -> str:
    """Return a short name for what is made from these values (of JSON's types)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder of all that is made."""

    folder: Path

    def place(self, kind: str, name: str) -> Path:
        """Return where something of a kind is, or will be."""
        assert kind in _KINDS
        return self.folder / kind / name

    def pointer(self, name: str) -> Path:
        """Return the file that says which saved machine has a checkout."""
        return self.folder / "checkouts" / name

    @contextlib.contextmanager
    def making(self, final: Path) -> Iterator[Path | None]:
        """Give a folder to make something in, which takes its place afterwards; None when it is there already.

        Whoever makes the same waits for the other.

        :raise OSError: it cannot be made.
        """
        final.parent.mkdir(parents=True, exist_ok=True)
        with locks.locked_file(final.parent / f".{final.name}.lock"):
            if final.exists():
                yield None
                return
            published.sweep(final.parent.glob(f"{published.ASIDE}*"), published.is_aside)
            with published.staging(final.parent) as folder:
                yield folder
                folder.rename(final)

    @contextlib.contextmanager
    def using(self, *folders: Path) -> Iterator[bool]:
        """Keep what is used from being removed; yields False when one is gone."""
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(locks.locked(folder, exclusive=False)) for folder in folders]
            if all(held):
                for folder in folders:
                    os.utime(folder)
            yield all(held)

    def drop(self, kind: str, name: str) -> None:
        """Remove something unless somebody uses it."""
        folder = self.place(kind, name)
        if folder.exists():
            published.remove(folder)

    def sweep(self) -> list[Path]:
        """Remove what nobody has used for two weeks, and what was left by builds that were killed."""
        before = time.time() - _UNUSED_S
        found = [folder for kind in _KINDS for folder in (self.folder / kind).glob("*") if folder.is_dir()]
        return published.sweep(found, lambda folder: published.is_aside(folder) or folder.stat().st_mtime < before)

    def remove(self) -> list[Path]:
        """Remove everything, and return what is still used and so stays."""
        for kind in _KINDS:
            for folder in (self.folder / kind).glob("*"):
                if folder.is_dir():
                    published.remove(folder)
        left = [folder for kind in _KINDS for folder in (self.folder / kind).glob("*") if folder.is_dir()]
        if not left and self.folder.exists():
            home = os.open(self.folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                files.remove_tree(self.folder.name, home)
            finally:
                os.close(home)
        return left
