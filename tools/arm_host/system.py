"""Makes the emulated host's system of packages and wheels: a root image, a kernel, drivers. No foreign code is run.

What maintainer scripts would do and is missed there is done here. The checkout, the appliances and our own first
process are not in it: they change more often.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

from orchestrator.appliance.command import Deadline, run
from orchestrator.appliance.image import write_image
from orchestrator.appliance.initrd import CpioEntry, driver_entries, module_order, write_cpio
from orchestrator.appliance.kernel_form import read_plain
from orchestrator.appliance.packages import Repository
from orchestrator.appliance.unpack import configure, merge_usr, unpack
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError
from tools.arm_host import chosen
from tools.arm_host.registry import register

Say = Callable[[str], None]

IMAGE, KERNEL, DRIVERS = "image", "kernel", "drivers"
_SIZE_MIB = 12288
_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
_APPLETS = ("sh", "[", "cp", "insmod", "mkdir", "mount", "reboot", "sleep", "switch_root", "umount")
# Nobody reads there.
_EXCLUDES = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/boot/System.map*")
_LINKS = {"usr/bin/awk": "mawk", "usr/bin/nawk": "mawk"}
# What libvirt-daemon-system makes as it is configured.
_LIBVIRT = "libvirt-qemu"
_LIBVIRT_UID = 64055
_CHECKOUT = "opt/guestlaunch"
_TENTH = 10


def build(out: Path, downloads: Path, lists: tuple[str, str], say: Say, deadline: Deadline) -> None:
    """Fill a folder with the system's image, its kernel, and an archive of busybox and the drivers for its disks.

    :param downloads: what the next build can use again.
    :param lists: texts of tools/packages.txt and pyproject.toml.
    :raise ApplianceError: it could not be built.
    :raise CapabilityError: this machine lacks a program or is no Debian.
    """
    packages, project = lists
    scratch = out / "scratch"
    root = scratch / "root"
    root.mkdir(parents=True)
    files = _download(packages, scratch, downloads, say, deadline)
    say(f"unpacking {len(files)} packages")
    merge_usr(root, Arch.AARCH64)
    unpack(files, root, _EXCLUDES, deadline, _tenths("unpacking", say))
    say("configuring")
    [version] = [path.name for path in (root / "usr/lib/modules").iterdir()]
    configure(root, version, deadline)
    _configure_host(root)
    register(files, root)
    say("wheels for arm64")
    _install_wheels(root, project, deadline)
    say("byte-compiling")
    _compile(root, deadline)
    say("kernel and drivers")
    _write_drivers(out / DRIVERS, root, version)
    image = root / "boot" / f"vmlinuz-{version}"
    (out / KERNEL).write_bytes(read_plain(image) or image.read_bytes())
    say("image")
    write_image(root, out / IMAGE, deadline, size_mib=_SIZE_MIB)
    shutil.rmtree(scratch)


def _download(listed: str, scratch: Path, downloads: Path, say: Say, deadline: Deadline) -> list[Path]:
    repository = Repository(Arch.AARCH64, downloads, scratch, deadline)
    say("package lists")
    if not repository.update(deadline):
        say("package lists of an earlier build (no network)")
    wanted = chosen.packages(listed)
    known = repository.candidates([name for names in wanted for name in names] + [chosen.KERNEL], deadline)
    names, lacking = chosen.offered(wanted, known)
    if lacking:
        raise ApplianceError("cannot build the arm64 system", ", ".join(lacking), "the distribution has none")
    kernel = chosen.kernel_package({name: found[0].depends for name, found in known.items()})
    say("packages")
    progress = _tenths("packages", say)
    files = repository.download(["?essential", *names], deadline, dependencies=True, progress=progress)
    # The kernel alone: what it depends on makes initrds and boot menus.
    alone = repository.download([kernel, chosen.BUSYBOX], deadline, dependencies=False, progress=lambda _: None)
    return [*files, *(file for file in alone if file not in files)]


def _tenths(what: str, say: Say) -> Callable[[float], None]:
    """Return what says how far something is, at each tenth."""
    shown = 0

    def progress(done: float) -> None:
        nonlocal shown
        if int(done * _TENTH) > shown:
            shown = int(done * _TENTH)
            say(f"{what}: {shown * _TENTH} %")

    return progress


def _configure_host(root: Path) -> None:
    """Do what packages of a host do when they are configured, and ours would have done by pip."""
    for name, target in _LINKS.items():
        if not (root / name).exists():
            (root / name).symlink_to(target)
    etc = root / "etc"
    groups = dict(line.split(":")[:3:2] for line in (etc / "group").read_text().splitlines())
    with (etc / "passwd").open("a") as passwd:
        passwd.write(f"{_LIBVIRT}:x:{_LIBVIRT_UID}:{groups['kvm']}::/var/lib/libvirt:/usr/sbin/nologin\n")
    with (etc / "group").open("a") as group:
        group.write(f"{_LIBVIRT}:x:{_LIBVIRT_UID}:{_LIBVIRT}\n")
    (etc / "hostname").write_text("arm-host\n")
    (etc / "hosts").write_text("127.0.0.1 localhost arm-host\n::1 localhost\n")
    (etc / "machine-id").write_text(f"{'a4' * 16}\n")
    environment = root / _CHECKOUT / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    for name in ("python", "python3"):
        (environment / "bin" / name).symlink_to("/usr/bin/python3")
    packages = _site_packages(root)
    packages.mkdir(parents=True)
    (packages / "_guestlaunch.pth").write_text(f"/{_CHECKOUT}\n")


def _site_packages(root: Path) -> Path:
    return root / _CHECKOUT / ".venv/lib" / f"python{_python().version}/site-packages"


def _python() -> chosen.Python:
    return chosen.Python(version=f"{sys.version_info.major}.{sys.version_info.minor}")


def _install_wheels(root: Path, project: str, deadline: Deadline) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    target = ["--no-compile", "--upgrade", "--target", str(_site_packages(root))]
    run([*pip, *target, *_python().pip_arguments(), *chosen.requirements(project)], deadline)


def _compile(root: Path, deadline: Deadline) -> None:
    """Write byte code, which is every arch's: Python as it is installed has it, and is slow to start without."""
    library = root / "usr/lib"
    folders = [library / f"python{_python().version}", library / "python3/dist-packages", _site_packages(root)]
    command = [sys.executable, "-m", "compileall", "-q", "-q", "-j", "0", "-s", str(root), "-p", "/"]
    # Some packages carry files for other Pythons, which do not compile.
    subprocess.run([*command, *map(str, folders)], timeout=deadline.left(), check=False)


def _write_drivers(out: Path, root: Path, version: str) -> None:
    modules = module_order(root / "usr/lib/modules" / version, _MODULES, ())
    entries = [
        *(CpioEntry(name=name, mode=0o040755) for name in ("bin", "dev", "proc", "system")),
        CpioEntry(name="dev/console", mode=0o020600, device=(5, 1)),
        CpioEntry(name="bin/busybox", mode=0o100755, data=(root / "usr/bin/busybox").read_bytes()),
        *(CpioEntry(name=f"bin/{applet}", mode=0o120777, data=b"busybox") for applet in _APPLETS),
        *driver_entries("modules", modules),
    ]
    out.write_bytes(archived(entries))


def archived(entries: Iterable[CpioEntry]) -> bytes:
    """Return an archive as the kernel unpacks it; several may stand one behind the other."""
    archive = BytesIO()
    write_cpio(entries, archive)
    return archive.getvalue()


def copy_sparse(source: Path, target: Path, deadline: Deadline) -> None:
    """Copy a file or a folder with its holes, by reference where the file system can."""
    run([shutil.which("cp") or "cp", "-a", "--reflink=auto", "--sparse=always", str(source), str(target)], deadline)
