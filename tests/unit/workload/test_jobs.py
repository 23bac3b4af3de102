"""Carrying out jobs: the worker process is real, only the bindings in it are not."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import CapabilityError
from orchestrator.images.policy import ImagePolicyError
from orchestrator.settings import Settings
from orchestrator.workload.job import Job, JobDisk
from orchestrator.workload.jobs import TIMED_OUT, Outcome, carry_out, confined
from tests.images import qcow2

FAKE = Path(__file__).parent / "fake"


@pytest.fixture
def environ() -> dict[str, str]:
    """Return an environment in which the worker finds the stand-in for the bindings."""
    return {**os.environ, "PYTHONPATH": str(FAKE)}


def make(tmp_path: Path, *commands: str, **changes: object) -> Job:
    values: dict[str, Any] = {"name": "j", "directory": tmp_path, "commands": commands}
    return Job(**(values | changes))


def python(tmp_path: Path, text: str) -> Job:
    path = tmp_path / "p.py"
    path.write_text(text)
    return make(tmp_path, python=path)


def test_commands_and_their_output(tmp_path: Path, environ: dict[str, str]) -> None:
    """Each command's output comes back as JSON, bytes too, with its time, in order, and as it happens."""
    seen: list[Mapping[str, Any]] = []
    job = make(
        tmp_path,
        "run",
        "# note",
        "list-devices",
        "read-file /x",
        "read-file /binary",
        disks=(JobDisk(path=tmp_path / "d"),),
    )
    outcome = carry_out(job, environ, seen.append)
    assert (outcome.outcome, outcome.status, outcome.error) == ("success", 0, None)
    assert [one["output"] for one in outcome.commands] == [["/dev/sda"], "text", {"hex": "ff00"}]
    assert all(one["duration_s"] >= 0 for one in outcome.commands)
    assert [one["event"] for one in seen] == ["launched", "command", "command", "command"]
    assert outcome.launch_s is not None


def test_failed_command_ends_the_job(tmp_path: Path, environ: dict[str, str]) -> None:
    """A failure is told with the library's words; what comes after is not done."""
    outcome = carry_out(make(tmp_path, "cat /missing", "cat /x"), environ)
    assert (outcome.outcome, outcome.status) == ("failure", 1)
    assert outcome.error == "command failed: cat /missing: cat: open: /missing: No such file or directory"
    assert [one["outcome"] for one in outcome.commands] == ["failure"]


def test_command_that_may_fail(tmp_path: Path, environ: dict[str, str]) -> None:
    """With a dash in front the job goes on, and the failure is still told."""
    outcome = carry_out(make(tmp_path, "-cat /missing", "cat /x"), environ)
    assert outcome.outcome == "success"
    assert [one["outcome"] for one in outcome.commands] == ["failure", "success"]


def test_mistakes_show_before_the_launch(tmp_path: Path, environ: dict[str, str]) -> None:
    """A command that cannot be understood costs no launch."""
    outcome = carry_out(make(tmp_path, "cat /x", "cot /x"), environ | {"FAKE_LAUNCH": "60"})
    assert (outcome.status, outcome.launch_s) == (2, None)
    assert outcome.error is not None
    assert "did you mean 'cat'" in outcome.error


def test_failed_launch(tmp_path: Path, environ: dict[str, str]) -> None:
    """A launch that fails is the job's failure."""
    outcome = carry_out(make(tmp_path, "cat /x"), environ | {"FAKE_LAUNCH": "fails"})
    assert (outcome.outcome, outcome.status) == ("failure", 1)
    assert "guestfs_launch failed" in str(outcome.error)


def test_failed_shutdown(tmp_path: Path, environ: dict[str, str]) -> None:
    """Data that could not be written is a failure, though every command succeeded."""
    outcome = carry_out(make(tmp_path, "cat /x"), environ | {"FAKE_SHUTDOWN": "fails"})
    assert (outcome.outcome, outcome.status) == ("failure", 1)


@pytest.mark.parametrize("where", ["launch", "command"])
def test_deadline(tmp_path: Path, environ: dict[str, str], where: str) -> None:
    """A job that takes too long is ended, wherever it hangs, with status 124."""
    slow = {"FAKE_LAUNCH": "60"} if where == "launch" else {}
    began = time.monotonic()
    outcome = carry_out(make(tmp_path, "sleep 60", deadline_s=1.5), environ | slow)
    assert (outcome.outcome, outcome.status) == ("timeout", TIMED_OUT)
    assert "deadline of 1.5 s" in str(outcome.error)
    assert time.monotonic() - began < 20


def test_worker_that_dies(tmp_path: Path, environ: dict[str, str]) -> None:
    """A crash inside the library is told as what it is."""
    outcome = carry_out(make(tmp_path, "die"), environ)
    assert (outcome.outcome, outcome.status) == ("failure", 1)
    assert "signal 6" in str(outcome.error)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_worker_does_not_outlive_us(tmp_path: Path, environ: dict[str, str], number: signal.Signals) -> None:
    """Whoever ends the command ends the job, even in the midst of a call into the library."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom orchestrator.program import unwinding_on_sigterm\n"
        "from orchestrator.workload import jobs, job\n"
        "with unwinding_on_sigterm():\n"
        " jobs.carry_out(job.Job(name='j', directory=Path(sys.argv[1]), commands=('sleep 60',)), os.environ,"
        " lambda event: print('up', flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], env=environ, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    [worker] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(number)
    process.wait(10)
    process.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}/cmdline").exists() and Path(f"/proc/{worker}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.05)


def test_python_job(tmp_path: Path, environ: dict[str, str]) -> None:
    """run(g) gets the launched handle; what it returns is the result."""
    outcome = carry_out(python(tmp_path, "def run(g):\n    return {'state': g.state, 'set': {1}}"), environ)
    assert outcome.result == {"state": "ready", "set": [1]}
    assert outcome.outcome == "success"


@pytest.mark.parametrize(
    ("text", "part", "status"),
    [
        ("def run(g): return g.nothing()", "AttributeError", 1),
        ("def walk(g): pass", "it has no run(g)", 2),
        ("import nothing_of_that_name", "ModuleNotFoundError", 2),
        ("def run(", "SyntaxError", 2),
    ],
)
def test_python_job_with_a_mistake(tmp_path: Path, environ: dict[str, str], text: str, part: str, status: int) -> None:
    """The user's own mistakes are one line, whatever they raise."""
    outcome = carry_out(python(tmp_path, text), environ)
    assert part in str(outcome.error)
    assert outcome.status == status


def test_image_is_made_and_kept(tmp_path: Path, environ: dict[str, str]) -> None:
    """An image that the job asks for is there afterwards, of its size."""
    disk = JobDisk(path=tmp_path / "new, disk.img", format="raw", readonly=False, size_mib=3)
    assert carry_out(make(tmp_path, "cat /x", disks=(disk,)), environ).outcome == "success"
    assert disk.path is not None
    assert disk.path.stat().st_size == 3 << 20


@pytest.mark.parametrize("there", [True, False])
def test_image_of_a_failed_job(tmp_path: Path, environ: dict[str, str], there: bool) -> None:
    """What a failed job has made is gone; what was there before is not."""
    path = tmp_path / "d.img"
    if there:
        path.write_bytes(b"precious")
    disk = JobDisk(path=path, format="raw", readonly=False, size_mib=3)
    assert carry_out(make(tmp_path, "cat /missing", disks=(disk,)), environ).outcome == "failure"
    assert path.exists() is there


def test_without_qemu_img(tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program is named, with its package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    disk = JobDisk(path=tmp_path / "d", format="raw", readonly=False, size_mib=3)
    with pytest.raises(CapabilityError, match="qemu-utils"):
        carry_out(make(tmp_path, "cat /x", disks=(disk,)), environ)


def test_descriptors(tmp_path: Path, environ: dict[str, str]) -> None:
    """A job leaves no descriptor open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    carry_out(make(tmp_path, "cat /x"), environ)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_result_as_json() -> None:
    """What --json prints has everything, and a version."""
    printed = Outcome(job="j", commands=[{"command": "x"}]).to_json([{"launch_id": "l"}])
    assert printed["schema_version"] == 1
    assert printed["timelines"] == [{"launch_id": "l"}]
    assert {field.name for field in dataclasses.fields(Outcome)} - set(printed) == {"status"}


def test_images_are_checked_before_anything_opens_them(tmp_path: Path) -> None:
    """Under the policy a job's formats are all said, and a bad image is refused; images to be made are left alone."""
    settings = Settings(state_dir=tmp_path, runtime_dir=tmp_path, image_policy="untrusted")
    (tmp_path / "raw").write_bytes(bytes(512))
    (tmp_path / "bad").write_bytes(qcow2("/etc/passwd"))
    disks = (JobDisk(path=tmp_path / "raw"), JobDisk(path=tmp_path / "new", format="qcow2", readonly=False, size_mib=1))
    job = Job(name="j", directory=tmp_path, disks=disks, commands=("x",))
    assert [disk.format for disk in confined(job, settings).disks] == ["raw", "qcow2"]
    assert confined(job, dataclasses.replace(settings, image_policy=None)) == job
    for image_format in (None, "qcow2"):
        bad = dataclasses.replace(job, disks=(JobDisk(path=tmp_path / "bad", format=image_format),))
        with pytest.raises(ImagePolicyError):
            confined(bad, settings)
        assert confined(bad, dataclasses.replace(settings, image_policy="trusted")) == bad
