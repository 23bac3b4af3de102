"""An appliance in one file, to travel to hosts that cannot build one: written, and unpacked without believing it.

A tar archive packed by zstd, so that people can look into it. Its manifest comes first and has the digests of all that
follows; then exactly the appliance's files, in this order. Nothing else is taken: no folders, links, extended headers,
and no name that is not ours to give. What the manifest says is bounded before anything is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from orchestrator.appliance import manifest as manifests
from orchestrator.appliance.archive_stream import (
    ArchiveError,
    check_end,
    new_file,
    read_file,
    read_text,
    write_end,
    write_file,
    write_text,
    zstd,
)
from orchestrator.appliance.fixed import open_appliance, verify
from orchestrator.appliance.manifest import FileRecord, Manifest
from orchestrator.appliance.model import FILES, VMLINUX, Appliance
from orchestrator.appliance.store import publish, staging
from orchestrator.errors import ApplianceError
from orchestrator.program import unwinding_on_sigterm

_README = "README.fixed"
_GIB = 1 << 30
# The most bytes that each file may unpack to; holes count, though they take no space.
_SIZE_MAX = {"kernel": _GIB, VMLINUX: _GIB, "initrd": _GIB, "root": 64 * _GIB}
_HINT = "export it again: guestlaunch appliance export"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What went into an archive.

    :ivar digest: of the manifest, and so of everything: who has it from a safe place can tell the archive by it.
    """

    digest: str
    manifest: Manifest


def export_appliance(appliance: Appliance, target: Path | None) -> Exported:
    """Write an appliance into a new archive, which appears when it is whole.

    :param target: a path at which there is nothing yet; None is standard output.
    :raise ApplianceError: the appliance is damaged or foreign, or the archive cannot be written.
    """
    what, named = "cannot export the appliance", target or "-"
    manifest = appliance.manifest
    if manifest is None:
        why = "it has no manifest, by which the other side could check it"
        raise ApplianceError(what, appliance.path, why, "guestlaunch appliance build makes one that has")
    text = (appliance.path / manifests.NAME).read_bytes()
    readme = appliance.path / _README
    try:
        with appliance.hold(), unwinding_on_sigterm(), new_file(target) as out:
            verify(appliance, deep=True)
            with zstd("-T0", stdin=subprocess.PIPE, stdout=out) as process:
                pipe = process.stdin
                assert pipe is not None
                write_text(pipe, manifests.NAME, text)
                write_text(pipe, _README, readme.read_bytes() if readme.exists() else b"")
                for name in _order(manifest):
                    write_file(pipe, appliance.path / name, manifest.files[name].size)
                write_end(pipe)
    except ArchiveError as error:
        raise ApplianceError(what, named, error) from error
    except OSError as error:
        raise ApplianceError(what, error.filename or named, error.strerror or error) from error
    return Exported(digest=_digest(text), manifest=manifest)


def import_appliance(source: Path | None, store: Path, *, host: str | None, digest: str | None = None) -> Appliance:
    """Unpack an archive into the store, compare all of it with its digests, and make it the current appliance.

    :param source: the archive; None is standard input.
    :param host: version of the host's libguestfs, None where it has none and so nothing to fit.
    :param digest: what the manifest's has to be.
    :raise ApplianceError: it is damaged, not an archive of ours, or not for this host. Nothing is left behind then.
    """
    what, named = "cannot import the appliance", source or "-"
    try:
        with contextlib.ExitStack() as stack:
            file = 0 if source is None else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            if source is not None:
                stack.callback(os.close, file)
            with zstd("-d", "-c", stdin=file, stdout=subprocess.PIPE) as process:
                pipe = process.stdout
                assert pipe is not None
                manifest = _manifest(read_text(pipe, manifests.NAME), named, host, digest)
                readme = read_text(pipe, _README)
                out = stack.enter_context(staging(store, manifest.arch, manifest.init)) / "out"
                out.mkdir()
                records = {name: _unpacked(pipe, out / name, manifest.files[name]) for name in _order(manifest)}
                check_end(pipe)
            (out / _README).write_bytes(readme)
            (out / manifests.NAME).write_text(replace(manifest, files=records).to_json())
            open_appliance(out)  # what would not be accepted at a launch is not published
            name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
            return open_appliance(publish(store, manifest.arch, out, name, manifest.init))
    except ArchiveError as error:
        raise ApplianceError(what, named, error, _HINT) from error
    except OSError as error:
        raise ApplianceError(what, error.filename or named, error.strerror or error) from error


def _manifest(text: bytes, named: object, host: str | None, digest: str | None) -> Manifest:
    """Return the manifest that an archive begins with, if the rest of it is worth unpacking."""
    if digest is not None and _digest(text) != digest:
        raise ArchiveError(f"the digest of its manifest is {_digest(text)}, not {digest}")
    manifest = _bounded(manifests.parse(text, named))
    _check_host(manifest, host, named)
    return manifest


def _unpacked(pipe: IO[bytes], path: Path, record: FileRecord) -> FileRecord:
    """Unpack one file and return its record with what is different here."""
    status = read_file(pipe, path, record.size)
    if not manifests.has_digest(path, record.digest):
        raise ArchiveError(f"{path.name} does not have the digest that its manifest says")
    return replace(record, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


def _check_host(manifest: Manifest, host: str | None, named: object) -> None:
    """Check that an appliance fits the host's libguestfs before all of it is unpacked.

    :raise ApplianceError: says which appliance the host needs.
    """
    if host is None:
        return
    theirs, ours = manifests.short_version(manifest.libguestfs), manifests.short_version(host)
    if theirs != ours:
        raise ApplianceError(
            "cannot import the appliance",
            named,
            f"made for libguestfs {theirs}, this host has {ours}",
            f"it needs an {manifest.arch} appliance for libguestfs {ours}: build and export that on a host with {ours}",
        )


def _digest(text: bytes) -> str:
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


def _order(manifest: Manifest) -> tuple[str, ...]:
    return (*FILES, *([VMLINUX] if VMLINUX in manifest.files else []))


def _bounded(manifest: Manifest) -> Manifest:
    """Return a manifest that nobody of ours need have written, if it can be shown and followed.

    :raise ArchiveError: it says what no build does.
    """
    for name, record in manifest.files.items():
        size: object = record.size
        if not isinstance(size, int) or not 0 < size <= _SIZE_MAX[name]:
            raise ArchiveError(f"{name} would have {size} bytes, the most is {_SIZE_MAX[name]}")
    packages = manifest.packages
    texts = [manifest.libguestfs, manifest.kernel, manifest.root_uuid, manifest.built, manifest.builder]
    texts += [manifest.guest_scripts, manifest.recipe, *manifest.unavailable, *manifest.modules]
    texts += [record.digest for record in manifest.files.values()]
    if not isinstance(packages, dict):
        raise ArchiveError("its manifest's packages are no table")
    for text in (*texts, *packages, *packages.values()):
        if not isinstance(text, str) or not text.isprintable():
            raise ArchiveError(f"its manifest has {text!r} where a printable text belongs")
    if not re.fullmatch(r"\d+\.\d+\.\d+", manifest.libguestfs):
        raise ArchiveError(f"its manifest says libguestfs {manifest.libguestfs}")
    return manifest
