"""Whole command lines of libguestfs become launch requests: all of each, or an error that names the argument."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path

import pytest

from orchestrator.domain.model import Disk, DiskBus, FileSource, Network
from orchestrator.errors import TranslationError
from orchestrator.launch.request import LaunchRequest
from orchestrator.wrapper import argv
from tests.unit.wrapper.launches import (
    AARCH64_V1_48,
    CAPTURED,
    DISK,
    PASST,
    ROOT,
    SERIAL,
    SOCKET,
    X86_64_V1_58,
    launch,
)

REFUSED = {
    "iface_sd": "unknown interface 'sd'",
    "config": "-set drive.hd0.cache=none",
    "tftp": "tftp",
    "sheepdog": "sheepdog",
    "sheepdog_server": "sheepdog",
    "gluster_unix": "neither volume nor image",
    "ssh_secret": "no password",
}


def parse(arguments: list[str]) -> LaunchRequest:
    """Parse without looking at any file."""
    return argv.parse(arguments, "/cwd", block_device=lambda _: False)


def disk(arguments: list[str]) -> Disk:
    """Return the only disk of a launch."""
    (found,) = parse(arguments).disks
    return found


def path(found: Disk) -> str:
    """Return the path of a disk that is a file."""
    assert isinstance(found.source, FileSource)
    return found.source.path


@pytest.mark.parametrize("name", sorted(set(CAPTURED) - set(REFUSED)))
def test_captured_launch_is_translated(name: str) -> None:
    """Every launch that libguestfs 1.48.6 was seen to ask for is translated, with what all of them share."""
    request = parse(CAPTURED[name])
    folder = "/srv/app,li ance" if name == "odd_appliance" else "/srv/app"
    assert (request.kernel, request.initrd, request.root) == (f"{folder}/kernel", f"{folder}/initrd", f"{folder}/root")
    assert request.guestfsd_path == SOCKET
    assert request.console
    assert request.cmdline.startswith("panic=1 console=ttyS0 ")
    assert request.memory_mib == (1024 if name == "memsize_smp" else 1280)
    assert request.vcpus == (4 if name == "memsize_smp" else None)
    assert request.network == (Network(net="169.254.0.0/16") if name == "network" else None)
    assert request.accel == {"force_tcg": "tcg", "force_kvm": "kvm"}.get(name)
    assert request.extra_args == (("-s",) if name == "gdb" else ())
    assert request.start_paused is (name == "gdb")
    assert len(request.disks) == {"blocksize": 2, "mixed": 4, "thirty": 30}.get(name, 1)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_captured_launch_is_refused_by_name(name: str) -> None:
    """What QEMU or libvirt cannot do is an error that names it, and never a launch without it."""
    with pytest.raises(TranslationError) as caught:
        parse(CAPTURED[name])
    assert REFUSED[name] in str(caught.value)
    assert "pw" not in str(caught.value)


def test_plain_disk() -> None:
    """A raw read-write drive keeps path, format and cache mode, on virtio-scsi."""
    assert disk(CAPTURED["one_rw_raw"]) == Disk(
        source=FileSource(path="/srv/disks/a.img"), format="raw", bus=DiskBus.SCSI, cache="writeback"
    )


def test_probed_format_stays_unsaid() -> None:
    """A drive without format leaves probing to QEMU, because the tool asked for that."""
    assert disk(CAPTURED["one_rw_probed"]).format is None


def test_read_only_overlay() -> None:
    """A read-only drive is libguestfs's qcow2 overlay over a file that others may have open."""
    assert disk(CAPTURED["one_ro_raw"]) == Disk(
        source=FileSource(path="/tmp/libguestfsXXXXXX/overlay1.qcow2"), format="qcow2", shared_read=True, cache="unsafe"
    )


def test_overlay_of_a_network_drive() -> None:
    """The overlay of a network drive has no locking option, and its format is given the plain way."""
    found = disk(CAPTURED["nbd_ro"])
    assert (path(found), found.format, found.shared_read) == (
        "/tmp/libguestfsXXXXXX/overlay1.qcow2", "qcow2", False)  # fmt: skip


def test_odd_path_is_data() -> None:
    """Spaces, commas, colons, quotes, newlines and non-ASCII in a path arrive as they are."""
    assert path(disk(CAPTURED["odd_path"])) == "/srv/disks/sp ace,comma:colon'quote\"dq\nnl é.img"


def test_all_drive_options() -> None:
    """Cache mode, discard and copy-on-read reach the disk."""
    found = disk(CAPTURED["unsafe_discard_cor"])
    assert (found.cache, found.discard, found.copy_on_read, found.format) == ("unsafe", True, True, "raw")
    assert not found.snapshot


def test_label_and_block_sizes() -> None:
    """Serial and block sizes belong to the disk whose device carries them."""
    first, second = parse(CAPTURED["blocksize"]).disks
    assert (first.serial, first.physical_block_size, first.logical_block_size) == (None, 4096, 4096)
    assert (second.serial, second.physical_block_size, second.logical_block_size) == ("second", 512, 512)


@pytest.mark.parametrize(
    ("name", "bus"),
    [("iface_virtio", DiskBus.VIRTIO), ("iface_scsi", DiskBus.SCSI), ("iface_ide", DiskBus.SATA)],
)
def test_interface(name: str, bus: DiskBus) -> None:
    """The interfaces of libguestfs 1.48 choose the bus."""
    assert disk(CAPTURED[name]).bus is bus


def test_mixed_interfaces_keep_their_order() -> None:
    """Disks stand in the order in which they are attached, whatever the bus."""
    found = parse(CAPTURED["mixed"]).disks
    assert [(Path(path(d)).name, d.bus) for d in found] == [
        ("a.img", DiskBus.VIRTIO), ("b.img", DiskBus.SCSI), ("overlay1.qcow2", DiskBus.SCSI),
        ("overlay2.qcow2", DiskBus.SATA)]  # fmt: skip


def test_order_is_that_of_the_devices() -> None:
    """A drive defined first but attached last is the last disk."""
    drives = [part for name in ("a", "b") for part in ("-drive", f"file=/{name},cache=writeback,id=hd{name},if=none")]
    found = parse(launch(*drives, "-device", "scsi-hd,drive=hdb", "-device", "scsi-hd,drive=hda")).disks
    assert [path(d) for d in found] == ["/b", "/a"]


def test_thirty_disks_in_order() -> None:
    """More disks than letters stay in order."""
    assert [path(d) for d in parse(CAPTURED["thirty"]).disks] == [f"/srv/disks/d{i:02}.img" for i in range(30)]


def test_commas_of_the_kernel_command_line_are_single() -> None:
    """Commas are doubled in -append too; the guest gets what the user appended."""
    assert parse(CAPTURED["append"]).cmdline.endswith(" foo=a,b quiet")


def test_x86_64_from_1_58() -> None:
    """The q35 machine, bare `-cpu max`, passt's socket and a verbose SeaBIOS of newer versions are understood."""
    request = parse(X86_64_V1_58)
    assert (request.vcpus, request.accel) == (4, None)
    assert request.network == Network(stream_path="/tmp/x/passt.sock")
    assert request.disks[0].shared_read


def test_aarch64_firmware() -> None:
    """On Arm libguestfs names UEFI code and its own copy of the variables."""
    request = parse(AARCH64_V1_48)
    assert request.pflash == ("/usr/share/AAVMF/AAVMF_CODE.fd", "/tmp/libguestfsXXXXXX/vars1.fd")
    assert len(request.disks) == 1


@pytest.mark.parametrize("row", argv.NO_EFFECT, ids=str)
def test_each_row_without_effect(row: tuple[str, str | None]) -> None:
    """An argument of the table changes nothing, has a reason, and is refused with another value."""
    option, value = row
    words = [option] if value is None else [option, value]
    assert parse(launch(*words, *DISK)) == parse(launch(*DISK))
    assert len(argv.NO_EFFECT[row]) > 10
    if value is not None:
        with pytest.raises(TranslationError, match=option):
            parse(launch(option, f"{value},other=1", *DISK))


@pytest.mark.parametrize("key", argv.MACHINE_NO_EFFECT)
def test_each_machine_option_without_effect(key: str) -> None:
    """A machine option of the table changes nothing and has a reason."""
    assert parse(launch("-machine", f"virt,{key}=x,accel=tcg")) == parse(launch("-machine", "virt,accel=tcg"))
    assert len(argv.MACHINE_NO_EFFECT[key]) > 10


@pytest.mark.parametrize(
    ("middle", "named"),
    [
        (["-frobnicate"], "-frobnicate"),
        (["-drive", "file=/a,id=hd0,if=none,aio=native", "-device", "scsi-hd,drive=hd0"], "aio"),
        (["-drive", "file=/a,id=hd0,if=none,discard=ignore", "-device", "scsi-hd,drive=hd0"], "discard"),
        (["-drive", "file=/a,id=hd0,if=none,cache=fast", "-device", "scsi-hd,drive=hd0"], "fast"),
        (["-drive", "file=/a,id=hd0,if=none"], "id=hd0: no -device"),
        (["-drive", "id=hd0,if=none", "-device", "scsi-hd,drive=hd0"], "needs file="),
        (["-drive", "file=/a,if=none"], "without an id"),
        (["-drive", "file=/a,file=/b,id=hd0,if=none"], "given twice"),
        ([*DISK, *DISK[2:]], "scsi-hd,drive=hd0"),
        (["-device", "scsi-hd,drive=hd7"], "drive=hd7"),
        (["-device", "scsi-cd,drive=hd7"], "scsi-cd"),
        ([*DISK[:3], "scsi-hd,drive=hd0,rotation_rate=1"], "rotation_rate"),
        ([*DISK[:3], "scsi-hd,drive=hd0,logical_block_size=big"], "big"),
        (["-machine", "virt,accel=hax"], "accel=hax"),
        (["-machine", "virt,secure=on"], "secure=on"),
        (["-m", "2G"], "-m 2G"),
        (["-smp", "0"], "-smp 0"),
        (["-m", "1", "-m", "2"], "-m"),
        (["-serial", "pty"], "pty"),
        (["-chardev", "pty,id=channel0"], "pty"),
        ([*SERIAL[4:6]], "channel0"),
        ([*SERIAL[:-1], "virtserialport,chardev=channel0,name=org.example.0"], "org.example.0"),
        (PASST[:2], "usernet"),
        (PASST[2:], "netdev=usernet"),
        (["-netdev", "bridge,id=usernet,br=br0", *PASST[2:]], "bridge"),
        (["-netdev", "user,id=usernet,net=10.0.0.0/8,hostfwd=tcp::1-:1", *PASST[2:]], "hostfwd"),
        ([ROOT[0], "file=/r,id=appliance,if=none", *ROOT[2:]], "appliance"),
        (["-drive", "if=pflash,format=raw,file=/code,readonly"], "pflash"),
        (["-drive", "if=pflash,format=qcow2,file=/code,readonly"], "pflash"),
    ],
)
def test_unknown_is_named(middle: list[str], named: str) -> None:
    """What is not known is an error that names the argument; nothing is dropped."""
    with pytest.raises(TranslationError) as caught:
        parse(launch(*middle))
    assert named in str(caught.value)


@pytest.mark.parametrize("missing", ["-kernel", "-initrd", "-append"])
def test_no_launch_without(missing: str) -> None:
    """Kernel, initrd and command line are needed."""
    words = launch()
    at = words.index(missing)
    with pytest.raises(TranslationError, match=missing):
        parse(words[:at] + words[at + 2 :])


def test_option_without_value() -> None:
    """A command line cut off after an option says which."""
    with pytest.raises(TranslationError, match="-initrd: has no value"):
        parse(["-kernel", "/k", "-initrd"])


def test_errors_never_show_a_password() -> None:
    """A drive whose URL holds a password is named by its id only."""
    value = "file=https://joe:geheim@example.com/x,cache=writeback,id=hd3,if=none,aio=native"
    with pytest.raises(TranslationError) as caught:
        parse(launch("-drive", value, "-device", "scsi-hd,drive=hd3"))
    assert "geheim" not in str(caught.value)
    assert "id=hd3" in str(caught.value)


def test_relative_paths_are_of_the_client() -> None:
    """Paths are made absolute by the client's directory, not by ours."""
    request = parse(["-kernel", "k", "-initrd", "i", "-drive", "file=d,id=hd0,if=none", "-device", "scsi-hd,drive=hd0",
                     "-append", "x"])  # fmt: skip
    assert (request.kernel, request.initrd, path(request.disks[0])) == ("/cwd/k", "/cwd/i", "/cwd/d")


def test_block_devices_are_asked_about() -> None:
    """Whether a path is a block device is answered by the caller."""
    request = argv.parse(launch(*DISK), "/", block_device=lambda p: p == "/srv/a.img")
    assert request.disks[0].source == FileSource(path="/srv/a.img", block_device=True)


def test_block_device_of_this_host(tmp_path: Path) -> None:
    """A regular file and a missing one are no block devices."""
    assert not argv.is_block_device(__file__)
    assert not argv.is_block_device(str(tmp_path / "missing"))
    assert not argv.is_block_device("nul\0byte")


def test_root_is_not_opened(tmp_path: Path) -> None:
    """A root without format (an appliance built elsewhere) is not opened for it: the appliance itself says it."""
    image = tmp_path / "root"
    os.mkfifo(image)  # opening it would wait for a writer for ever
    root = [ROOT[0], f"file={image},snapshot=on,id=appliance,cache=unsafe,if=none", *ROOT[2:]]
    found: queue.SimpleQueue[LaunchRequest] = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(argv.parse(launch(*root), "/")), daemon=True).start()
    assert found.get(timeout=30).root == str(image)


def test_what_is_for_the_clients_own_arch() -> None:
    """Machine type and CPU are what libguestfs guesses for the client: they change nothing of the request."""
    assert parse(launch("-machine", "q35,accel=tcg", "-cpu", "host")) == parse(launch("-machine", "accel=tcg"))


def test_users_arguments_are_verbatim() -> None:
    """What follows -append is the user's, commas, order and repetition included."""
    users = ("-device", "virtio-balloon-pci,id=x", "-kernel", "a,,b", "-cpu", "5", "-cpu", "6")
    assert parse(launch(*DISK, users=users)).extra_args == users


def test_users_size_wins() -> None:
    """A second -m or -smp counts, as with QEMU; it is no argument of the user's own then, which no template serves."""
    request = parse(launch(*DISK, users=("-m", "5", "-m", "6", "-smp", "3")))
    assert (request.memory_mib, request.vcpus, request.extra_args) == (6, 3, ())
