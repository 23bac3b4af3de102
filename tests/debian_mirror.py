"""A mirror of Debian that has what its installer needs for a base system, made of packages that apt fetches and checks.

What is in it is described by the archive's own words on each package. It is not signed: who installs from it has to be
told so (`debian-installer/allow_unauthenticated`). The installer's components are not the archive's, as not every
package mirror has those: two are made of its packages instead. One has the kernel's modules for disks and their file
systems; the other makes a base system by debootstrap, apt and grub (`data/debian/base-system.postinst`).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from tests.web import QuietHandler, serving

SUITE = "bookworm"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ARCHIVE = "http://deb.debian.org/debian"
_TIMEOUT_S = 600.0
_SCRIPT = Path(__file__).parent / "data" / "debian" / "base-system.postinst"
# What the installed system is made of, and what the component that makes it takes from packages, by patterns.
BASE = ("?priority(required)", "apt", "init", "udev", "kmod", "ifupdown", "iproute2")
_DEBOOTSTRAPS_OWN = ("usr-is-merged",)  # what it adds by itself
KERNEL, LOADER = "linux-image-cloud-arm64", "grub-efi-arm64"
_TOOLS = {
    "debootstrap": ("usr/sbin/debootstrap", "usr/share/debootstrap"),
    "perl-base": ("usr/bin/perl", "usr/lib/*/perl-base"),
    "dpkg": ("usr/bin/dpkg-deb",),
    "fdisk": ("sbin/sfdisk",),
    "e2fsprogs": ("sbin/mke2fs", "sbin/mkfs.ext4", "etc/mke2fs.conf"),
    "dosfstools": ("sbin/mkfs.fat",),
    **dict.fromkeys(
        ("libfdisk1", "libsmartcols1", "libext2fs2", "libcom-err2", "libmd0", "libzstd1", "libbz2-1.0", "liblzma5"),
        ("lib/*/*.so.*", "usr/lib/*/*.so.*"),
    ),
}
_MODULES = (
    "virtio_scsi", "virtio_blk", "ext4", "jbd2", "mbcache", "crc16", "crc32c_generic", "libcrc32c", "nls_ascii",
    "nls_cp437", "efivarfs",
)  # fmt: skip

Stanza = Mapping[str, str]


class DebianMirror:
    """Makes one, for arm64.

    :param folder: where it is made; what is in `top` is for a web server.
    :param kernel_version: of the installer's images; without, there is nothing for an installer.
    :param packages: what it is to have, with what that depends on.
    """

    _arch = "arm64"

    def __init__(
        self, folder: Path, kernel_version: str = "", packages: Sequence[str] = (*BASE, KERNEL, LOADER)
    ) -> None:
        self._apt, self.top, self._work = folder / "apt", folder / "mirror", folder / "work"
        self._kernel_version, self._packages = kernel_version, packages

    def make(self) -> None:
        """Fetch the packages, and write the lists of them."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._prepare()
        self._run("update")
        debs = self._debs()
        every = {one["Package"]: one for one in (*self._stanzas(), *debs)}  # of several versions, apt's choice
        for stanza in debs:
            self._fetch(stanza, self.top)
        udebs = [self._modules(every), self._base_system(every)] if self._kernel_version else []
        lists = {f"main/binary-{self._arch}": debs, f"main/debian-installer/binary-{self._arch}": udebs}
        self._write_dists(lists)
        shutil.rmtree(self._work, ignore_errors=True)

    def _prepare(self) -> None:
        for name in ("etc/apt.conf.d", "etc/preferences.d", "lists/partial", "cache/archives/partial"):
            (self._apt / name).mkdir(parents=True, exist_ok=True)
        (self._apt / "status").touch()
        (self._apt / "etc/sources.list").write_text(f"deb [signed-by={_KEYRING}] {_ARCHIVE} {SUITE} main\n")
        (self._apt / "apt.conf").write_text(
            f'Dir::State "{self._apt}";\nDir::State::lists "{self._apt}/lists";\n'
            f'Dir::State::status "{self._apt}/status";\nDir::Cache "{self._apt}/cache";\nDir::Etc "{self._apt}/etc";\n'
            f'APT::Architecture "{self._arch}";\nAPT::Architectures {{ "{self._arch}"; }};\n'
            'Acquire::Languages "none";\nAPT::Sandbox::User "root";\nAPT::Install-Recommends "false";\n'
        )

    def _run(self, *words: str, program: str = "apt-get") -> str:
        environment = {**os.environ, "APT_CONFIG": os.fspath(self._apt / "apt.conf"), "LC_ALL": "C"}
        command = [program, "-qq", *words] if program == "apt-get" else [program, *words]
        done = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S,
        )  # fmt: skip
        return done.stdout

    def _stanzas(self) -> Iterator[Stanza]:
        (path,) = (self._apt / "lists").glob(f"*_{SUITE}_main_binary-{self._arch}_Packages")
        for text in path.read_text().split("\n\n"):
            if text.strip():
                fields = re.findall(r"^(\S+?):[ \t]*(.*)$", text, re.MULTILINE)
                yield {**dict(fields), "": text.strip("\n")}

    def _debs(self) -> list[Stanza]:
        """Return the packages that apt would install into nothing."""
        said = self._run("--print-uris", "install", *self._packages, *_DEBOOTSTRAPS_OWN)
        wanted = set(re.findall(r"^'[^']+/([^/']+\.deb)' ", unquote(said), re.MULTILINE))
        return [one for one in self._stanzas() if Path(one["Filename"]).name in wanted]

    def _fetch(self, stanza: Stanza, folder: Path) -> Path:
        """Fetch a package; its checksum is in the list, whose own was signed for."""
        target = folder / stanza["Filename"]
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            address = f"{_ARCHIVE}/{stanza['Filename']}"
            words = ["download-file", address, os.fspath(target), f"SHA256:{stanza['SHA256']}"]
            self._run(*words, program="/usr/lib/apt/apt-helper")
        return target

    def _extracted(self, stanza: Stanza) -> Path:
        folder = self._work / stanza["Package"]
        if not folder.exists():
            package = self._fetch(stanza, self._work)
            self._run("--extract", os.fspath(package), os.fspath(folder), program="dpkg-deb")
        return folder

    def _modules(self, every: Mapping[str, Stanza]) -> Stanza:
        """Make the component with modules for disks and file systems."""
        image = self._extracted(every[f"linux-image-{self._kernel_version}"])
        content = self._work / "disk-modules"
        top = Path("lib/modules") / self._kernel_version
        for module in sorted((image / top).rglob("*.ko")):
            if module.stem in _MODULES:
                target = content / module.relative_to(image)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(module, target)
        fields = {"Package": f"disk-modules-{self._kernel_version}-di", "Kernel-Version": self._kernel_version}
        return self._component(content, fields, every[f"linux-image-{self._kernel_version}"]["Version"], "")

    def _base_system(self, every: Mapping[str, Stanza]) -> Stanza:
        """Make the component that makes a base system."""
        content = self._work / "base-system"
        for name, patterns in _TOOLS.items():
            extracted = self._extracted(every[name])
            for found in sorted(path for pattern in patterns for path in extracted.glob(pattern)):
                target = content / found.relative_to(extracted)
                target.parent.mkdir(parents=True, exist_ok=True)
                if found.is_dir():
                    shutil.copytree(found, target, symlinks=True)
                else:
                    shutil.copy2(found, target, follow_symlinks=False)
        script = _SCRIPT.read_text()
        include = ",".join(name for name in BASE if not name.startswith("?"))
        for word, value in {
            "VARIANT": "minbase", "INCLUDE": include, "SUITE": SUITE, "KERNEL": KERNEL, "LOADER": LOADER,
        }.items():  # fmt: skip
            script = script.replace(f"@{word}@", value)
        fields = {
            "Package": "base-system",
            "Depends": f"disk-modules-{self._kernel_version}-di",
            "Installer-Menu-Item": "6300",
        }
        return self._component(content, fields, "1", script)

    def _component(self, content: Path, fields: Stanza, version: str, postinst: str) -> Stanza:
        """Make a component of the installer's from what is in a folder; returns what a list says of it."""
        control = content / "DEBIAN"
        control.mkdir()
        described = {
            **fields, "Version": version, "Architecture": self._arch, "Priority": "standard",
            "Section": "debian-installer", "Maintainer": "nobody <nobody@localhost>",
            "Description": "part of a test's installation",
        }  # fmt: skip
        text = "".join(f"{key}: {value}\n" for key, value in described.items())
        (control / "control").write_text(text)
        if postinst:
            (control / "postinst").write_text(postinst)
            (control / "postinst").chmod(0o755)
        made = self.top / "pool" / f"{fields['Package']}.udeb"
        words = ["--root-owner-group", "-Zgzip", "--nocheck", "--build", os.fspath(content), os.fspath(made)]
        self._run(*words, program="dpkg-deb")
        data = made.read_bytes()
        text += f"Filename: {made.relative_to(self.top)}\nSize: {len(data)}\n"
        return {"": f"{text}MD5sum: {hashlib.md5(data).hexdigest()}\nSHA256: {hashlib.sha256(data).hexdigest()}"}

    def _write_dists(self, lists: Mapping[str, Iterable[Stanza]]) -> None:
        dists = self.top / "dists" / SUITE
        for name, stanzas in lists.items():
            (dists / name).mkdir(parents=True, exist_ok=True)
            content = "".join(f"{one['']}\n\n" for one in stanzas).encode()
            (dists / name / "Packages").write_bytes(content)
            (dists / name / "Packages.gz").write_bytes(gzip.compress(content))
            (dists / name / "Packages.xz").write_bytes(lzma.compress(content))
            about = ["Archive: oldstable", "Origin: Debian", "Label: Debian", "Version: 12", "Component: main"]
            (dists / name / "Release").write_text("\n".join([*about, f"Architecture: {self._arch}", ""]))
        head = [
            "Origin: Debian", "Label: Debian", "Suite: oldstable", f"Codename: {SUITE}", "Version: 12",
            "Date: Sat, 11 Jul 2026 09:00:00 UTC", f"Architectures: {self._arch}", "Components: main",
        ]  # fmt: skip
        files = sorted(path for path in dists.rglob("Packages*"))
        for title, kind in (("MD5Sum", "md5"), ("SHA256", "sha256")):
            head.append(f"{title}:")
            for path in files:
                content = path.read_bytes()
                head.append(f" {hashlib.new(kind, content).hexdigest()} {len(content)} {path.relative_to(dists)}")
        (dists / "Release").write_text("\n".join([*head, ""]))


@contextlib.contextmanager
def served(top: Path) -> Iterator[int]:
    """Serve a folder to this host's guests; yields the port."""
    with serving(partial(QuietHandler, directory=os.fspath(top))) as port:
        yield port
