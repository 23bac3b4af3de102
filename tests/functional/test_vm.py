"""guestlaunch vm: a VM of an image that boots in seconds, through its life, and each way in which none comes of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.model import Arch
from orchestrator.hypervisor.emulator import host_arch
from tests.conftest import TOP
from tests.hosts import ACCEL, accel
from tests.install_tree import make_disk, make_esp_disk, make_removable_disk
from tests.libvirt_daemons import another_users_daemon, as_another_host, program, running
from tests.records import seen
from tests.running import Guestlaunch, Result
from tests.varstore import write_boot_entry

pytestmark = pytest.mark.usefixtures("module_template")

# It resets once if it is told to, says that it is ready, and goes on.
_SYSTEM = (
    "until [ -b /dev/vda ]; do sleep 0.05; done\n"
    "if grep -q reset=once /proc/cmdline && "
    '[ "$(dd if=/dev/vda bs=512 skip=2000 count=1 2>/dev/null | head -c 5)" != again ]; then\n'
    "printf again | dd of=/dev/vda bs=512 seek=2000 conv=notrunc,fsync 2>/dev/null; reboot -f; fi\n"
    "until grep -l guestlaunch.control /sys/class/virtio-ports/*/name; do sleep 0.05; done\n"
    "if grep -q silent /proc/cmdline; then exec sleep 3600; fi\n"
    "port=$(grep -l guestlaunch.control /sys/class/virtio-ports/*/name)\n"
    "echo guestlaunch-ready >/dev/$(basename $(dirname $port))\nexec sleep 3600\n"
)


class Bench:
    """Makes VMs on a libvirt of its own.

    :ivar image: boots by the entries of `nvram` alone: plainly, after a reset, without a word.
    """

    def __init__(
        self, guestlaunch: Guestlaunch, image: Path, evidence: Path, libvirt: tuple[str, subprocess.Popen[bytes]]
    ) -> None:
        self.guestlaunch, self.image, self.evidence = guestlaunch, image, evidence
        self.uri, self.daemon = libvirt
        self.folder = image.parent
        self.made = self.folder / "vms"
        self._stack = contextlib.ExitStack()

    def close(self) -> None:
        """Remove all VMs, and what is left of them."""
        for name in self.virsh("list", "--all", "--name").split():
            subprocess.run(["virsh", "-c", self.uri, "destroy", name], check=False, capture_output=True)
            self.virsh("undefine", "--keep-nvram", name)
        shutil.rmtree(self.made, ignore_errors=True)
        self._stack.close()

    def restart(self) -> None:
        """Start libvirt's daemon again, as it was."""
        folder = Path(self.uri.partition("socket=")[2]).parent
        (folder / "libvirt-sock").unlink()
        command = [program("libvirtd"), "-f", str(folder / "libvirtd.conf"), "-p", str(folder / "libvirtd.pid")]
        self.daemon = self._stack.enter_context(running(command, folder / "libvirt-sock"))

    def words(self, command: str, *more: str | Path) -> list[str]:
        """Return a command's arguments."""
        return ["vm", command, "one", "-c", self.uri, *map(str, more)]

    def create_words(self, *more: str | Path, nvram: str = "plain", image: Path | None = None) -> list[str]:
        """Return the arguments that make a VM."""
        return self.words(
            "create", "--image", image or self.image, "--nvram", self.image.with_name(f"{nvram}.fd"), *ACCEL,
            "--memory-mib", "512", "--network", "none", "--folder", self.made, "--start", "auto", *more,
        )  # fmt: skip

    def __call__(self, command: str, *more: str | Path) -> Result:
        return self.guestlaunch(*self.words(command, *more))

    def create(self, *more: str | Path, nvram: str = "plain", image: Path | None = None) -> Result:
        """Make a VM."""
        return self.guestlaunch(*self.create_words(*more, nvram=nvram, image=image))

    def delete(self, *more: str) -> Result:
        """Remove it."""
        return self("delete", "--folder", self.made, *more)

    def left(self) -> list[str]:
        """Return what is left of VMs: files, domains."""
        files = [path.name for path in self.made.rglob("*")] if self.made.exists() else []
        return sorted([*files, *self.virsh("list", "--all", "--name").split()])

    def virsh(self, *words: str | Path) -> str:
        """Run virsh."""
        command = ["virsh", "-q", "-c", self.uri, *map(str, words)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def records(self) -> list[dict[str, Any]]:
        """Return the records of VMs."""
        lines = map(json.loads, (self.evidence / "events.jsonl").read_text().splitlines())
        return [line for line in lines if line["event"] == "vm_boot_finished"]


@pytest.fixture(scope="module")
def image(open_folder: Path, state_dir: Path, appliance: dict[str, Path]) -> Path:
    """The image, and the variables with its boot entries beside it."""
    del appliance  # only: it is there
    path = open_folder / "image.img"
    names = {"plain": "", "reset": "reset=once", "silent": "silent"}
    entries = make_disk(path, state_dir / "appliances", Arch.AARCH64, _SYSTEM, list(names.values()))
    for name, entry in zip(names, entries, strict=True):
        write_boot_entry(open_folder / f"{name}.fd", 7, entry)
    path.chmod(0o644)
    return path


@pytest.fixture
def bench(
    guestlaunch: Guestlaunch,
    image: Path,
    evidence: Path,
    system_daemon: tuple[str, subprocess.Popen[bytes]],
) -> Iterator[Bench]:
    """Somewhere to make VMs, of which nothing is left."""
    made = Bench(guestlaunch, image, evidence, system_daemon)
    yield made
    made.close()


def digest(path: Path) -> str:
    """Return a file's content, and whose it is, as one text."""
    status = path.stat()
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()} {status.st_uid} {status.st_mode:o}"


def test_the_life_of_a_vm(bench: Bench) -> None:
    """Made (a reset survived), listed, found again, stopped, started, removed; the image is as before."""
    before = digest(bench.image)
    made = bench.create("--size", "1G", "--json", nvram="reset").json()
    assert (made["how"], made["timeline"]["vm"]["told_by"]) == ("created", "the system's record")
    assert made["timeline"]["vm"]["boot_entry"] == 'Boot0007 "Tiny"'
    (record,) = bench.records()
    assert record == made["timeline"]
    assert {"plan", "stage", "create", "qemu", "firmware", "kernel", "initrd", "workload"} <= seen(record)
    assert record["launch_ns"] > 0
    (listed,) = bench.guestlaunch("vm", "list", "-c", bench.uri, "--json").json()
    assert (listed["name"], listed["state"], listed["arch"]) == ("one", "running", "aarch64")
    assert bench.left() == ["connection", "disk.qcow2", "nvram.fd", "one", "one"]
    assert "already there" in bench.create("--size", "1G", nvram="reset").ok().stdout
    other = bench.create("--size", "2G", nvram="reset")
    assert "size_bytes 1073741824, not 2147483648" in other.error_line
    assert "it runs" in bench.delete().error_line
    assert "its power button was pressed" in bench("stop", "--timeout", "0.5").error_line
    assert "off" in bench("stop", "--force").ok().stdout
    assert "started, not waited for" in bench("start", "--ready", "none").ok().stdout
    shown = bench("show", "--json").json()
    assert shown["ready"] == "the system's record"
    (bench.made / "one" / "mine").touch()
    assert "there is something else in it: mine" in bench.delete("--force").ok().stderr
    assert bench.left() == ["mine", "one"]
    assert digest(bench.image) == before


def test_interruptions(bench: Bench) -> None:
    """A signal leaves nothing. Libvirt's daemon may go in the midst of it: it is gone on with. What was killed goes."""
    process = bench.guestlaunch.start("guestlaunch", *bench.create_words(nvram="silent"))
    wait_until_it_runs(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert bench.left() == []
    cut_off = bench.guestlaunch.start("guestlaunch", *bench.create_words())
    wait_until_it_runs(cut_off)
    bench.daemon.kill()
    bench.daemon.wait()
    _, complaint = cut_off.communicate(timeout=60)
    assert "the same command again goes on" in complaint
    bench.restart()
    said = bench.create().ok()
    assert "its creation was interrupted; it goes on with the first boot" in said.stderr
    assert "one: went on" in said.stdout
    bench.delete("--force").ok()
    (bench.made / "one").mkdir(0o700, parents=True)
    (bench.made / "one" / "disk.qcow2").touch()
    assert "there is no domain" in bench.delete().ok().stderr
    assert bench.left() == []


def test_a_vm_on_another_host(guestlaunch: Guestlaunch, open_folder: Path, state_dir: Path) -> None:
    """Its disk and cloud-init's are volumes of the image's pool there; they are removed with it, and nothing else."""
    folder, data = open_folder / "e", open_folder / "user-data"
    data.write_text("#cloud-config\n")
    arch = host_arch() or Arch.X86_64
    with another_users_daemon(folder) as local:
        pool = folder / "pool"
        pool.mkdir()
        image = make_removable_disk(pool / "base.img", state_dir / "appliances", arch, _SYSTEM)
        for path in (pool, image):
            shutil.chown(path, "nobody")
        before, uri = digest(image), as_another_host(local, open_folder)

        def virsh(*words: str | Path) -> str:
            command = ["virsh", "-q", "-c", local, *map(str, words)]
            return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

        def vm(command: str, *words: str | Path) -> Result:
            return guestlaunch("vm", command, "one", "-c", uri, *words)

        virsh("pool-create-as", "tests", "dir", "--target", pool)
        words: list[str | Path] = ["--image", "vol=tests/base.img", "--memory-mib", "512", "--network", "none"]
        words += ["--accel", "tcg", "--start", "auto"]  # that user has no KVM, whatever this host has
        assert "--arch says it" in vm("create", *words).error_line
        words += ["--arch", str(arch), "--graphics", "vnc"]
        assert "a file of this host" in vm("create", *words, "--hostname", "h").error_line
        words += ["--cloud-init", data]
        made = vm("create", *words, "--json").json()
        assert (made["how"], made["timeline"]["vm"]["told_by"]) == ("created", "the system's record")
        assert sorted(path.name for path in pool.iterdir()) == ["base.img", "one-seed.img", "one.qcow2"]
        assert b"local-hostname: one\n" in (pool / "one-seed.img").read_bytes()
        assert "already there" in vm("create", *words).ok().stdout
        assert vm("show", "--json").json()["files"] == ["tests/one.qcow2", "tests/one-seed.img"]
        assert virsh("domdisplay", "one").startswith("vnc+unix:///")
        nvram = Path(virsh("dumpxml", "one").partition("<nvram")[2].partition(">")[2].partition("<")[0])
        assert nvram.exists()
        vm("delete", "--force").ok()
        assert [path.name for path in pool.iterdir()] == ["base.img"]
        assert (virsh("list", "--all", "--name").split(), nvram.exists()) == ([], False)
        assert digest(image) == before


def test_what_no_vm_is_made_of(bench: Bench) -> None:
    """A name that is taken; an image in use, of another architecture, without a loader, of no known format."""
    bench.virsh("define", foreign_domain(bench.folder))
    assert "which is none of ours" in bench.create().error_line
    assert "none of ours" in bench.delete().error_line
    bench.virsh("undefine", "one")
    assert "its UEFI loader is for aarch64, and not for x86_64" in bench.create("--profile", "x86_64-ovmf").error_line
    with running(
        ["qemu-nbd", "-t", "-f", "raw", "-k", str(bench.folder / "nbd"), str(bench.image)], bench.folder / "nbd"
    ):
        assert f"disk is in use: {bench.image}" in bench.create().error_line
    empty = make_esp_disk(bench.folder / "empty.img", {"README": b"no program"})
    assert "it has no UEFI loader" in bench.create(image=empty).error_line
    plain = bench.folder / "plain.img"
    plain.write_bytes(bytes(1 << 20))
    assert "nothing in it tells its format" in bench.create(image=plain).error_line
    assert bench.left() == []


def test_the_tour_from_python(bench: Bench, open_folder: Path) -> None:
    """The code of the room's README does what it says."""
    text = (TOP / "orchestrator/vm/README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    for name, target in (("d.img", "image.img"), ("d.img.nvram.fd", "plain.fd")):
        (open_folder / name).symlink_to(target)
    environ = {"GUESTLAUNCH_CONNECT": bench.uri, "GUESTLAUNCH_ACCEL": accel(), "GUESTLAUNCH_START": "auto"}
    said = bench.guestlaunch.run(TOP / ".venv/bin/python", "-c", code, cwd=open_folder, environ=environ).ok()
    lines = said.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("raw", "running the system's record")
    assert "its kernel boots" in lines
    assert bench.left() == []


def foreign_domain(folder: Path) -> Path:
    """Return the XML of somebody else's domain."""
    path = folder / "foreign.xml"
    path.write_text(
        "<domain type='qemu'><name>one</name><memory>65536</memory>"
        "<os><type arch='aarch64' machine='virt'>hvm</type></os>"
        "<devices><emulator>/usr/bin/qemu-system-aarch64</emulator></devices></domain>"
    )
    return path


def wait_until_it_runs(process: subprocess.Popen[str]) -> None:
    """Wait until a command says that its VM boots."""
    assert process.stderr is not None
    for line in process.stderr:
        if "the firmware runs" in line:
            return
    raise AssertionError("it never did")
