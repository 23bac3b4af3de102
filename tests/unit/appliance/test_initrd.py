"""The initrd: the archive as another program reads it, the order of modules, the guest's scripts."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from orchestrator.appliance import initrd
from orchestrator.appliance.guest_files import guest_file
from orchestrator.appliance.initrd import CpioEntry, module_order, write_cpio, write_initrd
from orchestrator.errors import ApplianceError

GUEST_SCRIPTS = ("initrd-init", "root-init", "marker.sh")


@pytest.fixture(scope="module")
def busybox(built_state_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The busybox of the host, else the one that a built appliance of the host's arch carries in its initrd."""
    if found := shutil.which("busybox"):
        return found
    archive = built_state_dir / "appliances" / os.uname().machine / "current" / "initrd"
    if not archive.exists() or shutil.which("cpio") is None:
        pytest.skip("neither busybox nor an appliance of the host's arch is here")
    folder = unpack(archive, tmp_path_factory.mktemp("busybox") / "initrd")
    return str(folder / "bin/busybox")


def unpack(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    data = archive.read_bytes()
    if data.startswith(bytes.fromhex("02214c18")):  # the kernel's own format of LZ4
        data = subprocess.run(["lz4", "-dc"], input=data, capture_output=True, check=True).stdout
    cpio = ["cpio", "--extract", "--make-directories", "--quiet", "--nonmatching", "dev/console"]
    subprocess.run(cpio, input=data, cwd=folder, check=True)
    return folder


def test_another_program_reads_it(tmp_path: Path) -> None:
    """GNU cpio finds the files, links, modes and contents that were written, odd lengths and all."""
    if shutil.which("cpio") is None:
        pytest.skip("cpio is not installed")
    entries = [
        CpioEntry(name="bin", mode=stat.S_IFDIR | 0o755),
        CpioEntry(name="bin/tool", mode=stat.S_IFREG | 0o750, data=b"12345"),
        CpioEntry(name="sh", mode=stat.S_IFLNK | 0o777, data=b"bin/tool"),
        CpioEntry(name="empty", mode=stat.S_IFREG | 0o644),
    ]
    with (tmp_path / "archive").open("wb") as out:
        write_cpio(entries, out)
    folder = unpack(tmp_path / "archive", tmp_path / "out")
    assert (folder / "bin/tool").read_bytes() == b"12345"
    assert stat.S_IMODE((folder / "bin/tool").stat().st_mode) == 0o750
    assert (folder / "sh").readlink() == Path("bin/tool")
    assert (folder / "empty").stat().st_size == 0


def kernel(folder: Path, dependencies: dict[str, list[str]], built_in: list[str] | None = None) -> Path:
    """Make a module directory as depmod leaves it: `modules.dep` names direct and indirect needs, nearest first."""
    (folder / "kernel").mkdir(parents=True)

    def closure(name: str) -> list[str]:
        found: list[str] = []
        for need in dependencies[name]:
            found += [one for one in [need, *closure(need)] if one not in found]
        return found

    lines = []
    for name in dependencies:
        (folder / "kernel" / f"{name}.ko").write_bytes(name.encode())
        lines.append(f"kernel/{name}.ko: {' '.join(f'kernel/{need}.ko' for need in closure(name))}".strip())
    (folder / "modules.dep").write_text("\n".join(lines) + "\n")
    (folder / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in built_in or []))
    return folder


def test_needs_come_first(tmp_path: Path) -> None:
    """Each module comes behind all that it needs, and only once."""
    needs = {"ext4": ["jbd2", "mbcache"], "jbd2": ["crc"], "mbcache": [], "crc": [], "other": [], "sd_mod": ["crc"]}
    names = [file.stem for file in module_order(kernel(tmp_path, needs), ("ext4", "sd_mod"), ())]
    assert set(names) == {"ext4", "jbd2", "mbcache", "crc", "sd_mod"}
    for name in names:
        assert all(names.index(need) < names.index(name) for need in needs[name])


def test_dashes_and_underscores(tmp_path: Path) -> None:
    """A module is found whichever of the two its file's name has."""
    assert len(module_order(kernel(tmp_path, {"crc32c-generic": []}), ("crc32c_generic",), ())) == 1


def test_built_in_is_not_missing(tmp_path: Path) -> None:
    """What the kernel has built in needs no file."""
    assert module_order(kernel(tmp_path, {}, ["virtio_pci"]), ("virtio_pci",), ()) == []


def test_missing_module_is_named(tmp_path: Path) -> None:
    """A required driver that the kernel lacks stops the build by name; an optional one does not."""
    folder = kernel(tmp_path, {"a": []})
    assert [file.stem for file in module_order(folder, ("a",), ("virtio_mmio",))] == ["a"]
    with pytest.raises(ApplianceError, match="no module virtio_scsi"):
        module_order(folder, ("virtio_scsi",), ())


def test_whole_initrd(tmp_path: Path) -> None:
    """The modules lie uncompressed in loading order, within an archive in the kernel's own format of LZ4."""
    if shutil.which("cpio") is None or shutil.which("lz4") is None:
        pytest.skip("cpio or lz4 is not installed")
    modules = kernel(tmp_path / "modules", {name: [] for name in initrd.REQUIRED})
    (modules / "kernel/ext4.ko").rename(modules / "kernel/ext4.ko.xz")
    signature = b"made by openssl" + struct.pack(">BBBBB3xI", 0, 0, 2, 4, 3, 8) + b"~Module signature appended~\n"
    (modules / "kernel/ext4.ko.xz").write_bytes(lzma.compress(b"plain ext4" + signature))
    index = modules / "modules.dep"
    index.write_text(index.read_text().replace("ext4.ko", "ext4.ko.xz"))
    (tmp_path / "busybox").write_bytes(b"busybox")
    names = write_initrd(tmp_path / "initrd", tmp_path / "busybox", modules)
    assert names == list(initrd.REQUIRED)
    assert (tmp_path / "initrd").read_bytes().startswith(bytes.fromhex("02214c18"))
    folder = unpack(tmp_path / "initrd", tmp_path / "out")
    files = sorted((folder / "modules").iterdir())
    assert [file.stem[3:] for file in files] == names
    ext4 = f"{names.index('ext4'):02}-ext4.ko"
    assert (folder / "modules" / ext4).read_bytes() == b"plain ext4"
    assert (folder / "signatures" / ext4).read_bytes() == signature
    assert (folder / "signatures" / files[0].name).read_bytes() == b""
    assert (folder / "init").read_bytes() == guest_file("initrd-init")
    assert (folder / "bin/sh").readlink() == Path("busybox")


@pytest.mark.parametrize("name", GUEST_SCRIPTS)
def test_guest_scripts_parse(busybox: str, name: str) -> None:
    """The shell that runs it in the guest understands each script."""
    done = subprocess.run([busybox, "sh", "-n"], input=guest_file(name), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_uptime_is_that_of_the_kernel(busybox: str, tmp_path: Path) -> None:
    """What a marker says is the uptime, to the hundredth of a second that /proc/uptime has."""
    (tmp_path / "marker.sh").write_bytes(guest_file("marker.sh"))
    program = f". {tmp_path}/marker.sh; uptime_now; echo $now; cut -d' ' -f1 /proc/uptime"
    said = subprocess.run([busybox, "sh", "-c", program], capture_output=True, text=True, check=True).stdout.split()
    ours, theirs = map(float, said)
    assert len(said[0].partition(".")[2]) == 6
    assert theirs - 0.05 < ours < theirs + 0.05


def test_no_control_port_is_no_error(busybox: str, tmp_path: Path) -> None:
    """Without a control port a marker says nothing and breaks nothing."""
    (tmp_path / "marker.sh").write_bytes(guest_file("marker.sh"))
    program = f". {tmp_path}/marker.sh; marker initrd; echo still here"
    done = subprocess.run([busybox, "sh", "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("still here\n", "")


@pytest.mark.parametrize(
    ("does", "why"), [("echo 'no space left' >&2; exit 1", "no space left"), ("exec sleep 60", "not done after 0.2 s")]
)
def test_a_compressor_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, why: str) -> None:
    """One that fails, and one that does not come to an end, end the build with its reason."""
    (tmp_path / "lz4").write_text(f"#!/bin/sh\n{does}\n")
    (tmp_path / "lz4").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(initrd, "_FILTER_S", 0.2)
    (tmp_path / "busybox").write_bytes(b"busybox")
    modules = kernel(tmp_path / "modules", {name: [] for name in initrd.REQUIRED})
    with pytest.raises(ApplianceError, match=f"cannot make the initrd: lz4: {why}"):
        write_initrd(tmp_path / "initrd", tmp_path / "busybox", modules)
