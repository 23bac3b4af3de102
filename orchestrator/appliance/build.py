"""Builds a fixed appliance for an arch from the distribution's packages, running none of their code.

Orders the steps and gathers the manifest; each step is in its own module.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import orchestrator
from orchestrator.appliance import manifest as manifests
from orchestrator.appliance import vmlinux
from orchestrator.appliance.command import Deadline
from orchestrator.appliance.fixed import open_appliance
from orchestrator.appliance.guest_files import ROOT_INIT, guest_file, root_files, scripts_digest
from orchestrator.appliance.image import write_image
from orchestrator.appliance.initrd import write_initrd
from orchestrator.appliance.kernel_form import read_plain
from orchestrator.appliance.manifest import FileRecord, Init, Manifest
from orchestrator.appliance.model import FILES, VMLINUX, Appliance
from orchestrator.appliance.packages import Package, Repository
from orchestrator.appliance.prepared import add_prepared
from orchestrator.appliance.recipe import recipe_digest
from orchestrator.appliance.store import publish, staging
from orchestrator.appliance.unpack import configure, drop_idle_rules, merge_usr, unpack, unpack_tarball
from orchestrator.appliance.vendors import DEBIAN_ARCH
from orchestrator.appliance.version import host_version, library_package
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError

Progress = Callable[[str, float | None], None]

# The library's package where the host has none whose name could be taken.
_LIBRARIES = ("libguestfs0t64", "libguestfs0")
_BUSYBOX = "busybox-static"
_TARBALLS = ("base", "daemon", "udev-rules")
_INIT_TARBALL = "init"
_README = (
    "This is a libguestfs fixed appliance for {arch}, libguestfs {version}, Linux {kernel}.\n"
    "Set LIBGUESTFS_PATH to this directory to use it. manifest.json says what it is made of.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """Which packages make the appliance."""

    arch: Arch
    library: Package
    kernel: tuple[str, ...]  # the package with the image, not the metapackage, and those with its modules
    wanted: tuple[str, ...]
    unavailable: tuple[str, ...]
    supermin: Path  # unpacked supermin.d


def _library(versions: list[Package], arch: Arch, host: str | None) -> Package:
    """Return the libguestfs package that fits the host's library.

    :raise ApplianceError: the distribution has none.
    """
    fitting = [one for one in versions if host is None or manifests.short_version(one.upstream) == host]
    if not fitting:
        has = ", ".join(one.upstream for one in versions) or "none"
        raise ApplianceError(
            "cannot build the appliance",
            f"libguestfs:{DEBIAN_ARCH[arch]}",
            f"the host's library is {host}, the distribution has {has}",
            "upgrade the host's libguestfs, or its package lists with apt-get update",
        )
    return fitting[0]


def _features(library: Package, known: dict[str, list[Package]]) -> list[str]:
    """Return the packages that libguestfs's own feature packages (libguestfs-xfs, ...) stand for."""
    features = (name for name in library.depends if name.startswith("libguestfs-") and name in known)
    needs = (need for feature in features for need in known[feature][0].depends)
    return [need for need in needs if not need.startswith("libguestfs")]


# Its image, and where a vendor has them apart, its modules: linux-modules-VERSION, linux-modules-extra-VERSION.
_KERNEL_PART = re.compile(r"linux-(image|binary|modules|modules-extra)-\d")


def _kernel_parts(package: Package) -> list[str]:
    """Return the packages of a kernel that a package of it needs."""
    names = (group.split("|")[0] for group in package.depends)
    return [name for name in names if _KERNEL_PART.match(name)]


def _kernel(repository: Repository, meta: Package, deadline: Deadline) -> tuple[str, ...]:
    """Return the packages that make the kernel for which a metapackage stands.

    :raise ApplianceError: it stands for none.
    """
    parts = _kernel_parts(meta)
    known = repository.candidates(parts, deadline)
    parts += [need for name in parts if name in known for need in _kernel_parts(known[name][0])]
    if not any(name.startswith("linux-image-") for name in parts):
        raise ApplianceError("cannot build the appliance", meta.name, "it depends on no kernel")
    available = repository.candidates(parts, deadline)  # what is only suggested may not be there
    return tuple(dict.fromkeys(name for name in parts if name in available))


def _choose(repository: Repository, arch: Arch, scratch: Path, host: str | None, deadline: Deadline) -> _Choice:
    """Find out from libguestfs's own packages what belongs into the appliance."""
    image = repository.vendor.kernels[arch]
    names = [owner] if (owner := library_package()) else list(_LIBRARIES)
    first = repository.candidates([*names, image], deadline)
    library = _library([one for name in names for one in first.get(name, [])], arch, host)
    if image not in first:
        raise ApplianceError("cannot build the appliance", image, "the distribution has no such kernel")
    known = repository.candidates(library.depends, deadline)
    [file] = repository.download(
        [f"{library.name}={library.version}"], deadline, dependencies=False, progress=lambda _: None
    )
    unpacked = scratch / "libguestfs"
    unpacked.mkdir()
    unpack([file], unpacked, [], deadline, lambda _: None)
    [supermin] = unpacked.glob("usr/lib/*/guestfs/supermin.d")
    named = (supermin / "packages").read_text().split() + _features(library, known)
    have = repository.candidates([name for group in named for name in group.split("|")], deadline)
    wanted: list[str] = []
    unavailable: list[str] = []
    for group in named:
        there = [name for name in group.split("|") if name in have]
        (wanted if there else unavailable).append(there[0] if there else group)
    return _Choice(
        arch=arch,
        library=library,
        kernel=_kernel(repository, first[image][0], deadline),
        wanted=tuple(dict.fromkeys(wanted)),
        unavailable=tuple(dict.fromkeys(unavailable)),
        supermin=supermin,
    )


def _excludes(supermin: Path) -> list[str]:
    """Return supermin's list of what stays out, except the kernel's modules: the root has them itself."""
    lines = (supermin / "excludefiles").read_text().split()
    return [line.removeprefix("-") for line in lines if line.startswith("-")]


def _install_guest_files(root: Path, supermin: Path, version: str, init: Init) -> None:
    """Put libguestfs's daemon in place, and the init: ours, or libguestfs's own.

    :raise ApplianceError: the daemon is not of the version that its package says.
    """
    for name in _TARBALLS:
        unpack_tarball(supermin / f"{name}.tar.gz", root)
    if version.encode() not in (root / "usr/sbin/guestfsd").read_bytes():
        raise ApplianceError("cannot build the appliance", "guestfsd", f"is not of version {version}")
    if init is Init.STOCK:
        unpack_tarball(supermin / f"{_INIT_TARBALL}.tar.gz", root)
        return
    ours = root / "usr/lib/guestlaunch"
    ours.mkdir(exist_ok=True)
    for name in root_files():
        text = guest_file(name)
        (ours / name).write_bytes(text)
        (ours / name).chmod(0o755 if text.startswith(b"#!") else 0o644)
        if name.endswith(".rules"):
            (root / "etc/udev/rules.d" / name).symlink_to(f"/usr/lib/guestlaunch/{name}")
    drop_idle_rules(root)
    names = ["ls", "udevadm"]  # they lie where guestfsd looks later
    (ours / "real").mkdir()
    for name in ("lvm", "parted", "sfdisk", "sgdisk"):
        if (root / "usr/sbin" / name).exists():
            (root / "usr/sbin" / name).rename(ours / "real" / name)
            names.append(name)
    for name in names:
        (root / "usr/sbin" / name).symlink_to("../lib/guestlaunch/shortcuts")
    (root / "etc/ld.so.preload").write_text("libc.so.6\n")
    (root / "init").write_bytes(guest_file(ROOT_INIT))
    (root / "init").chmod(0o755)


def _package_versions(files: Iterable[Path]) -> dict[str, str]:
    """Return name and version of package files, from the names that apt gave them."""
    parts = (file.name.split("_") for file in files)
    return {name: version.replace("%3a", ":") for name, version, _ in parts}


def _populate(
    repository: Repository, choice: _Choice, root: Path, deadline: Deadline, progress: Progress, *, init: Init
) -> tuple[dict[str, str], str]:
    """Fill the root directory; return the packages in it and the kernel's version."""
    files = repository.download(
        ["?essential", *choice.wanted],
        deadline,
        dependencies=True,
        progress=lambda done: progress("download", 0.6 * done),
    )
    alone = repository.download(
        [*choice.kernel, _BUSYBOX],
        deadline,
        dependencies=False,
        progress=lambda done: progress("download", 0.6 + 0.4 * done),
    )
    merge_usr(root, choice.arch)
    unpack(files, root, _excludes(choice.supermin), deadline, lambda done: progress("unpack", 0.7 * done))
    unpack(alone, root, ["/usr/share/*"], deadline, lambda done: progress("unpack", 0.7 + 0.3 * done))
    progress("configure", None)
    _install_guest_files(root, choice.supermin, manifests.short_version(choice.library.upstream), init)
    if init is Init.LEAN:
        add_prepared(root, choice.arch)
    versions = [path.name for path in (root / "usr/lib/modules").iterdir()]
    if len(versions) != 1:
        raise ApplianceError("cannot build the appliance", " ".join(choice.kernel), f"has modules of {versions}")
    configure(root, versions[0], deadline)
    return _package_versions([*files, *alone]), versions[0]


def build(arch: Arch, store: Path, *, init: Init = Init.LEAN, progress: Progress, deadline: Deadline) -> Appliance:
    """Build the appliance of an arch and make it the store's current one of its init.

    :param store: directory of appliances; downloads are kept in it for the next build.
    :param progress: called with the step's name and the fraction of it that is done, None where unknown.
    :raise ApplianceError: it could not be built; nothing is left behind.
    :raise CapabilityError: the host lacks a program or is no Debian.
    """
    try:
        with staging(store, arch, init) as scratch:
            return _build(arch, store, scratch, progress, deadline, init=init)
    except OSError as error:
        where = error.filename or store
        raise ApplianceError("cannot build the appliance", where, error.strerror or error) from error


def _take_kernel(packaged: Path, kernel: Path) -> None:
    """Put the packages' kernel in its place, unpacked where it is packed, and readable as the appliance is."""
    shutil.move(packaged, kernel)
    kernel.chmod(0o644)  # Ubuntu's is root's alone
    image = read_plain(kernel)
    if image is not None:
        kernel.write_bytes(image)


def _unpacked(kernel: Path, arch: Arch) -> list[str]:
    """Put the kernel, unpacked, beside the kernel, and return its name; none where QEMU could not start that."""
    if arch is not Arch.X86_64:
        return []  # arm64's Image is not packed
    image = vmlinux.unpack_kernel(kernel)
    if not vmlinux.startable(image):
        return []
    kernel.with_name(VMLINUX).write_bytes(image)
    return [VMLINUX]


def _build(arch: Arch, store: Path, scratch: Path, progress: Progress, deadline: Deadline, *, init: Init) -> Appliance:
    root, out = scratch / "tree", scratch / "out"
    root.mkdir()
    out.mkdir()
    host = host_version()
    progress("package lists", None)
    repository = Repository(arch, store / ".cache", scratch, deadline)
    if not repository.update(deadline):
        progress("earlier package lists (no network)", None)
    choice = _choose(repository, arch, scratch, host and manifests.short_version(host), deadline)
    packages, kernel = _populate(repository, choice, root, deadline, progress, init=init)
    progress("initrd", None)
    modules = write_initrd(out / "initrd", root / "usr/bin/busybox", root / "usr/lib/modules" / kernel)
    _take_kernel(root / "boot" / f"vmlinuz-{kernel}", out / "kernel")
    shutil.rmtree(root / "boot")
    (root / "boot").mkdir()
    files = [*FILES, *_unpacked(out / "kernel", arch)]
    progress("root image", None)
    uuid = write_image(root, out / "root", deadline)
    version = manifests.short_version(choice.library.upstream)
    (out / "README.fixed").write_text(_README.format(arch=arch, version=version, kernel=kernel))
    progress("digests", None)
    manifest = Manifest(
        arch=arch,
        files={name: FileRecord.of(out / name) for name in files},
        packages=packages,
        unavailable=choice.unavailable,
        libguestfs=version,
        kernel=kernel,
        modules=tuple(modules),
        root_uuid=uuid,
        built=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        builder=orchestrator.__version__,
        init=init,
        guest_scripts=scripts_digest(init),
        recipe=recipe_digest(init),
    )
    (out / manifests.NAME).write_text(manifest.to_json())
    open_appliance(out)  # what would not be accepted at a launch is not published
    name = f"{re.sub('[-:Z]', '', manifest.built)}-{secrets.token_hex(4)}"
    return open_appliance(publish(store, arch, out, name, init))
