"""The suite's own machinery: skips fail in CI, evidence is kept, leftovers are seen, disks are what they claim."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.disks import DiskFactory
from tests.leftovers import left_behind, look
from tests.running import Guestlaunch
from tests.tool_lines import Launched, Outcome, differing, families, keep, read

TOP = Path(__file__).resolve().parents[2]
# Whatever conftest files import lies beside them.
SHARED = ("functional/conftest.py", *(path.name for path in sorted((TOP / "tests").glob("*.py"))))


def made_suite(folder: Path, source: str) -> None:
    """Make a small checkout that has our conftest files and one functional test module."""
    for name in SHARED:
        target = folder / "tests" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / "tests" / name, target)
    shutil.copy(TOP / "pyproject.toml", folder)
    (folder / "tests" / "functional" / "test_small.py").write_text(f'"""Small."""\nimport pytest\n{source}', "utf-8")


PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_timeout")


def environment(ci: str) -> dict[str, str]:
    """Return what a small checkout's pytest sees: nothing of ours, and no plugins but those it names."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return environ | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def run_suite(folder: Path, source: str, *, ci: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on a small checkout."""
    made_suite(folder, source)
    return subprocess.run(
        [*PYTEST, "tests"],
        cwd=folder,
        env=environment(ci),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


# What is skipped by a mark and by a call; and a module that is skipped as a whole.
SKIPS = {
    "tests": "@pytest.mark.skip(reason='no kvm')\ndef test_mark(): ...\ndef test_call(): pytest.skip('no net')\n",
    "module": "pytest.skip('no kvm and no net', allow_module_level=True)\n",
}


@pytest.mark.parametrize(("kind", "skipped"), [("tests", 2), ("module", 1)])
def test_functional_skip_fails_in_ci(tmp_path: Path, kind: str, skipped: int) -> None:
    """In CI a skipped functional test is a failure that names the reason; elsewhere it is a skip."""
    in_ci = run_suite(tmp_path, SKIPS[kind], ci="true")
    assert in_ci.returncode != 0
    complaints = [line for line in in_ci.stdout.splitlines() if line.startswith("a functional test must not be")]
    assert len(complaints) == skipped, in_ci.stdout
    for reason in ("no kvm", "no net"):
        assert any(reason in line for line in complaints), in_ci.stdout
    elsewhere = run_suite(tmp_path, SKIPS[kind], ci="")
    assert elsewhere.returncode in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    assert f"{skipped} skipped" in elsewhere.stdout


def test_failed_functional_test_keeps_evidence(tmp_path: Path) -> None:
    """A failed test's folder stays and is named; a passed test's folder goes."""
    source = (
        "def test_good(evidence): (evidence / 'good.txt').write_text('x')\n"
        "def test_bad(evidence):\n    (evidence / 'bad.txt').write_text('x')\n    assert not evidence\n"
    )
    run = run_suite(tmp_path, source, ci="")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    kept = [path.name for path in (tmp_path / ".build" / "evidence").rglob("*.txt")]
    assert kept == ["bad.txt"], run.stdout
    assert "kept in" in run.stdout


def test_leftover_fails_the_functional_test(tmp_path: Path) -> None:
    """A file that a functional test leaves in its session's folder fails it and is named."""
    source = "def test_it(state_dir): (state_dir / 'overlay.qcow2').write_text('x')\n"
    run = run_suite(tmp_path, source, ci="")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "file state/overlay.qcow2" in run.stdout
    assert "1 passed, 1 error" in run.stdout


WAITS = """
from concurrent.futures import ThreadPoolExecutor
def test_it(guestlaunch):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(guestlaunch.run, "/bin/sh", "-c", "echo $$ >{folder}/pid; sleep 600; true").result()
"""


def test_a_run_that_is_terminated_leaves_nothing_running(tmp_path: Path) -> None:
    """SIGTERM, as `timeout` sends it, ends what a worker's test waits for in a thread; the session's folder goes."""
    made_suite(tmp_path, WAITS.format(folder=tmp_path))
    environ = environment("") | {"TMPDIR": "/tmp"}
    written = tmp_path / "pid"
    with subprocess.Popen(
        [*PYTEST, "-p", "xdist", "-n", "1", "tests"], cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True
    ) as run:
        deadline = time.monotonic() + 100
        while not (written.exists() and written.read_text("utf-8").endswith("\n")):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        shell = Path("/proc", written.read_text("utf-8").strip())
        (folder,) = (
            Path(entry.removeprefix("XDG_RUNTIME_DIR=")).parent
            for entry in (shell / "environ").read_text("utf-8").split("\0")
            if entry.startswith("XDG_RUNTIME_DIR=")
        )
        run.terminate()
        output, _ = run.communicate(timeout=100)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, output
    assert not shell.exists()
    assert folder.name.startswith("gl-")
    assert not folder.exists()


def wait_until_seen(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has its environment: execve(2) closes the pipe that Popen waits for before it sets it up."""
    deadline = time.monotonic() + 10
    while not Path(f"/proc/{process.pid}/environ").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_leftovers_of_every_kind_are_seen(tmp_path: Path) -> None:
    """A process, a file and a socket are seen while they are there, and stores are not."""
    before = look(tmp_path)
    (tmp_path / "state" / "log").mkdir(parents=True)
    (tmp_path / "state" / "log" / "events.jsonl").touch()
    (tmp_path / "disk.qcow2").touch()
    listener = socket.socket(socket.AF_UNIX)
    # The path of a test's folder may be longer than a socket's address; a relative one is not.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        listener.bind("a.sock")
    with subprocess.Popen(["/bin/sleep", "60"], env={"STATE": str(tmp_path)}) as process:
        wait_until_seen(process)
        found = left_behind(tmp_path, before, within_s=0)
        process.kill()
    listener.close()
    assert [entry.split(":")[0] for entry in found] == ["file disk.qcow2", f"process {process.pid}", "socket a.sock"]


def test_gone_in_time_is_not_left_behind(tmp_path: Path) -> None:
    """What goes away within the time allowed is not reported."""
    before = look(tmp_path)
    with subprocess.Popen(["/bin/sleep", "1"], env={"STATE": str(tmp_path)}) as process:
        wait_until_seen(process)
        assert left_behind(tmp_path, before, within_s=0) != []
        assert left_behind(tmp_path, before, within_s=10) == []


def test_command_that_hangs_is_killed(tmp_path: Path) -> None:
    """A command over its deadline fails the test with what it said, and its children are gone."""
    with Guestlaunch(bin_dir=Path("/bin"), environ={"STATE": str(tmp_path)}, evidence=tmp_path) as runner:
        before = look(tmp_path)
        with pytest.raises(AssertionError, match=r"not done after 1 s(.|\n)*hello"):
            runner.run("/bin/sh", "-c", "echo hello; sleep 60 & sleep 60", timeout_s=1)
        assert [entry for entry in left_behind(tmp_path, before, within_s=2) if entry.startswith("process")] == []
    assert "hello" in (tmp_path / "command-01.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_disk_image_is_what_was_asked_for(tmp_path: Path, image_format: str) -> None:
    """The format is the one asked for, and the file system holds the file."""
    disk = DiskFactory(tmp_path)("d.img", size_mib=16, image_format=image_format, files={"/etc/motd": "hello\n"})
    info = subprocess.run(["qemu-img", "info", disk], capture_output=True, text=True, check=True, timeout=60)
    assert f"file format: {image_format}" in info.stdout
    raw = tmp_path / "back.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, raw], check=True, timeout=60)
    shown = subprocess.run(
        ["/usr/sbin/debugfs", "-R", "cat /etc/motd", raw], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout == "hello\n"


def test_partitioned_disk_image_has_a_partition(tmp_path: Path) -> None:
    """The partition table has one partition where the file system starts."""
    disk = DiskFactory(tmp_path)("d.img", size_mib=16, partitioned=True, files={"a": "x"})
    dump = subprocess.run(["/usr/sbin/sfdisk", "--dump", disk], capture_output=True, text=True, check=True, timeout=60)
    assert "start=        2048" in dump.stdout
    assert disk.read_bytes()[1024 * 1024 + 1024 + 56 :][:2] == b"\x53\xef"


def test_thirty_command_lines_of_each_family() -> None:
    """The sample over which it is counted what clones serve has as many of each, and none of them twice."""
    found = families()
    assert {len(lines) for lines in found.values()} == {30}
    every = [line for lines in found.values() for line in lines]
    assert len(set(every)) == len(every) == 210


def test_outcomes_of_command_lines_are_kept(tmp_path: Path) -> None:
    """What came of each is read again as it was, and runs are compared by what they share; one boot makes it cold."""
    clone, boot = Launched(start="warm", why="key"), Launched(start="cold", why="no template")
    kept = [
        Outcome(family="df", line="virt-df", output="x", files={"disk.img": 1}, launches=(clone, boot)),
        Outcome(family="df", line="virt-df -a none  # fails: there is none", status=1, said="error: none"),
    ]
    for outcome in kept:
        keep(outcome, tmp_path / "kept")
    found = read(tmp_path / "kept")
    assert list(found.values()) == kept
    assert [(one.kind, one.as_listed) for one in kept] == [("cold", True), ("none", True)]
    other = {"virt-df": replace(kept[0], status=1), "virt-ls": kept[0]}
    assert list(differing(found, other)) == ["virt-df: status: 0, 1"]
