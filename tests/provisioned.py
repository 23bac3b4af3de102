"""Records of what is no launch: two steps of an installation, and a VM that was made."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.records.record import InstallStepRecord, LaunchRecord, VmBootRecord
from orchestrator.timeline.phases import Kind
from tests.unit.kernel.test_series import SECOND_NS, record


def provisioned() -> tuple[LaunchRecord, ...]:
    """Return an installer that was done, a first boot that was not, and a VM that was ready after 9 s."""
    step = InstallStepRecord(
        installation="5e", step="installer", verdict="done", location="/tree", tree="Debian 12", verification="named"
    )
    base = replace(record(boot_ns=9 * SECOND_NS), kernel_run=None)
    return (
        replace(base, kind=Kind.INSTALL, install=step),
        replace(base, kind=Kind.INSTALL, install=replace(step, step="first_boot", verdict="panic"), outcome="failure"),
        replace(base, kind=Kind.VM, vm=VmBootRecord(name="one", created=True, image="/i")),
    )
