"""The same commands where nothing has to be emulated: this machine, if it is an arm64 host with KVM."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError, DeadlineError
from orchestrator.hypervisor.emulator import host_arch
from tools.arm_host.session import Order

_KVM = Path("/dev/kvm")
_NOT_FOUND = 127


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
    :raise DeadlineError: it was not done in time, and was killed.
    """
    check()
    environ = {**os.environ, **order.environ, "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}"}
    try:
        done = subprocess.run(list(order.argv), env=environ, timeout=order.deadline_s, check=False)
    except subprocess.TimeoutExpired:
        why = f"{order.deadline_s:g} s passed"
        raise DeadlineError("the command is not done by the deadline", order.argv[0], why) from None
    except FileNotFoundError:
        return _NOT_FOUND
    return done.returncode if done.returncode >= 0 else 128 - done.returncode
