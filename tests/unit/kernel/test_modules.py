"""A kernel's modules: found where they usually are, in loading order; a kernel without any has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ApplianceError, UsageError
from orchestrator.kernel.modules import lacks_driver, module_entries, wanted
from orchestrator.kernel.share import ShareBy

VERSION = "6.12.1-me"
NAMES = wanted(share=ShareBy.P9)


def tree(folder: Path) -> Path:
    """Make a directory of modules as depmod leaves it: 9p needs two others, virtio_pci is built in."""
    home = folder / "lib/modules" / VERSION
    (home / "kernel").mkdir(parents=True)
    for name in ("9p", "9pnet", "9pnet_virtio", "netfs", "virtio_console", "unrelated"):
        (home / f"kernel/{name}.ko").write_bytes(name.encode())
    (home / "modules.dep").write_text(
        "kernel/9p.ko: kernel/netfs.ko kernel/9pnet.ko\nkernel/9pnet.ko:\nkernel/netfs.ko:\n"
        "kernel/9pnet_virtio.ko: kernel/9pnet.ko\nkernel/virtio_console.ko:\nkernel/unrelated.ko:\n"
    )
    (home / "modules.builtin").write_text("kernel/virtio_pci.ko\n")
    return home


@pytest.mark.parametrize("given", ["", "lib/modules", f"lib/modules/{VERSION}", None])
def test_where_they_are_found(tmp_path: Path, given: str | None) -> None:
    """In the directory that is named, whichever of three it is, or in that beside the kernel."""
    tree(tmp_path)
    kernel = tmp_path / "boot" / "vmlinuz"
    entries = module_entries(None if given is None else tmp_path / given, kernel, VERSION, None, NAMES)
    assert [entry.data for entry in entries[1:]] == [b"virtio_console", b"9pnet", b"netfs", b"9p", b"9pnet_virtio"]
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    assert entries[0].name == "guestlaunch/modules"


def test_a_kernel_that_has_none(tmp_path: Path) -> None:
    """Nothing is found for it, which is no error: all may be built in."""
    assert module_entries(None, tmp_path / "Image", VERSION, None, NAMES) == []
    assert module_entries(None, tmp_path / "Image", None, None, NAMES) == []


def test_what_a_kernel_is_known_to_lack(tmp_path: Path) -> None:
    """Only one whose modules are at hand: they have a driver as a file, or the kernel has it built in."""
    home, kernel = tree(tmp_path), tmp_path / "boot" / "vmlinuz"
    assert not lacks_driver(None, kernel, VERSION, ShareBy.P9)
    assert lacks_driver(None, kernel, VERSION, ShareBy.VIRTIOFS)
    (home / "modules.builtin").write_text("kernel/virtio_pci.ko\nkernel/fs/fuse/virtiofs.ko\n")
    assert not lacks_driver(home, kernel, VERSION, ShareBy.VIRTIOFS)
    assert not lacks_driver(None, tmp_path / "elsewhere" / "Image", "1.2.3", ShareBy.VIRTIOFS)


def test_a_directory_without_them(tmp_path: Path) -> None:
    """What the user named must have them; whether depmod was forgotten is said."""
    with pytest.raises(UsageError, match=f"no modules.dep in it, nor in its lib/modules/{VERSION}.*depmod"):
        module_entries(tmp_path, tmp_path / "Image", VERSION, None, NAMES)


def test_a_module_that_is_missing(tmp_path: Path) -> None:
    """It is named, and no initrd is made without it."""
    home = tree(tmp_path)
    (home / "kernel/netfs.ko").unlink()
    with pytest.raises(ApplianceError, match="netfs.ko"):
        module_entries(home, tmp_path / "Image", VERSION, None, NAMES)
