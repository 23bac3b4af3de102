"""Opens an appliance directory, ours or anybody's: finds the files, checks what they are, makes the value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.appliance import manifest as manifests
from orchestrator.appliance.manifest import Init
from orchestrator.appliance.model import FILES, VMLINUX, Appliance
from orchestrator.appliance.probe import check_initrd, kernel_arch, root_format
from orchestrator.errors import ApplianceError, NotFoundError

if TYPE_CHECKING:
    from orchestrator.remembered import Remembered

_MARKERS = {Init.LEAN: frozenset({"initrd", "init", "guestfsd"}), Init.STOCK: frozenset({"initrd"})}


def open_appliance(path: Path) -> Appliance:
    """Return the fixed appliance in a directory, after cheap checks of each file's kind.

    The files' digests are not compared here: see `verify`.

    :raise NotFoundError: no such directory.
    :raise ApplianceError: a file is missing, unreadable, empty or not what it should be.
    """
    directory = path.resolve()
    if not directory.is_dir():
        hint = "guestlaunch appliance build makes one"
        raise NotFoundError("cannot open the appliance", path, "no such directory", hint)
    missing = [name for name in FILES if not (directory / name).exists()]
    if missing:
        why = f"{', '.join(missing)} missing: a fixed appliance has kernel, initrd and root"
        raise ApplianceError("cannot open the appliance", directory, why)
    manifest = manifests.load(directory)
    arch = kernel_arch(directory / "kernel")
    if manifest is not None and manifest.arch is not arch:
        why = f"{arch} kernel in an {manifest.arch} appliance"
        raise ApplianceError("the appliance is damaged", directory / "kernel", why, manifests.REBUILD)
    check_initrd(directory / "initrd")
    form, uuid = root_format(directory / "root")
    return Appliance(
        path=directory,
        arch=arch,
        kernel=directory / "kernel",
        initrd=directory / "initrd",
        root=directory / "root",
        root_format=form,
        root_uuid=uuid,
        manifest=manifest,
        markers=frozenset() if manifest is None else _MARKERS[manifest.init],
        vmlinux=directory / VMLINUX if manifest and VMLINUX in manifest.files else None,
    )


def verify(appliance: Appliance, *, deep: bool = False, verified: Remembered | None = None) -> None:
    """Check an appliance's files against its manifest; one without a manifest passes, it has nothing to compare.

    :param deep: compare all digests (seconds), not only where size, mtime or inode differ (microseconds).
    :param verified: knows which files that differ so were compared before, as those of a copied appliance.
    :raise ApplianceError: names the file and what to do.
    """
    if appliance.manifest is None:
        return
    for name, record in appliance.manifest.files.items():
        manifests.check_file(appliance.path / name, record, deep=deep, verified=verified)


def check_version(appliance: Appliance, host_version: str) -> None:
    """Check that the appliance's guestfsd fits the host's library. Passes where the version is unknown (no manifest).

    :param host_version: the library's, `1.48.6` or with a distribution's suffix.
    :raise ApplianceError: they differ: says both.
    """
    if appliance.manifest is None:
        return
    ours, theirs = manifests.short_version(appliance.manifest.libguestfs), manifests.short_version(host_version)
    if ours != theirs:
        raise ApplianceError(
            "cannot use the appliance",
            appliance.path,
            f"made for libguestfs {ours}, the host has {theirs}",
            f"{build_command(appliance)} makes one that fits; where it cannot, import one that was built for {theirs}",
        )


def check_making(appliance: Appliance) -> None:
    """Check that an appliance was made as it would be here and now. Launches do without.

    :raise ApplianceError: it was made from other guest scripts, or otherwise.
    """
    from orchestrator.appliance.guest_files import scripts_digest  # here: no launch needs them
    from orchestrator.appliance.recipe import recipe_digest

    manifest = appliance.manifest
    if manifest is None:
        return
    why = ""
    if manifest.guest_scripts != scripts_digest(manifest.init):
        why = "built from other guest scripts than this guestlaunch has"
    elif manifest.recipe != recipe_digest(manifest.init):
        why = "built in another way than this guestlaunch builds (udev's rules, links, modules of the initrd)"
    if why:
        raise ApplianceError(
            "the appliance is outdated", appliance.path, why, f"build it again: {build_command(appliance)}"
        )


def build_command(appliance: Appliance) -> str:
    """Return the command that builds another one of an appliance's kind."""
    init = f" --init {Init.STOCK}" if appliance.init is Init.STOCK else ""
    return f"guestlaunch appliance build --arch {appliance.arch}{init}"
