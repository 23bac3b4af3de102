"""guestlaunch kernel: the distribution's kernels under every profile, and each way in which a run can end."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from orchestrator.domain.model import Arch
from orchestrator.hypervisor.virtiofs import find_program
from tests.disks import DiskFactory
from tests.hosts import accel
from tests.processes import qemus
from tests.records import records, seen
from tests.running import Guestlaunch, Result
from tests.unified import stub_of, unify

# The quickest way to a user space, and another one of that arch.
QUICK, OTHER = ("aarch64-bare", "aarch64-uefi") if accel() == "kvm" else ("x86_64-bare", "x86_64-seabios")
# What is given, and what of it is started.
FORMS = {
    "aarch64-uefi": ("Image", "itself"),
    "aarch64-bare": ("Image packed by gzip", "Image"),
    "x86_64-bare": ("bzImage", "vmlinux"),
}


def packed(kernel: Path, into: Path) -> Path:
    """Return a kernel packed by gzip."""
    into.write_bytes(gzip.compress(kernel.read_bytes(), 1))
    return into


def tried(guestlaunch: Guestlaunch, *arguments: str | Path, **options: Any) -> Result:  # noqa: ANN401 - those of run()
    """Run a kernel, by default one of aarch64."""
    profile = arguments[1] if arguments[0] == "--profile" else "aarch64-uefi"
    return guestlaunch("kernel", "run", "--accel", accel(str(profile)), *arguments, **options)


def phases_of(profile: str) -> set[str]:
    """Return the phases of a run with a command that all have their dates."""
    moved: set[str] = set() if profile.endswith("-bare") else {"fw_cfg_kernel", "fw_cfg_initrd"}
    return {"firmware", "kernel", "initrd", "workload", "shutdown"} | moved


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something has happened, while a run goes on."""
    end = time.monotonic() + 150
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def kernel_of(appliance: dict[str, Path], profile: str) -> Path:
    """Return the distribution's kernel for a profile."""
    return appliance[profile.partition("-")[0]] / "kernel"


@pytest.mark.parametrize(
    ("profile", "end", "status"),
    [("aarch64-uefi", "exit 7", 7), ("aarch64-bare", "exec nosuchprogram", 127), ("x86_64-bare", "kill -9 $$", 137)],
)
def test_a_command_under_each_profile(
    guestlaunch: Guestlaunch,
    appliance: dict[str, Path],
    evidence: Path,
    tmp_path: Path,
    profile: str,
    end: str,
    status: int,
) -> None:
    """Its input, output, error and status are its own; every phase that there is has its date."""
    script = f"cat; uname -m >&2; {end}"
    text = "".join(f"line {number}\n" for number in range(5000))
    kernel = kernel_of(appliance, profile)
    if profile == "aarch64-bare":
        kernel = packed(kernel, tmp_path / "Image.gz")
    said = tried(guestlaunch, "--profile", profile, kernel, "--", "sh", "-c", script, stdin=text)
    assert (said.status, said.stdout) == (status, text), str(said)
    assert said.stderr.splitlines()[0] == profile.partition("-")[0]
    (record,) = records(evidence)
    assert (record["event"], record["kind"], record["outcome"]) == ("kernel_run_finished", "kernel", "success")
    run = record["kernel_run"]
    assert (run["verdict"], run["exit_status"], run["command"]) == ("command", status, ["sh", "-c", script])
    assert run["version"] == record["versions"]["kernel"]
    assert (run["form"], run["started_as"]) == FORMS[profile]
    assert phases_of(profile) <= seen(record)


def test_a_directory_by_virtiofs(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], evidence: Path, tmp_path: Path
) -> None:
    """Served by a program of its own, which cannot write there either; QEMU needs none of root's rights for it."""
    if find_program() is None:
        pytest.skip("virtiofsd is not installed")
    (tmp_path / "file").write_text("shared\n")
    profile = "aarch64-bare"
    said = tried(
        guestlaunch, "--profile", profile, "--share", tmp_path, "--share-by", "virtiofs", kernel_of(appliance, profile),
        "--", "sh", "-c", "cat file; mount -o remount,rw /mnt; touch new; grep /mnt /proc/mounts",
    )  # fmt: skip
    assert said.stdout.splitlines() == ["shared", "guestlaunch /mnt virtiofs rw,relatime 0 0"], str(said)
    assert "touch: new: Read-only file system" in said.stderr
    begun = json.loads((evidence / "events.jsonl").read_text().splitlines()[0])
    assert begun["event"] == "launch_started"
    if os.geteuid() == 0:
        assert begun["confinement"]["uid"] is not None, begun


@pytest.mark.needs("qemu-system-x86_64")
def test_what_a_guest_is_told(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], disk_image: DiskFactory, evidence: Path, tmp_path: Path
) -> None:
    """fw_cfg, a credential, disks, a directory that cannot be written to; over slow transfers, by OVMF."""
    share = tmp_path / "share"
    share.mkdir()
    (share / "file").write_text("shared\n")
    script = share / "run"
    script.write_text(
        "#!/bin/sh\ncat file; touch new 2>/dev/null && echo written\n"
        "cat /sys/firmware/qemu_fw_cfg/by_name/opt/org.example/a/raw; echo\n"
        'strings /sys/firmware/dmi/entries/11-*/raw | grep -F credential\necho "$@"\n'
        "for disk in /sys/block/sd?; do cat $disk/ro; done | sort\ncat; echo error >&2; exit 7\n"
    )
    script.chmod(0o755)
    profile = "x86_64-ovmf"
    said = tried(
        guestlaunch, "--profile", profile, "--fw-cfg-dma", "off", "--share", share, "--fw-cfg",
        "opt/org.example/a=x,y=z", "--credential", "my.secret=se,cret", "--disk", disk_image("a.img"), "--disk-ro",
        disk_image("b.img"), kernel_of(appliance, profile), "--", "./run", "a b", "", stdin="typed\n",
    )  # fmt: skip
    assert (said.status, said.stderr) == (7, "error\n"), str(said)
    assert said.stdout.splitlines() == [
        "shared", "x,y=z", "io.systemd.credential:my.secret=se,cret", "a b ", "0", "1", "typed",
    ]  # fmt: skip
    (record,) = records(evidence)
    assert record["fw_cfg_dma"] is False
    assert phases_of(profile) <= seen(record)
    log = (evidence / "events.jsonl").read_text()
    assert "se,cret" not in log


@pytest.mark.parametrize(
    ("script", "status", "verdict"),
    [
        ("echo c >/proc/sysrq-trigger", 121, "panic"),
        ("poweroff -f", 125, "unjudged"),
    ],
)
def test_ways_to_end_without_a_record(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], evidence: Path, script: str, status: int, verdict: str
) -> None:
    """Only the command's own end is a verdict of the command's."""
    kernel = kernel_of(appliance, QUICK)
    said = tried(guestlaunch, "--profile", QUICK, "--timeout", "150", kernel, "--", "sh", "-c", script)
    assert said.status == status, str(said)
    assert records(evidence)[0]["kernel_run"]["verdict"] == verdict


def test_a_kernel_that_firmware_refuses(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], evidence: Path, tmp_path: Path
) -> None:
    """A truncated one: the firmware's own line says that it goes on to other things."""
    cut = tmp_path / "Image"
    cut.write_bytes((appliance["aarch64"] / "kernel").read_bytes()[:3_000_000])
    said = tried(guestlaunch, cut, "--", "true")
    assert said.status == 122, str(said)
    assert "the firmware did not start the kernel" in said.stderr
    assert records(evidence)[0]["error_phase"] == "firmware_handoff"


def test_a_user_space_that_never_comes(guestlaunch: Guestlaunch, appliance: dict[str, Path], evidence: Path) -> None:
    """Soon enough: what cannot be seen of a quiet kernel has one deadline, that of all its phases."""
    phases = ("FIRMWARE", "TRANSFER", "HANDOFF", "KERNEL")
    environ = {f"GUESTLAUNCH_DEADLINE_{phase}": "0.05" for phase in phases}
    kernel = kernel_of(appliance, QUICK)
    said = tried(guestlaunch, "--profile", QUICK, "--cmdline", "quiet", kernel, "--", "true", environ=environ)
    assert said.status == 123, str(said)
    assert "no user space" in said.stderr
    assert records(evidence)[0]["ready"] is False


@pytest.mark.needs("git")
def test_git_finds_the_first_bad_kernel(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], tmp_path: Path, evidence: Path
) -> None:
    """A commit without a kernel is skipped and not blamed; a panic is as bad as a test that fails."""
    folder = tmp_path / "tree"
    folder.mkdir()

    def git(*words: str) -> Result:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        return guestlaunch.run("git", *who, "-C", folder, *words, cwd=folder)

    kernel = str(kernel_of(appliance, QUICK))
    good, panics = "exit 0", "echo c >/proc/sysrq-trigger"
    git("init", "-q").ok()
    history = [(kernel, good), (kernel, good), ("none", good), (kernel, good), (kernel, panics), (kernel, "exit 3")]
    for number, (image, script) in enumerate(history):
        (folder / "image").write_text(image)
        (folder / "script").write_text(f"{script} # {number}")
        git("add", ".").ok()
        git("commit", "-q", "-m", f"number {number}").ok()
    git("bisect", "start", "HEAD", "HEAD~5").ok()
    run = f'guestlaunch kernel run --accel {accel(QUICK)} --profile {QUICK} "$(cat image)" -- sh -c "$(cat script)"'
    said = git("bisect", "run", "sh", "-c", run).ok()
    assert "is the first bad commit" in said.stdout
    assert "# skip" in git("bisect", "log").ok().stdout
    assert git("show", "-s", "--format=%s", "refs/bisect/bad").ok().stdout == "number 4\n"
    verdicts = {record["kernel_run"]["verdict"] for record in records(evidence)}
    assert {"command", "panic"} <= verdicts, verdicts


def test_what_is_ended_from_outside(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], evidence: Path, session_dir: Path, tmp_path: Path
) -> None:
    """QEMU's death is QEMU's failure, a signal to us an interruption; nothing stays either way."""
    kernel, out = kernel_of(appliance, QUICK), tmp_path / "out"
    script = "echo here; exec sleep 1000"
    command = (
        f'exec guestlaunch kernel run --accel {accel(QUICK)} --profile {QUICK} {kernel} -- sh -c "{script}" >{out}'
    )
    process = guestlaunch.start("sh", "-c", command)
    wait_for(lambda: out.exists() and out.read_text() == "here\n", process)
    os.kill(qemus(session_dir)[0], signal.SIGKILL)
    assert process.wait(60) == 128
    process = guestlaunch.start("sh", "-c", command)
    wait_for(lambda: bool(qemus(session_dir)), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    killed, stopped = records(evidence)
    assert (killed["kernel_run"]["verdict"], killed["outcome"]) == ("hypervisor", "failure")
    assert (stopped["kernel_run"]["verdict"], stopped["outcome"]) == ("interrupted", "cancelled")


def test_tests_numbers_and_several_runs(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], evidence: Path, tmp_path: Path
) -> None:
    """TAP is summed up and judged, numbers are kept; a grid has a line for each cell, and a JUnit file all of it."""
    junit = tmp_path / "junit.xml"
    script = "echo 1..2; echo ok 1 a; echo not ok 2 b; echo metric answer 42"
    said = guestlaunch(
        "kernel", "matrix", "--accel", accel(QUICK), "--axis", f"profile={QUICK},{OTHER}", "--tap",
        "--junit", junit, kernel_of(appliance, QUICK), "--", "sh", "-c", script,
    )  # fmt: skip
    assert said.status == 1, str(said)
    cells = [f"profile={profile}" for profile in (QUICK, OTHER)]
    assert [line.partition("  ")[0] for line in said.stdout.splitlines()[1:]] == cells
    assert said.stderr.count("tests: 1 passed, 1 failed: b") == 2
    runs = {record["profile"]: record for record in records(evidence)}
    assert runs.keys() == {QUICK, OTHER}
    assert all(record["kernel_run"]["metrics"] == {"answer": 42} for record in runs.values())
    assert all(phases_of(profile) <= seen(record) for profile, record in runs.items())
    suites = ET.fromstring(junit.read_bytes())
    assert [suite.get("failures") for suite in suites] == ["2", "2"]


def own_user_space(appliance: dict[str, Path], arch: Arch) -> bytes:
    """Return an initrd whose own init writes the record, and restarts."""
    from orchestrator.appliance.initrd import CpioEntry, write_cpio
    from orchestrator.appliance.store import resolve
    from orchestrator.kernel.builtin import busybox
    from orchestrator.kernel.modules import module_entries, wanted

    made = resolve(appliance[arch].parent.parent, arch)
    assert made.manifest is not None
    modules = module_entries(None, made.kernel, made.manifest.kernel, made, wanted())
    init = (
        "#!/bin/busybox sh\nb=/bin/busybox\n$b mount -t sysfs s /sys; $b mount -t devtmpfs d /dev\n"
        "for m in /guestlaunch/modules/*; do $b insmod $m 2>/dev/null; done\n"
        "until [ -c /dev/vport0p1 ] || [ -c /dev/vport1p1 ]; do $b sleep 0.05; done\n"
        "echo hello from init\nfor port in /dev/vport?p1; do exec 9<>$port; done\n"
        "echo guestlaunch-exit 5 >&9; read -r answer <&9; echo $answer\n$b reboot -f\n"
    )
    entries = [
        *(CpioEntry(name=name, mode=0o40755) for name in ("bin", "dev", "sys", "guestlaunch")),
        CpioEntry(name="dev/console", mode=0o20600, device=(5, 1)),
        CpioEntry(name="bin/busybox", mode=0o100755, data=busybox(arch, made)),
        CpioEntry(name="init", mode=0o100755, data=init.encode()),
        *modules,
    ]
    out = io.BytesIO()
    write_cpio(entries, out)
    return out.getvalue()


def test_a_user_space_of_the_users_own(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], evidence: Path, tmp_path: Path
) -> None:
    """Its own init writes the record, and reboots, which is an end; the console is ours to read, and is kept."""
    kernel, initrd = kernel_of(appliance, QUICK), tmp_path / "initrd"
    initrd.write_bytes(own_user_space(appliance, Arch(QUICK.partition("-")[0])))
    kept = tmp_path / "console"
    said = tried(guestlaunch, "--profile", QUICK, "--initrd", initrd, "--console", kept, kernel)
    assert said.status == 5, str(said)
    assert "hello from init" in said.stdout
    assert "acknowledged" in kept.read_text("utf-8", "replace")
    (record,) = records(evidence)
    assert {"kernel", "initrd"} <= seen(record)  # by the console's time stamps
    assert record["kernel_run"]["console_bytes"] == kept.stat().st_size


@pytest.mark.needs("qemu-system-x86_64")
def test_a_unified_image(guestlaunch: Guestlaunch, appliance: dict[str, Path], evidence: Path, tmp_path: Path) -> None:
    """Systemd's stub is what the firmware starts: the initrd and the command line in it are those that count."""
    stub = stub_of(Arch.X86_64)
    if not stub.exists():
        pytest.skip("systemd-boot-efi is not installed")
    made = tmp_path / "kernel.efi"
    parts = {".osrel": b"ID=test\n", ".cmdline": b"console=ttyS0 panic=-1 no_timer_check hello=there"}
    kernel = {
        ".linux": kernel_of(appliance, "x86_64-ovmf").read_bytes(),
        ".initrd": own_user_space(appliance, Arch.X86_64),
    }
    made.write_bytes(unify(stub.read_bytes(), parts | kernel))
    said = tried(guestlaunch, "--profile", "x86_64-ovmf", made)
    assert said.status == 5, str(said)
    assert "hello=there" in said.stdout
    (record,) = records(evidence)
    assert (record["kernel_run"]["form"], record["kernel_run"]["started_as"]) == ("unified kernel image", "itself")


def test_a_shell_on_the_console(guestlaunch: Guestlaunch, appliance: dict[str, Path], evidence: Path) -> None:
    """On a terminal each key is the guest's, and the shell's end is the run's; Ctrl-] ends it from outside."""
    for typed, status in ((b"exit 4\r", 4), (b"\x1d", 130)):
        ours, theirs = os.openpty()
        command = (guestlaunch.bin_dir / "guestlaunch", "kernel", "run", "--accel", accel(QUICK), "--profile", QUICK)
        process = subprocess.Popen(
            [*command, "--initrd", "builtin", "--cmdline", "quiet", kernel_of(appliance, QUICK)],
            stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, env=guestlaunch.environ, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        try:
            said = b""
            end = time.monotonic() + 150
            while b"# " not in said:
                assert time.monotonic() < end, said
                if select.select([ours], [], [], 1)[0]:
                    said += os.read(ours, 4096)
            os.write(ours, typed)
            while process.poll() is None:  # a terminal that nobody reads fills up
                assert time.monotonic() < end, said
                if select.select([ours], [], [], 0.1)[0]:
                    with contextlib.suppress(OSError):
                        said += os.read(ours, 4096)
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        assert process.returncode == status, said
    assert [record["kernel_run"]["verdict"] for record in records(evidence)] == ["command", "interrupted"]


def test_secure_boot_refuses_a_kernel_without_a_signature(
    guestlaunch: Guestlaunch, appliance: dict[str, Path], evidence: Path
) -> None:
    """With firmware that has keys enrolled; Debian's own kernel is signed, the appliance's copy of arm64's is not."""
    folder = Path("/usr/share/AAVMF")
    code, variables = folder / "AAVMF_CODE.ms.fd", folder / "AAVMF_VARS.ms.fd"
    if not (code.exists() and variables.exists()):
        pytest.skip("qemu-efi-aarch64 has no firmware with enrolled keys")
    kernel = kernel_of(appliance, "aarch64-uefi")
    said = tried(guestlaunch, "--firmware", code, "--firmware-vars", variables, kernel, "--", "true")
    assert said.status == 122, str(said)
    assert records(evidence)[0]["kernel_run"]["verdict"] == "refused"
