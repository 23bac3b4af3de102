"""The same commands on an arm64 host with KVM, which this machine is taken for."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError, DeadlineError
from tools.arm_host import native
from tools.arm_host.session import Order


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An arm64 host's /dev/kvm."""
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(native, "_KVM", path)
    monkeypatch.setattr(native, "host_arch", lambda: Arch.AARCH64)
    return path


def ran(*argv: str, deadline_s: float | None = None, **environ: str) -> int:
    """Run a command with no programs of ours."""
    return native.run(Order(argv=argv, environ=environ, deadline_s=deadline_s), Path("/nowhere"))


def test_status_and_variables_are_the_commands_own(kvm: Path) -> None:
    """As in the emulated host, a signal's number is added to 128."""
    assert ran("sh", "-c", "exit $STATUS", STATUS="7") == 7
    assert ran("sh", "-c", "kill -TERM $$") == 143


def test_our_programs_come_first(kvm: Path, tmp_path: Path) -> None:
    """They are those of the checkout, whatever is installed."""
    program = tmp_path / "sh"
    program.write_text(f"#!{sys.executable}\nraise SystemExit(9)\n")
    program.chmod(0o755)
    assert native.run(Order(argv=["sh", "-c", "exit 1"], environ={}), tmp_path) == 9


@pytest.mark.parametrize(("program", "status"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_a_program_that_cannot_be_run_says_why(
    kvm: Path, capsys: pytest.CaptureFixture[str], program: str, status: int
) -> None:
    """With the shell's statuses."""
    assert ran(program) == status
    assert program in capsys.readouterr().err


def test_the_deadline_ends_the_command_and_what_it_started(kvm: Path, tmp_path: Path) -> None:
    """Nothing goes on writing."""
    marks = tmp_path / "marks"
    with pytest.raises(DeadlineError, match=r"sh: 0\.5 s passed"):
        ran("sh", "-c", f"(while :; do echo >> {marks}; sleep 0.01; done) & wait", deadline_s=0.5)
    # The loop's last line may be on its way.
    end = time.monotonic() + 30
    size = -1
    while marks.exists() and size != (size := marks.stat().st_size):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which arch it is."""
    monkeypatch.setattr(native, "host_arch", lambda: Arch.X86_64)
    with pytest.raises(CapabilityError, match="its arch is x86_64"):
        native.check()


def test_an_arm_host_without_kvm_is_refused(kvm: Path) -> None:
    """What is missing is named."""
    kvm.unlink()
    with pytest.raises(CapabilityError, match="there is none"):
        native.check()
