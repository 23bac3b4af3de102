"""Kernel and initrd of an installation, on this host and checked; or the reason why they are not to be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.appliance.probe import check_initrd, kernel_arch
from orchestrator.domain.model import Arch
from orchestrator.errors import LocationError
from orchestrator.install.digest import Verification
from orchestrator.install.package import unpacked
from orchestrator.install.request import InstallRequest
from orchestrator.install.signature import KEYRINGS, is_signed
from orchestrator.install.source import TreeSource, open_source
from orchestrator.install.tree import Family, Tree, recognise

if TYPE_CHECKING:
    from orchestrator.install.download import Tell
    from orchestrator.launch.stop import Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What an installer is started from.

    :ivar tree: what the tree says of itself; of files that the user named, what they are.
    :ivar image: an ISO image that the installer gets as a disk, as it reads on from there; None for no image.
    :ivar bytes: how many came over the network, in `duration_ns`.
    """

    tree: Tree
    kernel: Path
    initrd: Path
    verification: Verification
    image: Path | None = None
    bytes: int = 0
    duration_ns: int = 0


def get_media(request: InstallRequest, cache: Path, tell: Tell, stop: Stop) -> Media:
    """Find, fetch and check kernel and initrd.

    :raise LocationError: they cannot be had, are not what they should be, or nothing says what they should be.
    :raise ApplianceError: they are no kernel, no initrd, or for another architecture than the tree says.
    """
    if request.files is not None:
        return _named(*request.files, request.arch)
    source = open_source(request.location, cache, tell, stop, lambda name: unpacked(name, cache))
    tree = recognise(source, request.arch)
    verification = _verification(source, tree, request)
    kernel, initrd = (source.fetch(path, tree.digests.get(path)) for path in (tree.kernel, tree.initrd))
    found = kernel_arch(kernel.path)
    if found is not tree.arch:
        why = f"its kernel is for {found}, and by {tree.told_by} it is for {tree.arch}"
        raise LocationError("cannot use the tree", source.where, why)
    check_initrd(initrd.path)
    return Media(
        tree=tree,
        kernel=kernel.path,
        initrd=initrd.path,
        verification=verification,
        image=Path(source.where).absolute() if source.is_image else None,
        bytes=kernel.bytes + initrd.bytes,
        duration_ns=kernel.duration_ns + initrd.duration_ns,
    )


def _named(kernel: Path, initrd: Path, wanted: Arch | None) -> Media:
    check_initrd(initrd)
    arch = kernel_arch(kernel)
    if wanted not in {None, arch}:
        raise LocationError("cannot install", kernel, f"the kernel is for {arch}, and not for {wanted}")
    tree = Tree(
        family=Family.OTHER,
        name="files named by the user",
        arch=arch,
        kernel=str(kernel),
        initrd=str(initrd),
        told_by=str(kernel),
    )
    return Media(tree=tree, kernel=kernel, initrd=initrd, verification=Verification.NAMED)


def _verification(source: TreeSource, tree: Tree, request: InstallRequest) -> Verification:
    """Return what speaks for a tree's files.

    :raise LocationError: nothing does, and that is not good enough for the user.
    """
    if source.vouched is not None:
        return Verification.PACKAGE
    if not request.verify:
        return Verification.NONE
    if {tree.kernel, tree.initrd} <= tree.digests.keys():
        if is_signed(source, tree.listed_in, request.keyrings or KEYRINGS):
            return Verification.SIGNATURE
        if request.keyrings:
            raise LocationError("no signature", source.where, "--keyring asks for one, and the tree has none")
        if source.direct:
            return Verification.CHECKSUMS
        why = "it comes by http, its list of checksums is not signed: anybody on the way may have changed both"
        raise LocationError("cannot trust the tree", source.where, why, "use https, or --unverified")
    why = f"no checksums (sha256 or better) of {tree.kernel} and {tree.initrd}"
    raise LocationError("cannot trust the tree", source.where, why, "--unverified takes it as it is")
