"""The same commands where nothing has to be emulated: this machine, if it is an arm64 host with KVM."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError, DeadlineError
from orchestrator.hypervisor.emulator import host_arch
from orchestrator.program import complain
from tools.arm_host.session import Order

_KVM = Path("/dev/kvm")
_NOT_FOUND, _NOT_RUNNABLE = 127, 126
_SIGNAL_BASE = 128


def check() -> None:
    """See that this machine is one.

    :raise CapabilityError: it is another arch's, or has no KVM for us.
    """
    if host_arch() is not Arch.AARCH64:
        raise CapabilityError("no arm64 host", "this machine", f"its arch is {host_arch()}", "leave --native out")
    if not os.access(_KVM, os.R_OK | os.W_OK):
        why = "you may not use it" if _KVM.exists() else "there is none"
        raise CapabilityError("no KVM", _KVM, why, "join the group kvm, or leave --native out")


def run(order: Order, programs: Path) -> int:
    """Run a command with the checkout's programs first in PATH, on our own streams, and return its exit status.

    :raise CapabilityError: this machine is no such host.
    :raise DeadlineError: it was not done in time, and was killed with what it had started.
    """
    check()
    environ = {**os.environ, **order.environ, "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}"}
    # One that has a deadline is in a group of its own, to be ended as a whole; a shell stays in the terminal's.
    apart = order.deadline_s is not None
    try:
        process = subprocess.Popen(list(order.argv), env=environ, start_new_session=apart)
    except OSError as error:
        complain("arm-host", f"{error.filename}: {error.strerror}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE
    try:
        status = process.wait(order.deadline_s)
    except subprocess.TimeoutExpired:
        why = f"{order.deadline_s:g} s passed"
        raise DeadlineError("the command is not done by the deadline", order.argv[0], why) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if apart else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
    return status if status >= 0 else _SIGNAL_BASE - status
