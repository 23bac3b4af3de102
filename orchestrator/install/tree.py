"""What a distribution's tree is: its family, its architecture, where its kernel and initrd are, and their checksums.

By what the tree itself says of it: `.treeinfo` or `treeinfo` (Fedora and its kin, openSUSE), Debian's list of netboot
images or its places on a disc or in a package, openSUSE's `content`, Ubuntu's `.disk/info`. Nothing is guessed: what
says nothing of its architecture, or tells of several, needs the user's word.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.domain.model import Arch
from orchestrator.errors import LocationError
from orchestrator.install.digest import Digest, digest, read_sums
from orchestrator.install.source import TreeSource, checked, suite_of

DEBIAN_ARCHS = {Arch.AARCH64: "arm64", Arch.X86_64: "amd64"}
_ARCHS = {"aarch64": Arch.AARCH64, "arm64": Arch.AARCH64, "x86_64": Arch.X86_64, "amd64": Arch.X86_64}
_DISC_FOLDERS = {Arch.AARCH64: "install.a64", Arch.X86_64: "install.amd"}
_SUSE_HASH = re.compile(r"HASH (\S+) (\S+) +(\S+)")
_DISK_INFO = re.compile(r"([^\n]+?) - [^\n]*?\b(arm64|amd64)\b")
_SUSE_BOOT = re.compile(r"boot/(aarch64|x86_64)/(?:loader/)?(linux|initrd)")


class Family(StrEnum):
    """Whose installer it is."""

    DEBIAN = "debian"
    ANACONDA = "anaconda"  # Fedora's, and that of those after it
    SUSE = "suse"
    UBUNTU = "ubuntu"  # the live discs', which have cloud-init
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A tree that is known.

    :ivar kernel: path of the kernel within the source, and `initrd` of the initrd.
    :ivar digests: checksums by path.
    :ivar listed_in: the file that the checksums are from, empty for none.
    :ivar told_by: what it is known by.
    """

    family: Family
    name: str
    arch: Arch
    kernel: str
    initrd: str
    told_by: str
    digests: Mapping[str, Digest] = field(default_factory=dict, repr=False)
    listed_in: str = ""


def recognise(source: TreeSource, arch: Arch | None = None) -> Tree:
    """Return the tree in a source.

    :param arch: the user's word, where the tree is for several; it must be one of them.
    :raise LocationError: it is no tree that is known, for no architecture of ours, or for several.
    """
    for look in (_by_treeinfo, _by_images, _by_places, _by_content, _by_disk_info):
        found = list(look(source))
        if found:
            return _only(source, found, arch)
    hint = "name the two by --kernel and --initrd"
    why = "it has no .treeinfo, no netboot images of Debian's, no openSUSE content file and no live system of Ubuntu's"
    raise LocationError("no tree that is known", source.where, why, hint)


def _only(source: TreeSource, found: Sequence[Tree], arch: Arch | None) -> Tree:
    """Return the one tree for an architecture."""
    there = list(dict.fromkeys(tree.arch for tree in found))
    if arch is not None and arch not in there:
        named = " and ".join(there)
        raise LocationError("cannot install", source.where, f"the tree is for {named}, and not for {arch}")
    if arch is None and len(there) > 1:
        named = " and ".join(there)
        raise LocationError("cannot install", source.where, f"the tree is for {named}", "say which by --arch")
    return next(tree for tree in found if arch in {None, tree.arch})


def _by_treeinfo(source: TreeSource) -> Iterator[Tree]:
    for name in (".treeinfo", "treeinfo"):
        text = source.text(name)
        if text is not None:
            yield _read_treeinfo(source, name, text)
            return


def _read_treeinfo(source: TreeSource, name: str, text: str) -> Tree:
    info = configparser.ConfigParser(interpolation=None, strict=False)
    info.optionxform = str  # type: ignore[assignment,method-assign] # paths keep their case
    try:
        info.read_string(text)
    except configparser.Error as error:
        raise LocationError("cannot read", f"{source.where}/{name}", str(error).splitlines()[0]) from error
    said = info.get("general", "arch", fallback="") or info.get("tree", "arch", fallback="")
    arch = _ARCHS.get(said)
    if arch is None:
        why = f"it is for {said}" if said else "it does not say which architecture it is for"
        raise LocationError("cannot install", f"{source.where}/{name}", why, "aarch64 and x86_64 are known")
    images = f"images-{said}"
    kernel, initrd = (info.get(images, key, fallback="") for key in ("kernel", "initrd"))
    if not kernel or not initrd:
        raise LocationError("cannot install", f"{source.where}/{name}", f"[{images}] names no kernel and initrd")
    sums: dict[str, Digest] = {}
    if info.has_section("checksums"):
        for path, value in info.items("checksums"):
            one = digest(*value.partition(":")[::2])
            if one is not None:
                sums[checked(path)] = one
    family = info.get("general", "family", fallback="") or info.get("release", "name", fallback="")
    version = info.get("general", "version", fallback="") or info.get("release", "version", fallback="")
    return Tree(
        family=Family.SUSE if "suse" in family.lower() else Family.ANACONDA,
        name=f"{family} {version}".strip(),
        arch=arch,
        kernel=checked(kernel),
        initrd=checked(initrd),
        told_by=name,
        digests=sums,
        listed_in=name if sums else "",
    )


def _by_images(source: TreeSource) -> Iterator[Tree]:
    """Look for Debian's list of netboot images: in a suite, or where they are."""
    inside = suite_of(source.where)
    for arch, name in DEBIAN_ARCHS.items():
        tops: tuple[str, ...]
        if inside is None:
            tops = ("", "current/images/")
        elif inside.arch in {None, name}:
            tops = (f"main/installer-{name}/{inside.version}/images/",)
        else:
            continue
        for top in tops:
            sums = source.text(f"{top}SHA256SUMS")
            tree = None if sums is None else _in_images(top, sums, arch)
            if tree is not None:
                yield tree
                break


def _in_images(top: str, sums: str, arch: Arch) -> Tree | None:
    """Return the tree that a list of checksums tells of."""
    digests = {f"{top}{path}": one for path, one in read_sums(sums, "sha256").items()}
    boot = f"{top}netboot/debian-installer/{DEBIAN_ARCHS[arch]}"
    if f"{boot}/linux" not in digests or f"{boot}/initrd.gz" not in digests:
        return None
    return Tree(
        family=Family.DEBIAN,
        name="Debian netboot",
        arch=arch,
        kernel=f"{boot}/linux",
        initrd=f"{boot}/initrd.gz",
        told_by=f"{top}SHA256SUMS",
        digests=digests,
        listed_in=f"{top}SHA256SUMS",
    )


def _by_places(source: TreeSource) -> Iterator[Tree]:
    """Look where Debian's discs, archives of netboot images and packages have them. They have no list to go by."""
    for arch, name in DEBIAN_ARCHS.items():
        inside = f"debian-installer/{name}"
        for kernel, initrd in (
            (f"{inside}/linux", f"{inside}/initrd.gz"),
            (f"netboot/{inside}/linux", f"netboot/{inside}/initrd.gz"),
            (f"{_DISC_FOLDERS[arch]}/vmlinuz", f"{_DISC_FOLDERS[arch]}/initrd.gz"),
        ):
            if source.has(kernel) and source.has(initrd):
                yield Tree(
                    family=Family.DEBIAN, name="Debian installer", arch=arch, kernel=kernel, initrd=initrd,
                    told_by=kernel,
                )  # fmt: skip
                break


def _by_content(source: TreeSource) -> Iterator[Tree]:
    text = source.text("content")
    if text is None:
        return
    sums: dict[str, Digest] = {}
    boots: dict[Arch, dict[str, str]] = {}
    for line in text.splitlines():
        match = _SUSE_HASH.fullmatch(line.strip())
        if match is None:
            continue
        path = checked(match[3])
        one = digest(match[1], match[2])
        if one is not None:
            sums[path] = one
        boot = _SUSE_BOOT.fullmatch(path)
        if boot is not None:
            boots.setdefault(_ARCHS[boot[1]], {})[boot[2]] = path
    for arch, paths in boots.items():
        if {"linux", "initrd"} <= paths.keys():
            yield Tree(
                family=Family.SUSE, name=_suse_name(text), arch=arch, kernel=paths["linux"], initrd=paths["initrd"],
                told_by="content", digests=sums, listed_in="content",
            )  # fmt: skip


def _by_disk_info(source: TreeSource) -> Iterator[Tree]:
    """Look for a live system of Ubuntu's, whose disc says what it is for. Its list of checksums is of MD5."""
    text = source.text(".disk/info")
    found = None if text is None else _DISK_INFO.match(text)
    kernel, initrd = "casper/vmlinuz", "casper/initrd"
    if found is not None and source.has(kernel) and source.has(initrd):
        yield Tree(
            family=Family.UBUNTU, name=found[1].strip(), arch=_ARCHS[found[2]], kernel=kernel, initrd=initrd,
            told_by=".disk/info",
        )  # fmt: skip


def _suse_name(text: str) -> str:
    match = re.search(r"^(?:LABEL|NAME) +(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else "openSUSE"
