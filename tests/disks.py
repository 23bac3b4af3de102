"""Makes small disk images with the host's own tools: no guest, no root, no loop device."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator.settings import keys

MIB = 1024 * 1024

TOO_FAST = "Unable to get accurate CPU usage"
"""What qemu-img 7.2.15 and later says now and then on a fast host: its first look at how long a key takes (some 10 ms)
ended before the kernel counted any of its time. The next try starts at another moment of the kernel's clock."""


def host(*args: str | Path, stdin: str = "") -> str:
    """Run a program of the host and return what it printed; fail the test with what it said."""
    run = subprocess.run(list(map(str, args)), input=stdin, text=True, capture_output=True, timeout=120, check=False)
    assert run.returncode == 0, f"{args[0]}: {run.stdout}{run.stderr}"
    return run.stdout


def encrypted(path: Path, passphrase: str, size_mib: int = 60) -> None:
    """Make a raw image that is a LUKS container of that size, whose key costs an emulated guest little."""
    secret = ("--object", f"secret,id=passphrase,data={passphrase}")
    options = "key-secret=passphrase,iter-time=10"
    for tries_left in reversed(range(20)):
        try:
            host("qemu-img", "create", "-q", "-f", "luks", *secret, "-o", options, path, f"{size_mib}M")
        except AssertionError as failure:
            if not tries_left or TOO_FAST not in str(failure):
                raise
        else:
            return


class DiskFactory:
    """Makes disk images in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        name: str = "disk.img",
        *,
        size_mib: int = 64,
        image_format: str = "raw",
        filesystem: bool = True,
        partitioned: bool = False,
        table: str = "",
        files: Mapping[str, str] | None = None,
    ) -> Path:
        """Make one image and return its path.

        :param filesystem: put ext4 on it, holding `files` (path in the file system: text).
        :param partitioned: the file system is the first partition of an MBR disk, from 1 MiB on.
        :param table: sfdisk's description of a partition table, for a disk without a file system.
        :param image_format: "raw" or "qcow2".
        """
        path = self.folder / name
        raw = path if image_format == "raw" else path.with_name(path.name + ".raw")
        with raw.open("wb") as image:
            image.truncate(size_mib * MIB)
        if partitioned:
            table = "label: dos\nstart=1MiB, type=83\n"
        if table:
            host("/usr/sbin/sfdisk", "--quiet", raw, stdin=table)
        if filesystem:
            self._ext4(raw, offset_mib=1 if partitioned else 0, size_mib=size_mib, files=files or {})
        if raw != path:
            host("qemu-img", "convert", "-f", "raw", "-O", image_format, raw, path)
            raw.unlink()
        return path

    def _ext4(self, raw: Path, *, offset_mib: int, size_mib: int, files: Mapping[str, str]) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as content:
            for name, text in files.items():
                target = Path(content) / name.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            host(
                "/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", content,
                "-E", f"offset={offset_mib * MIB}", raw, f"{size_mib - offset_mib}M",
            )  # fmt: skip


def naming_relatively(folder: Path) -> tuple[Path, list[tuple[str, Path]]]:
    """Make images that name other files relative to the working directory of whoever opens them.

    :return: that directory, and the images: what their first bytes are, and their paths.
    """
    cwd = folder / "cwd"
    cwd.mkdir()
    (cwd / "base.img").write_bytes(b"the base".ljust(MIB))
    images = []
    create = ("qemu-img", "create", "-q", "-f", "qcow2")
    names = {
        "json": "json:{'driver':'raw','file.driver':'file','file.filename':'base.img'}",
        "file": "file:base.img",
    }
    for kind, name in names.items():
        in_cwd(cwd, *create, "-F", "raw", "-b", name, folder / f"{kind}.qcow2")
        images.append(("the base", folder / f"{kind}.qcow2"))
    in_cwd(cwd, *create, "-F", "raw", "-b", names["json"], folder / "middle.qcow2")
    upper = folder / "upper.qcow2"
    in_cwd(
        cwd,
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "middle.qcow2",
        "-o",
        "size=1M",
        "-u",
        upper,
    )
    images.append(("the base", upper))
    (cwd / "source.img").write_bytes(b"the data".ljust(MIB))
    data = folder / "data.qcow2"
    in_cwd(cwd, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "data_file=data.raw", "source.img", data)
    images.append(("the data", data))
    return cwd, images


def by_name() -> dict[str, str]:
    """Return the variable that has QEMU open files by their names in a clone, too, where root's QEMU may not."""
    return {"GUESTLAUNCH_CONFINE": "off"} if "confine" in keys() else {}


def in_cwd(cwd: Path, *args: str | Path) -> None:
    """Run a program of the host in a directory; fail the test with what it said."""
    run = subprocess.run(list(map(str, args)), text=True, capture_output=True, timeout=120, check=False, cwd=cwd)
    assert run.returncode == 0, f"{args[0]}: {run.stdout}{run.stderr}"


def bus_is_passed_on() -> bool:
    """Tell whether the host's libguestfs passes on what bus a disk is to have (`iface`): those after 1.48 do not."""
    said = host("guestfish", "--version").split()[1]
    return tuple(map(int, said.split(".")[:2])) <= (1, 48)
