"""Bad input and faults, with the real programs: one clear line, a status that is not 0, nothing left behind.

What is left behind is checked after each test by the fixture `no_leftovers`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.domain.model import Arch
from orchestrator.hypervisor import accel, kvm_proof
from orchestrator.hypervisor.emulator import host_arch
from orchestrator.hypervisor.kvm_probe import ProbeResult
from tests.disks import DiskFactory
from tests.hosts import ACCEL
from tests.running import Guestlaunch

RUN = ("run", ":", "list-filesystems")


@pytest.fixture
def damaged(appliance: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a copy of the aarch64 appliance to be damaged; `own` drops its manifest."""

    def copy(*, own: bool = False) -> Path:
        folder = tmp_path / "appliance"
        folder.mkdir()
        for file in appliance["aarch64"].iterdir():
            if file.name == "root":
                (folder / "root").symlink_to(file)
            elif not (own and file.name == "manifest.json"):
                shutil.copy2(file, folder / file.name)
        return folder

    return copy


def initrd_with_init(folder: Path, script: str | None) -> None:
    """Replace the initrd's /init by a script, or take it away."""
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    plain = subprocess.run(["lz4", "-dc", folder / "initrd"], capture_output=True, check=True, timeout=60).stdout
    subprocess.run(["cpio", "-id", "--quiet"], input=plain, cwd=unpacked, check=True, timeout=60)
    (unpacked / "init").unlink()
    if script is not None:
        (unpacked / "init").write_text(script)
        (unpacked / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(unpacked)) for path in sorted(unpacked.rglob("*")))
    with (folder / "initrd").open("wb") as archive:
        command = ["cpio", "-o", "-H", "newc", "--quiet"]
        subprocess.run(command, input=names.encode(), stdout=archive, cwd=unpacked, check=True, timeout=60)
    shutil.rmtree(unpacked)


def last_record(evidence: Path) -> dict[str, object]:
    """Return the canonical line of the test's last launch."""
    record: dict[str, object] = json.loads((evidence / "timeline.jsonl").read_text().splitlines()[-1])
    return record


def wait_for_event(evidence: Path, name: str, seconds: float = 120.0) -> dict[str, object]:
    """Wait until the log holds an event of that name, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            for line in (evidence / "events.jsonl").read_text().splitlines():
                event: dict[str, object] = json.loads(line)
                if event["event"] == name:
                    return event
        time.sleep(0.1)
    raise AssertionError(f"no event {name} within {seconds:g} s")


def qemu_of(launch_id: str) -> int:
    """Return the PID of the QEMU that runs a launch's domain."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes() if folder.name.isdigit() else b""
            if f"guest={launch_id},".encode() in words:
                return int(folder.name)
    raise AssertionError(f"no QEMU runs {launch_id}")


@pytest.mark.parametrize("name", ["kernel", "initrd", "root"])
def test_missing_file_of_the_appliance(
    guestlaunch: Guestlaunch, damaged: Callable[..., Path], disk_image: DiskFactory, name: str
) -> None:
    """Each missing file is named."""
    folder = damaged()
    (folder / name).unlink()
    result = guestlaunch("guestfish", *ACCEL, "--appliance", folder, "--", "--ro", "-a", disk_image(), *RUN)
    assert f"{name} missing" in result.error_line
    assert str(folder) in result.error_line


def test_kernel_of_the_other_arch(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], damaged: Callable[..., Path], disk_image: DiskFactory
) -> None:
    """An x86 kernel in an aarch64 appliance is refused by name, before anything starts."""
    folder = damaged(own=True)
    shutil.copy(appliance["x86_64"] / "kernel", folder / "kernel")
    result = guestlaunch("guestfish", *ACCEL, "--appliance", folder, "--", "--ro", "-a", disk_image(), *RUN)
    assert "x86_64" in result.error_line
    assert "aarch64" in result.error_line


@pytest.mark.needs("qemu-system-x86_64")
def test_aarch64_appliance_with_an_x86_profile(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], disk_image: DiskFactory
) -> None:
    """The other way round, too."""
    options = ("--accel", "tcg", "--profile", "x86_64-seabios", "--appliance", appliance["aarch64"])
    result = guestlaunch("guestfish", *options, "--", "--ro", "-a", disk_image(), *RUN)
    assert "it is for aarch64" in result.error_line


@pytest.mark.parametrize("size", [0, 100_000])
def test_truncated_initrd(
    guestlaunch: Guestlaunch, damaged: Callable[..., Path], disk_image: DiskFactory, size: int
) -> None:
    """An empty or cut-off initrd is noticed without hashing anything large."""
    folder = damaged()
    os.truncate(folder / "initrd", size)
    result = guestlaunch("guestfish", *ACCEL, "--appliance", folder, "--", "--ro", "-a", disk_image(), *RUN)
    assert str(folder / "initrd") in result.error_line


def test_changed_file_of_the_same_size(
    guestlaunch: Guestlaunch, damaged: Callable[..., Path], disk_image: DiskFactory
) -> None:
    """A file that is not what the manifest says is refused by name."""
    folder = damaged()
    with (folder / "initrd").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed")
    result = guestlaunch("guestfish", *ACCEL, "--appliance", folder, "--", "--ro", "-a", disk_image(), *RUN)
    assert str(folder / "initrd") in result.error_line


def test_appliance_of_another_libguestfs(
    guestlaunch: Guestlaunch, damaged: Callable[..., Path], disk_image: DiskFactory
) -> None:
    """The line says both versions and what to do."""
    folder = damaged()
    manifest = json.loads((folder / "manifest.json").read_text())
    host, manifest["libguestfs"] = manifest["libguestfs"], "1.99.7"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    result = guestlaunch("guestfish", *ACCEL, "--appliance", folder, "--", "--ro", "-a", disk_image(), *RUN)
    for part in ("1.99.7", host, "appliance build"):
        assert part in result.error_line


def test_missing_disk(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """A disk that is not there is named."""
    result = guestlaunch("guestfish", *ACCEL, "--", "--ro", "-a", tmp_path / "no-such-disk.img", *RUN)
    assert "no-such-disk.img" in result.error_line


def test_no_firmware_descriptor(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """Masked descriptors leave no firmware; the line names the arch and the package."""
    masks = Path(guestlaunch.environ["XDG_CONFIG_HOME"]) / "qemu" / "firmware"
    masks.mkdir(parents=True)
    try:
        for descriptor in Path("/usr/share/qemu/firmware").glob("*aarch64*.json"):
            (masks / descriptor.name).touch()
        result = guestlaunch("guestfish", *ACCEL, "--", "--ro", "-a", disk_image(), *RUN)
    finally:
        shutil.rmtree(masks.parent)
    if host_arch() is Arch.AARCH64:  # libguestfs names what it finds installed to QEMU itself there
        assert result.ok().stdout == "/dev/sda: ext4\n"
        return
    assert "no firmware descriptor for aarch64" in result.error_line
    assert "qemu-efi-aarch64" in result.error_line


def test_qemu_not_installed(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """Without QEMU for the arch (hidden in a mount namespace of the test's own), the line names the package."""
    script = 'for q in $(command -v qemu-system-aarch64); do mount --bind /dev/null "$q"; done; exec "$@"'
    command = (guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, "--", "--ro", "-a", disk_image(), *RUN)
    result = guestlaunch.run("unshare", "--mount", "sh", "-c", script, "sh", *command)
    assert "install qemu-system-arm" in result.error_line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("guestfish", "--profile", "aarch64-uefy", "--", "-a", "/dev/null", "run"), "aarch64-uefi"),
        (("guestfish", "--fw-cfg-dm", "on", "--", "run"), "--fw-cfg-dma"),
        (("guestfihs", "--", "run"), "guestfish"),
        (("guestfish", "--accel", "kwm", "--", "run"), "kvm"),
    ],
)
def test_unknown_names_get_the_nearest(guestlaunch: Guestlaunch, arguments: tuple[str, ...], says: str) -> None:
    """A mistyped profile, option, command or value is answered with what was probably meant."""
    assert says in guestlaunch(*arguments).error_line


def test_unknown_settings_key(guestlaunch: Guestlaunch, tmp_path: Path) -> None:
    """A mistyped key names its file and the nearest key."""
    config = tmp_path / "c.toml"
    config.write_text('profil = "aarch64-uefi"\n')
    line = guestlaunch("guestfish", "--config", config, "--", "run").error_line
    assert str(config) in line
    assert "did you mean 'profile'?" in line


def test_disk_open_for_writing_elsewhere(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """A second writer is refused, the disk named; the first keeps its lock."""
    disk = disk_image()
    holder = subprocess.Popen(
        [
            *("qemu-system-aarch64", "-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"),
            *("-blockdev", f"driver=raw,node-name=d,file.driver=file,file.filename={disk}"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        export = {"type": "nbd", "id": "e", "node-name": "d", "writable": True}
        for execute, arguments in (
            ("qmp_capabilities", {}),
            ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(disk) + ".sock"}}}),
            ("block-export-add", export),
        ):
            holder.stdin.write(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")
            holder.stdin.flush()
            assert b"return" in holder.stdout.readline()
        result = guestlaunch("guestfish", *ACCEL, "--", "-a", disk, *RUN)
        assert "in use" in result.error_line
        assert disk.name in result.error_line
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.communicate()


def test_no_space_in_the_state_directory(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], disk_image: DiskFactory, tmp_path: Path
) -> None:
    """A full state directory is said to be full."""
    small = tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
    options = (*ACCEL, "--state-dir", small, "--appliance", appliance["aarch64"])
    command = (guestlaunch.bin_dir / "guestlaunch", "guestfish", *options, "--", "--ro", "-a", disk_image(), *RUN)
    result = guestlaunch.run("unshare", "--mount", "sh", "-c", script, small, *command)
    assert "No space left on device" in result.error_line


@pytest.mark.usefixtures("without_firmware")
def test_kernel_panic(
    guestlaunch: Guestlaunch, damaged: Callable[..., Path], disk_image: DiskFactory, evidence: Path
) -> None:
    """A guest that panics fails at once, with the kernel's own words, not at a deadline."""
    folder = damaged(own=True)
    initrd_with_init(folder, "#!/bin/busybox sh\nexit 3\n")
    result = guestlaunch("guestfish", *ACCEL, "--appliance", folder, "--", "--ro", "-a", disk_image(), *RUN)
    assert "kernel panicked" in result.error_line
    assert "Attempted to kill init" in result.error_line
    assert any("Attempted to kill init" in line for line in last_record(evidence)["console_tail"])  # type: ignore[attr-defined]


def test_init_that_hangs(
    guestlaunch: Guestlaunch, damaged: Callable[..., Path], disk_image: DiskFactory, evidence: Path
) -> None:
    """The phase's deadline ends it; the line says which phase and shows the console's last line."""
    folder = damaged(own=True)
    initrd_with_init(folder, "#!/bin/busybox sh\necho I shall never finish >/dev/console\nwhile :; do sleep 1; done\n")
    phases = ("handoff", "kernel", "initrd", "silent")
    environ = {f"GUESTLAUNCH_DEADLINE_{name.upper()}": "8" for name in phases}
    disk = disk_image()
    result = guestlaunch("guestfish", *ACCEL, "--appliance", folder, "--", "--ro", "-a", disk, *RUN, environ=environ)
    assert "took too long: phase firmware_handoff: not over after 32.0 s" in result.error_line
    assert "I shall never finish" in result.error_line
    record = last_record(evidence)
    assert record["outcome"] == "failure"
    assert record["error_phase"] == "firmware_handoff"


@contextlib.contextmanager
def launching(guestlaunch: Guestlaunch, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start a guestfish session that waits for us at its prompt once it is launched."""
    process = guestlaunch.start(guestlaunch.bin_dir / "guestlaunch", "guestfish", *ACCEL, *arguments)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.usefixtures("without_firmware")
def test_qemu_killed_in_mid_launch(guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path) -> None:
    """A QEMU that dies while it boots is noticed at once and told with its status."""
    with launching(guestlaunch, "--", "--ro", "-a", disk_image(), *RUN) as process:
        os.kill(qemu_of(str(wait_for_event(evidence, "launch_started")["launch_id"])), signal.SIGKILL)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "QEMU ended before the launch was ready" in stderr
    assert "exit status 137" in stderr


@pytest.mark.usefixtures("without_firmware")
def test_qemu_killed_in_mid_workload(guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path) -> None:
    """A QEMU that dies under a ready tool fails the tool and the launch."""
    with launching(guestlaunch, "--", "--ro", "-a", disk_image()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("run\nlist-filesystems\n")
        process.stdin.flush()
        assert "/dev/sda" in process.stdout.readline()
        os.kill(qemu_of(str(wait_for_event(evidence, "launch_started")["launch_id"])), signal.SIGKILL)
        _, stderr = process.communicate("list-filesystems\n", timeout=30)
    assert process.returncode != 0
    assert "QEMU ended before its tool did: phase workload: exit status 137" in stderr
    assert last_record(evidence)["outcome"] == "failure"


@pytest.mark.usefixtures("without_firmware")
def test_a_guest_that_writes_nonsense_to_its_control_port(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path
) -> None:
    """Root in the guest may write what it likes, before and after its tool is served: no launch ends by it."""
    port = "/dev/virtio-ports/org.guestlaunch.control.0"
    # guestfsd's shell sees no quotes of ours.
    lines = ("init inf inf", "guestfsd nan -1", "clock 1e400 0")
    say = "; ".join(f"echo guestlaunch-marker {line} >{port}" for line in lines)
    say += f"; head -c 1000000 /dev/urandom >{port}"
    result = guestlaunch(
        "guestfish", *ACCEL, "--", "--ro", "-a", disk_image(), "run", ":", "debug", "sh", say, *RUN[1:]
    )
    assert "/dev/sda" in result.ok().stdout
    assert last_record(evidence)["outcome"] == "success"


def test_socket_path_too_long(guestlaunch: Guestlaunch, disk_image: DiskFactory, tmp_path: Path) -> None:
    """A runtime directory that is too deep for a socket is refused with what to set."""
    deep = tmp_path / ("d" * 90) / "run"
    disk = disk_image()
    result = guestlaunch(
        "guestfish", *ACCEL, "--", "--ro", "-a", disk, *RUN, environ={"GUESTLAUNCH_RUNTIME_DIR": str(deep)}
    )
    assert "socket path too long" in result.error_line
    assert "GUESTLAUNCH_RUNTIME_DIR" in result.error_line
    shutil.rmtree(tmp_path / ("d" * 90), ignore_errors=True)


@pytest.mark.usefixtures("without_firmware")
def test_paths_with_every_awkward_character(guestlaunch: Guestlaunch, disk_image: DiskFactory) -> None:
    """Spaces, commas, colons, quotes, newlines and non-ASCII letters in disk names are data, in order."""
    names = ["a space", "comma,comma", "colon:x", "quote'\"", "new\nline", "Grüße-日本", "percent%20", "back\\slash"]
    disks = [disk_image(f"{name}.img", size_mib=8 + i, files={"name": str(i)}) for i, name in enumerate(names)]
    arguments: list[str | Path] = []
    for disk in disks:
        arguments += ["-a", disk]
    result = guestlaunch(
        "guestfish",
        *ACCEL,
        "--",
        "--ro",
        "--format=raw",
        *arguments,
        "run",
        *[word for i in range(len(names)) for word in (":", "blockdev-getsize64", f"/dev/sd{chr(97 + i)}")],
    ).ok()
    assert result.stdout.split() == [str((8 + i) * 1024 * 1024) for i in range(len(names))]


@pytest.mark.usefixtures("without_firmware")
def test_environment_that_sets_libguestfs_already(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], disk_image: DiskFactory
) -> None:
    """What would break the launch is overridden with a warning; a fixed appliance named by path is used."""
    environ = {
        "LIBGUESTFS_BACKEND": "libvirt",
        "LIBGUESTFS_HV": "/bin/false",
        "LIBGUESTFS_PATH": str(appliance["aarch64"]),
        "LIBGUESTFS_MEMSIZE": "640",
    }
    command = ("guestfish", *ACCEL, "--", "--ro", "-a", disk_image(), "run", ":", "debug", "sh", "uname -m")
    result = guestlaunch(*command, environ=environ).ok()
    assert result.stdout.strip() == "aarch64"
    for name in ("LIBGUESTFS_BACKEND", "LIBGUESTFS_HV"):
        assert name in result.stderr


# Says that it is QEMU, and refuses to run a guest under KVM.
REFUSES_KVM = """#!/bin/sh
case " $* " in *" guest="*"-accel kvm "*) echo "qemu: failed to initialize kvm: Permission denied" >&2; exit 1 ;; esac
exec /usr/bin/QEMU "$@"
"""


def test_kvm_that_is_refused_at_the_launch(
    guestlaunch: Guestlaunch, disk_image: DiskFactory, evidence: Path, state_dir: Path, tmp_path: Path
) -> None:
    """Where `auto` has chosen KVM and QEMU cannot have it after all, the tool gets a guest under TCG."""
    arch = host_arch()
    if arch is None or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("this host has no /dev/kvm")
    program = tmp_path / "bin" / f"qemu-system-{arch}"
    program.parent.mkdir()
    program.write_text(REFUSES_KVM.replace("QEMU", program.name))
    program.chmod(0o755)
    verdict = ProbeResult(booted=True, reason="probe guest booted")
    kvm_proof._write(kvm_proof._file(state_dir), kvm_proof._key(str(program), accel.DEVICE), verdict)
    environ = {"PATH": f"{program.parent}:{guestlaunch.environ['PATH']}"}
    command = ("guestfish", "--profile", f"{arch}-bare", "--", "--ro", "-a", disk_image(), *RUN)
    assert guestlaunch(*command, environ=environ).ok().stdout == "/dev/sda: ext4\n"
    record = last_record(evidence)
    assert record["accel"] == "tcg"
    assert record["accel_reason"] == "QEMU refused KVM: failed to initialize kvm: Permission denied"
