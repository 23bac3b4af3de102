"""As root, QEMU has a user of its own, no rights and no network, and takes every disk that a tool may name."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# By way of our binding, which keeps libvirt from writing to stderr.
pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")

from orchestrator import priority
from orchestrator.domain.arguments import privilege_arguments
from orchestrator.domain.model import Arch, Disk, FileSource
from orchestrator.domain.passthrough import drive_option
from orchestrator.errors import MonitorError
from orchestrator.hypervisor import confinement
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.emulator import find_emulator
from orchestrator.hypervisor.handing import hand_over
from tests.disks import MIB, DiskFactory, naming_relatively
from tests.hosts import ACCEL
from tests.processes import qemus
from tests.records import events, records
from tests.running import Guestlaunch
from tests.tiny_domains import tiny_domain

if TYPE_CHECKING:
    from orchestrator.hypervisor.guest import Guest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it is about root")
NO_RIGHTS = "0000000000000000"


@contextmanager
def running(connection: Connection, setting: str, name: str, *, host_network: str | None = None) -> Iterator[Guest]:
    """Give a tiny guest that is confined as a setting says, paused."""
    cache = connection.root.path / "cache" if connection.root else Path()
    granted = confinement.privileges(
        setting, None, find_emulator(Arch.AARCH64), cache, host_network=host_network, memory_mib=64
    )
    assert granted is not None
    guest = connection.create(tiny_domain(name, qemu_args=tuple(privilege_arguments(granted))), privileges=granted)
    try:
        yield guest
    finally:
        guest.end(5)
        assert guest.log_file is not None
        guest.log_file.unlink(missing_ok=True)


def status(pid: int) -> dict[str, list[str]]:
    """Return /proc/PID/status by field."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def network(pid: int | None) -> str:
    """Return the network namespace of a process, None for our own."""
    return str(Path(f"/proc/{pid or 'self'}/ns/net").readlink())


def opens(guest: Guest, file: Path) -> bool:
    """Tell whether QEMU opens a file that its monitor names."""
    node = {"driver": "file", "node-name": "probe", "filename": str(file), "read-only": True}
    try:
        guest.qmp("blockdev-add", node)
    except MonitorError as error:
        return "Permission denied" not in str(error)
    guest.qmp("blockdev-del", {"node-name": "probe"})
    return True


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that only root may read, in a folder that all may enter."""
    file = tmp_path / "secret"
    file.write_bytes(b"x" * 512)
    file.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
    return file


def test_qemu_has_no_rights_left(embedded: Connection, no_leftovers: None, secret: Path) -> None:
    """Its user, capabilities, seccomp filters, network and bounds, as the kernel has them; root's files are closed."""
    with running(embedded, "auto", "confined") as guest, running(embedded, "auto", "another") as other:
        assert guest.pid is not None
        seen = status(guest.pid)
        assert guest.confinement is not None
        uid = str(guest.confinement.uid)
        assert int(uid) >= 20_000
        assert seen["Uid"] == seen["Gid"] == [uid] * 4
        assert seen["Groups"] in ([], [uid])
        assert [seen[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")] == [[NO_RIGHTS]] * 4
        assert int(seen["CapBnd"][0], 16).bit_count() <= 4
        assert (seen["Seccomp"], seen["NoNewPrivs"]) == (["2"], ["1"])
        assert network(guest.pid) not in {network(None), network(other.pid)}
        devices = Path(f"/proc/{guest.pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]
        assert guest.confinement.threads == 512
        assert guest.confinement.memory_mib is not None
        assert guest.confinement.memory_mib < 8192
        assert not opens(guest, secret)
        assert other.confinement is not None
        assert other.confinement.uid != guest.confinement.uid


def test_qemu_gives_way_as_whoever_starts_it(
    embedded: Connection, no_leftovers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libvirt gives QEMU a session, and the kernel each session its share: a guest in the background has less."""
    monkeypatch.setattr(priority, "session_nice", lambda: 7)
    with running(embedded, "auto", "giving-way") as guest:
        assert guest.pid is not None
        seen = Path(f"/proc/{guest.pid}/autogroup")
        assert seen.read_text().endswith(" nice 7\n")
        guest.set_nice(19)
        assert seen.read_text().endswith(" nice 19\n")
        guest.set_nice(0)
        assert seen.read_text().endswith(" nice 7\n")


def test_what_the_setting_pays_for(embedded: Connection, no_leftovers: None, secret: Path) -> None:
    """Without confinement QEMU is root, and opens what root can; its filters stay."""
    with running(embedded, "off", "unconfined") as guest:
        assert guest.pid is not None
        assert status(guest.pid)["Uid"] == ["0"] * 4
        assert status(guest.pid)["Seccomp"] == ["2"]
        assert guest.confinement == confinement.Confinement(reason="confine = off")
        assert opens(guest, secret)


def test_the_hosts_network_is_kept_where_it_is_needed(embedded: Connection, no_leftovers: None, secret: Path) -> None:
    """Then only that is left out; the reason is there for the log."""
    with running(embedded, "auto", "networked", host_network="because") as guest:
        assert guest.pid is not None
        assert network(guest.pid) == network(None)
        assert guest.confinement is not None
        assert (guest.confinement.network, guest.confinement.reason) == (False, "because")
        assert not opens(guest, secret)


def test_images_are_handed_over_with_their_locks(embedded: Connection, no_leftovers: None, tmp_path: Path) -> None:
    """A chain of files that only root may open is QEMU's to use, locked as ever; owner and mode stay."""
    base, top = tmp_path / "base.img", tmp_path / "top.qcow2"
    base.write_bytes(bytes(MIB))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", top], check=True)
    for file in (base, top):
        file.chmod(0o600)
    before = [(file.stat().st_uid, file.stat().st_mode) for file in (base, top)]
    disk = Disk(source=FileSource(path=str(top)), format="qcow2")
    with running(embedded, "auto", "handed") as guest:
        line = f'drive_add 0 "{drive_option(disk, 0, hand_over(guest, disk))}"'
        assert guest.qmp("human-monitor-command", {"command-line": line}).strip() == "OK"
        device = {"driver": "virtio-blk-pci", "drive": "drive0", "id": "disk0", "bus": "pcie.0"}
        with pytest.raises(MonitorError, match="does not support hotplugging"):
            guest.qmp("device_add", device)
        assert [(file.stat().st_uid, file.stat().st_mode) for file in (base, top)] == before
        said = guest.qmp("human-monitor-command", {"command-line": 'qemu-io drive0 "write -P 7 0 512"'})
        assert "error" not in said.lower()
    read = subprocess.run(["qemu-io", "-r", "-c", "read -P 7 0 512", top], check=True, capture_output=True, text=True)
    assert "verification failed" not in read.stdout


@pytest.mark.parametrize("start", ["cold", "warm"])
def test_a_launch_is_confined(
    guestlaunch: Guestlaunch,
    disk_image: DiskFactory,
    session_dir: Path,
    evidence: Path,
    template: Path,
    start: str,
) -> None:
    """A tool reads and writes an image of root's; all the while QEMU is nobody, with nothing."""
    disk = disk_image(files={"/motd": "from the disk"})
    disk.chmod(0o600)
    before = (disk.stat().st_uid, disk.stat().st_mode)
    options = ("--start", start, "--", "-a", disk)
    process = guestlaunch.start(guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, *options)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("run\nmount /dev/sda /\nwrite /new written\ncat /motd\n")
    process.stdin.flush()
    assert process.stdout.readline().strip() == "from the disk"
    (pid,) = qemus(session_dir)
    seen = status(pid)
    elsewhere = network(pid) != network(None)
    process.communicate("cat /new\n")
    assert process.returncode == 0
    (started,) = events(evidence, "launch_started")
    assert started["start"] == start
    assert seen["Uid"] == [str(started["confinement"]["uid"])] * 4
    assert (seen["CapEff"], seen["CapPrm"], seen["Seccomp"], seen["NoNewPrivs"]) == (
        [NO_RIGHTS],
        [NO_RIGHTS],
        ["2"],
        ["1"],
    )
    assert elsewhere
    assert (disk.stat().st_uid, disk.stat().st_mode) == before


@contextmanager
def served(image: Path, socket: Path) -> Iterator[None]:
    """Serve a raw image over NBD, to whoever connects to a socket."""
    with subprocess.Popen(["qemu-nbd", "-t", "-f", "raw", "-k", socket, image]) as server:
        try:
            end = time.monotonic() + 30
            while not socket.exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            yield
        finally:
            server.terminate()


def test_what_cannot_be_handed_over_is_opened_at_the_start(
    guestlaunch: Guestlaunch, evidence: Path, session_dir: Path, tmp_path: Path, template: Path
) -> None:
    """Images of several files, or named to QEMU alone, and the network's boot instead of being cloned, and say why.

    QEMU is confined all the same: it has opened them, all of them root's, before it gave up its rights.
    """
    for kind, options in (("vmdk", ("-o", "subformat=monolithicFlat")), ("qed", ())):
        made = ("qemu-img", "create", "-q", "-f", kind, *options, tmp_path / f"disk.{kind}", "8M")
        subprocess.run(made, check=True)
    cwd, _ = naming_relatively(tmp_path)
    (tmp_path / "raw.img").write_bytes(b"net".ljust(MIB))
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        file.chmod(0o600)
    names = ("disk.vmdk", "disk.qed", "json.qcow2", "data.qcow2")
    lines = [f"add {tmp_path / name} format:{name.partition('.')[2]}" for name in names]
    lines.append(f'add "" format:raw protocol:nbd server:unix:{tmp_path}/nbd')
    with served(tmp_path / "raw.img", tmp_path / "nbd"):
        command = (guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, "--start", "auto")
        tool = guestlaunch.start(*command, cwd=cwd)
        assert tool.stdin is not None
        assert tool.stdout is not None
        tool.stdin.write("\n".join([*lines, "run", "blockdev-getsize64 /dev/sda", ""]))
        tool.stdin.flush()
        assert tool.stdout.readline() == "8388608\n"
        (pid,) = qemus(session_dir)
        seen = status(pid)
        reads = "\n".join(f"pread-device /dev/sd{letter} 8 0" for letter in "cde")
        written = f"pwrite-device /dev/sdb qed 0\n{reads}\n"
        out, err = tool.communicate(written)
    assert (tool.returncode, out) == (0, "3\nthe basethe datanet     "), err
    (record,) = records(evidence)
    assert record["start"] == "cold"
    assert "may refer to other files" in record["start_reason"]
    (started,) = events(evidence, "launch_started")
    assert seen["Uid"] == seen["Gid"] == [str(started["confinement"]["uid"])] * 4
    assert (seen["CapEff"], seen["CapPrm"], seen["Seccomp"]) == ([NO_RIGHTS], [NO_RIGHTS], ["2"])
    assert (started["confinement"]["network"], started["confinement"]["reason"]) == (False, record["start_reason"])


def test_a_jobs_images_are_handed_over(
    guestlaunch: Guestlaunch, evidence: Path, tmp_path: Path, template: Path
) -> None:
    """A job, whose images are not trusted, is cloned for: read-only and written to, files that only root may open."""
    (tmp_path / "base").write_bytes(b"the base".ljust(MIB))
    for name in ("read", "written"):
        make = ("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", tmp_path / name)
        subprocess.run(make, check=True)
    for file in tmp_path.iterdir():
        file.chmod(0o600)
    disks = "".join(
        f'[[disks]]\npath = "{name}"\nformat = "qcow2"\nreadonly = {readonly}\n'
        for name, readonly in (("read", "true"), ("written", "false"))
    )
    commands = ["pread-device /dev/sda 8 0", "pwrite-device /dev/sdb written 0", "pread-device /dev/sdb 8 0"]
    (tmp_path / "job.toml").write_text(f"commands = {commands}\n{disks}", encoding="utf-8")
    done = guestlaunch("run", *ACCEL, "--start", "auto", tmp_path / "job.toml", "--json").ok().json()
    assert [command["output"] for command in done["commands"]] == ["the base", 7, "writtene"]
    (record,) = records(evidence)
    assert (record["start"], record["start_reason"]) == ("warm", None)
    (started,) = events(evidence, "launch_started")
    assert started["confinement"]["uid"]


@pytest.mark.usefixtures("without_firmware")
def test_a_guests_addresses_can_be_random(guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path) -> None:
    """With guest_aslr, a template of its own is built; programs that its clones start lie elsewhere in each."""
    disk = disk_image()
    script = "cat /proc/sys/kernel/randomize_va_space; grep -F [stack] /proc/self/maps"
    command = ("guestfish", *ACCEL, "--start", "warm", "--", "--ro", "-a", disk)
    environ = {"GUESTLAUNCH_GUEST_ASLR": "on"}
    said = [guestlaunch(*command, "run", ":", "debug", "sh", script, environ=environ).ok().stdout for _ in range(2)]
    assert [text.splitlines()[0] for text in said] == ["2", "2"]
    stacks = {re.findall(r"^([0-9a-f]+)-", text.splitlines()[1])[0] for text in said}
    assert len(stacks) == 2
    assert [record["start"] for record in records(evidence)] == ["warm", "warm"]
    assert len({record["template"] for record in records(evidence)}) == 1
