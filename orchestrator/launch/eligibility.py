"""Whether a launch can be a clone of a template, and what such a template depends on."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.appliance.guest_files import scripts_digest
from orchestrator.appliance.manifest import Init
from orchestrator.appliance.model import FILES, Appliance
from orchestrator.domain.cloning import misfit, split_cmdline, stranger
from orchestrator.domain.model import Accel
from orchestrator.domain.policy import choose_cpu
from orchestrator.hypervisor.binding import library_version
from orchestrator.hypervisor.confinement import confined, unseen
from orchestrator.hypervisor.connection import is_local
from orchestrator.launch.context import LaunchSpec
from orchestrator.settings import Settings
from orchestrator.template.model import Facts, Template, identity

_CPUINFO = Path("/proc/cpuinfo")
_CPUINFO_NAMES = ("model name", "CPU implementer", "CPU variant", "CPU part", "CPU revision", "flags", "Features")


def appliance_unfit(appliance: Appliance | None) -> str | None:
    """Return what it is about an appliance that no template can be made of it; None when one can."""
    manifest = appliance.manifest if appliance else None
    if manifest is None or manifest.init is not Init.LEAN:
        return "the appliance's init has no gate"
    if manifest.guest_scripts != scripts_digest(Init.LEAN):
        return "the appliance was made by another guestlaunch"
    return None


def settings_unfit(settings: Settings) -> str | None:
    """Return what it is about settings that no template can serve, whatever is launched with them."""
    if not settings.fw_cfg_dma:
        return "fw_cfg DMA is to be off, and a clone transfers nothing"
    if settings.connect is not None and not is_local(settings.connect):
        return "the connection leads to another host"
    return None


def why_not_warm(spec: LaunchSpec) -> str | None:
    """Return what it is about a launch that no template can serve; None when one can."""
    plan, request, settings = spec.plan, spec.request, spec.settings
    strange = stranger(request.extra_args)
    checks = (
        (strange is not None, f"QEMU is to have arguments of the user's own ({strange})"),
        (request.start_paused, "the guest is to wait for a debugger"),
    )
    why = appliance_unfit(plan.appliance) or settings_unfit(settings)
    why = why or next((why for applies, why in checks if applies), None) or misfit(plan.disks, plan.profile.arch)
    if why is None and confined(settings.confine, settings.connect):
        from orchestrator.hypervisor.handing import chain_of  # here: only a confined QEMU is handed anything

        # A clone has given up its rights before it gets its disks; a QEMU that boots opens them first.
        why = next((chain.obstacle for chain in map(chain_of, plan.disks) if chain.obstacle), None)
        if why is None and any(disk.graph is not None for disk in plan.disks):
            why = unseen()
    return why


def template_facts(spec: LaunchSpec) -> Facts:
    """Return all that a template for this launch depends on.

    :raise OSError: one of the files cannot be read.
    """
    plan = spec.plan
    assert plan.appliance is not None and plan.appliance.manifest is not None  # noqa: PT018 - see why_not_warm
    profile = plan.profile
    facts: dict[str, str | int] = {
        "profile": profile.name,
        "machine": profile.machine,
        "accel": str(plan.accel),
        "cpu": choose_cpu(profile, plan.accel, spec.settings.cpu),
        "memory_mib": spec.memory_mib,
        "vcpus": spec.vcpus,
        "cmdline": split_cmdline(spec.cmdline)[0],
        "qemu": identity(plan.emulator),
        "libvirt": library_version(),
        "root": str(plan.appliance.root.resolve()),
    }
    facts |= {f"{name}_digest": plan.appliance.manifest.files[name].digest for name in FILES}
    if spec.slots:
        facts["slots"] = "free"
    if plan.firmware is not None:
        facts |= {"firmware": identity(plan.firmware.code), "nvram": identity(plan.firmware.nvram_template)}
    if plan.accel is Accel.KVM:
        facts["host_cpu"] = _host_cpu()
    return facts


def _host_cpu() -> str:
    """Return what distinguishes the host's CPU from others: under KVM, guests see it.

    What of it they see is the kernel's doing. On Arm a state is not taken back under a kernel that shows other ID
    registers than the one it was saved under.
    """
    lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    kernel = f"{os.uname().release} {os.uname().version}"
    return "; ".join([*sorted({line for line in lines if line.startswith(_CPUINFO_NAMES)}), kernel])


def outdated(template: Template) -> str | None:
    """Return which of the things that a template depends on has changed, None when none has.

    A template that is outdated is never used: launches look for one by the facts of their own time.
    """
    facts = template.facts
    for name in ("qemu", "firmware", "nvram"):
        said = str(facts.get(name, ""))
        if said and not _still(said):
            return f"{said.rsplit(' ', 2)[0]} has changed"
    if facts["libvirt"] != library_version():
        return "libvirt has changed"
    if facts["accel"] == Accel.KVM and facts["host_cpu"] != _host_cpu():
        return "the host's CPU or kernel has changed"
    root = Path(str(facts["root"]))
    try:
        if not root.exists():
            return f"the appliance {root.parent} is gone"
    except OSError as error:
        return f"the appliance {root.parent} cannot be used: {error.strerror or error}"
    current = root.parent.parent / "current"
    if current.exists() and current.resolve() != root.parent:
        return f"there is a newer appliance than {root.parent.name}"
    return None


def _still(said: str) -> bool:
    path = said.rsplit(" ", 2)[0]
    try:
        return identity(path) == said
    except OSError:
        return False
