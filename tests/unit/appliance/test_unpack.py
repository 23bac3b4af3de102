"""Unpacking packages and tarballs, and what stands in for maintainer scripts."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from orchestrator.appliance.command import Deadline
from orchestrator.appliance.unpack import _unpack_one, configure, merge_usr, unpack, unpack_tarball, write_static_nodes
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError


def package(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    tree = folder / f"{name}.tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: arm64\nMaintainer: a <a@example.org>\nDescription: test\n"
    )
    for path, data in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    out = folder / f"{name}_1_arm64.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(out)], check=True, capture_output=True)
    return out


def tarball(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid = len(data), 0o755, 1234
            archive.addfile(member, io.BytesIO(data))
    return path


def new_root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    merge_usr(root, Arch.AARCH64)
    return root


def unpack_all(packages: list[Path], root: Path, excludes: list[str]) -> list[float]:
    told: list[float] = []
    unpack(packages, root, excludes, Deadline.after(60), told.append)
    return told


def test_merged_usr(tmp_path: Path) -> None:
    """What packages put into /bin and /lib lands in /usr, and the links stay links."""
    root = new_root(tmp_path)
    told = unpack_all([package(tmp_path, "one", {"bin/tool": b"1", "lib/x/y": b"2"})], root, [])
    assert (root / "usr/bin/tool").read_bytes() == b"1"
    assert (root / "usr/lib/x/y").read_bytes() == b"2"
    assert (root / "bin").is_symlink()
    assert told == [1.0]


def test_excludes(tmp_path: Path) -> None:
    """Excluded files stay out; the like-named elsewhere do not."""
    root = new_root(tmp_path)
    files = {"usr/share/doc/a/copyright": b"", "opt/usr/share/doc/b": b"", "var/log/x.log": b"", "etc/keep": b""}
    unpack_all([package(tmp_path, "one", files)], root, ["/usr/share/doc/*", "/var/log/*.log*"])
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert found == {"opt/usr/share/doc/b", "etc/keep"}


def test_damaged_package_is_named(tmp_path: Path) -> None:
    """A package that was cut off is an error that names its file."""
    path = package(tmp_path, "broken", {"etc/data": bytes(100000)})
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ApplianceError, match=r"broken_1_arm64\.deb"):
        unpack_all([path], new_root(tmp_path), [])


def test_a_full_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is what tar said first, and the archive is not to be removed."""
    for name, text in (("tar", "echo 'tar: ./a: Cannot write: No space left on device' >&2; echo end >&2; exit 2"),
                       ("dpkg-deb", "exit 0")):  # fmt: skip
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ApplianceError) as caught:
        _unpack_one(tmp_path / "x.deb", tmp_path, tmp_path / "excludes", Deadline(time.monotonic() + 10.0))
    assert (caught.value.why, caught.value.hint) == (
        "tar: ./a: Cannot write: No space left on device", "free some space"
    )  # fmt: skip


def test_tarball_follows_usr_but_not_out(tmp_path: Path) -> None:
    """A tarball's files go where the links of /usr lead, and none leaves the root."""
    root = new_root(tmp_path)
    unpack_tarball(tarball(tmp_path / "a.tar.gz", {"./lib/udev/rule": b"r", "usr/sbin/guestfsd": b"d"}), root)
    assert (root / "usr/lib/udev/rule").read_bytes() == b"r"
    assert (root / "usr/sbin/guestfsd").stat().st_mode & 0o777 == 0o755
    with pytest.raises(ApplianceError, match="leads out"):
        unpack_tarball(tarball(tmp_path / "b.tar.gz", {"../outside": b"x"}), root)
    assert not (tmp_path / "outside").exists()


def test_configure(tmp_path: Path) -> None:
    """Users, groups, alternatives and the module index are there without any script having run."""
    root = new_root(tmp_path)
    files = {
        "usr/share/base-passwd/passwd.master": b"root:*:0:0:root:/root:/bin/bash\n",
        "usr/share/base-passwd/group.master": b"root:*:0:\ndisk:*:6:\n",
        "usr/lib/sysusers.d/basic.conf": b"# x\ng disk 6\ng input - - -\ng fixed 777 -\ng late 6 -\n",
        "usr/bin/gawk": b"",
        "var/run/keep": b"",
        "usr/lib/modules/6.1/modules.builtin": b"",
        "usr/lib/modules/6.1/modules.order": b"",
    }
    unpack_all([package(tmp_path, "base", files)], root, [])
    configure(root, "6.1", Deadline.after(60))
    groups = dict(line.split(":")[::2] for line in (root / "etc/group").read_text().splitlines())
    assert groups["disk"] == "6"
    assert groups["fixed"] == "777"
    assert {"input", "late", "kvm", "render", "sgx"} <= groups.keys()
    assert len(set(groups.values())) == len(groups)
    assert (root / "usr/bin/awk").readlink() == Path("gawk")
    assert not (root / "usr/bin/pager").is_symlink()
    assert [(root / "var" / name).readlink() for name in ("lock", "run")] == [Path("../run/lock"), Path("../run")]
    assert (root / "etc/shadow").stat().st_mode & 0o777 == 0o600
    assert (root / "usr/lib/modules/6.1/modules.dep").exists()


def test_static_nodes(tmp_path: Path) -> None:
    """Each node of depmod's list becomes a device in the archive; comments do not."""
    index = tmp_path / "modules.devname"
    index.write_text("# Device nodes\nfuse fuse c10:229\ntun net/tun c10:200\nloop loop-control c10:237\nx x b7:1\n")
    write_static_nodes(index, tmp_path / "nodes.tar")
    with tarfile.open(tmp_path / "nodes.tar") as archive:
        found = {one.name: (one.ischr(), one.devmajor, one.devminor, one.mode) for one in archive}
    assert found == {
        "fuse": (True, 10, 229, 0o600),
        "net/tun": (True, 10, 200, 0o600),
        "loop-control": (True, 10, 237, 0o600),
        "x": (False, 7, 1, 0o600),
    }
