"""Where templates live: `STATE_DIR/templates/PROFILE-KEY/`. Published whole, swept where a build was killed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from orchestrator import locks, published
from orchestrator.appliance.manifest import digest, has_digest
from orchestrator.errors import LaunchError, NotFoundError
from orchestrator.template.model import FILES, FORMAT, MANIFEST, NVRAM, Facts, Template, key_of

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)


def home(state_dir: Path) -> Path:
    """Return the directory of all templates."""
    return state_dir / "templates"


def _directory(state_dir: Path, facts: Facts) -> Path:
    return home(state_dir) / f"{facts['profile']}-{key_of(facts)}"


def find(state_dir: Path, facts: Facts) -> Template | None:
    """Return the template for facts, None when there is none, or when it is damaged at a glance."""
    try:
        template = _read(_directory(state_dir, facts))
    except _UNREADABLE:
        return None
    intact = all(
        (template.path / name).exists() and (template.path / name).stat().st_size == size
        for name, (size, _) in template.files.items()
    )
    return template if template.files and intact and template.facts == dict(facts) else None


def templates(state_dir: Path) -> list[Template]:
    """Return all templates, those of a profile together; what cannot be read is left out."""
    found = []
    for directory in sorted(home(state_dir).glob("[!.]*")):
        try:
            found.append(_read(directory))
        except _UNREADABLE:
            continue
    return found


def _read(directory: Path) -> Template:
    said = json.loads((directory / MANIFEST).read_text())
    if said["format"] != FORMAT:
        raise ValueError(f"format {said['format']}, this guestlaunch reads {FORMAT}")
    facts = dict(said["facts"])
    if said["key"] != key_of(facts):
        raise ValueError(f"its facts are not those of {said['key']}")
    return Template(
        path=directory,
        key=said["key"],
        facts=facts,
        request=said["request"],
        files={name: (size, made) for name, (size, made) in said["files"].items()},
        built=str(said["built"]),
        seconds=float(said["seconds"]),
        learned=said.get("learned") is True,
    )


@contextmanager
def staging(state_dir: Path) -> Iterator[Path]:
    """Give a new directory for a template to be built in; it is gone afterwards unless published.

    :raise LaunchError: it cannot be made.
    """
    parent = home(state_dir)
    stack = ExitStack()
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(state_dir)
        directory = stack.enter_context(published.staging(parent))
    except OSError as error:
        raise LaunchError("cannot build the template", parent, error.strerror or error) from error
    with stack:
        yield directory


def sweep(state_dir: Path) -> list[Path]:
    """Remove what killed builds left behind, and templates that cannot be read; return what that was."""
    folders = home(state_dir).iterdir() if home(state_dir).exists() else ()
    return published.sweep(filter(Path.is_dir, folders), lambda one: published.is_aside(one) or not _readable(one))


def _readable(directory: Path) -> bool:
    try:
        _read(directory)
    except _UNREADABLE:
        return False
    return True


@contextmanager
def building(state_dir: Path) -> Iterator[None]:
    """Have one process at a time build templates; whoever waited may find it built."""
    parent = home(state_dir)
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locks.locked(parent, exclusive=True, wait=True):
        yield


def publish(
    state_dir: Path, built: Path, facts: Facts, *, request: Mapping[str, Any], seconds: float, learned: bool = False
) -> Template:
    """Make a finished directory the template for facts; one that was there before goes.

    :param built: a directory of `staging` with all files of a template.
    :param request: the launch request that it was booted for.
    :param seconds: how long the build took.
    :param learned: nobody asked for it.
    """
    names = [name for name in (*FILES, NVRAM) if (built / name).exists()]
    said = {
        "format": FORMAT,
        "key": key_of(facts),
        "facts": dict(facts),
        "request": dict(request),
        "files": {name: ((built / name).stat().st_size, digest(built / name)) for name in names},
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": seconds,
        "learned": learned,
    }
    (built / MANIFEST).write_text(json.dumps(said, indent=2) + "\n")
    final = _directory(state_dir, facts)
    if final.exists():
        published.withdraw(final)
    built.rename(final)
    return _read(final)


def damage(template: Template) -> str | None:
    """Return what is wrong with a template's files, None when they are as built. Reads them all, except for holes."""
    for name, (size, made) in template.files.items():
        file = template.path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size or not has_digest(file, made):
            return f"{name} is not as it was built"
    return None


def remove(template: Template) -> bool:
    """Remove a template unless it is in use; tell whether it is gone.

    Each clone counts as a user until it ends, although what it has mapped and opened would stay in any case.
    """
    return published.remove(template.path)


def prune(state_dir: Path, *, most_bytes: int | None = None, unused_s: float | None = None) -> list[Template]:
    """Remove templates that were not used for so long, then those not used for longest, until the rest fits.

    Those in use stay.

    :param most_bytes: the space that they may take together.
    :return: what was removed.
    """
    left = sorted(templates(state_dir), key=lambda one: one.used_s)
    takes = {one.key: one.disk_bytes for one in left}
    now, removed = time.time(), []
    for one in left:
        old = unused_s is not None and now - one.used_s > unused_s
        if (old or (most_bytes is not None and sum(takes.values()) > most_bytes)) and remove(one):
            removed.append(one)
            del takes[one.key]
    return removed


def make_room(state_dir: Path, newest: Template, *, most: int, most_bytes: int) -> list[Template]:
    """Remove templates that nobody asked for, those that were not used for longest first, until the rest fits.

    Those in use stay, and the newest, for which room is made.

    :param most: how many there may be; `most_bytes` the space that they may take together.
    :return: what was removed.
    """
    learned = sorted((one for one in templates(state_dir) if one.learned), key=lambda one: one.used_s)
    takes = {one.key: one.disk_bytes for one in learned}
    removed = []
    for one in learned:
        if len(takes) <= most and sum(takes.values()) <= most_bytes:
            break
        if one.key != newest.key and remove(one):
            removed.append(one)
            del takes[one.key]
    return removed


def lookup(state_dir: Path, name: str) -> Template:
    """Return the template whose key, or directory, starts with name.

    :raise NotFoundError: none does, or several do.
    """
    found = [one for one in templates(state_dir) if one.key.startswith(name) or one.path.name == name]
    if len(found) != 1:
        why = "there is no such template" if not found else f"{len(found)} templates start so"
        raise NotFoundError("cannot find the template", name, why, "guestlaunch template list shows them")
    return found[0]
