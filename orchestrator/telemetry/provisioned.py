"""Prometheus metrics of what is no launch: kernels that were tried, steps of installations, boots of VMs.

Each has an event of its own in the log, and metrics of its own here: whoever counts launches counts none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from orchestrator.records.provenance import of_event
from orchestrator.records.record import EVENTS, LaunchEvent
from orchestrator.timeline.phases import Kind, Phase

# Finer where launches lie: a clone about 0.5 s, KVM 1-5 s, TCG 5-30 s; quantiles are read from these.
LAUNCH_BUCKETS = (
    *(0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.5, 15.0, 17.5, 20.0, 25.0, 30.0),
    *(45.0, 60.0, 120.0, 300.0, 600.0, 1200.0),
)
# An installer that copies an image is done in a minute; one under TCG that unpacks packages may take hours.
STEP_BUCKETS = (
    *(5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 450.0, 600.0, 900.0),
    *(1200.0, 1800.0, 2700.0, 3600.0, 5400.0, 7200.0, 10800.0, 14400.0),
)
DMA = {True: "true", False: "false", None: "unknown"}
OBSERVED = (Kind.KERNEL, Kind.INSTALL, Kind.VM)
_DONE = "done"
_MACHINE = ("profile", "accel", "made_on")


class ProvisioningMetrics:
    """The instruments, in a registry that is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._kernel_runs = Counter(
            "guestlaunch_kernel_runs_total",
            "Kernels that were tried, by what came of them; `command` is the end of the command, with any status.",
            (*_MACHINE, "verdict"),
            registry=registry,
        )
        self._kernel_seconds = Histogram(
            "guestlaunch_kernel_boot_duration_seconds",
            "From the start of the virtual CPUs until the command began.",
            (*_MACHINE, "fw_cfg_dma"),
            registry=registry,
            buckets=LAUNCH_BUCKETS,
        )
        self._install_steps = Counter(
            "guestlaunch_install_steps_total",
            "Steps of installations, installer or first_boot, by what came of them; `done` is the success.",
            (*_MACHINE, "step", "verdict"),
            registry=registry,
        )
        self._install_seconds = Histogram(
            "guestlaunch_install_step_duration_seconds",
            "How long steps took that were done.",
            (*_MACHINE, "step"),
            registry=registry,
            buckets=STEP_BUCKETS,
        )
        self._vm_boots = Counter(
            "guestlaunch_vm_boots_total",
            "VMs that were created, or started again, by the outcome.",
            (*_MACHINE, "how", "outcome"),
            registry=registry,
        )
        self._vm_seconds = Histogram(
            "guestlaunch_vm_ready_duration_seconds",
            "From the start of the virtual CPUs until the VM was ready.",
            (*_MACHINE, "how"),
            registry=registry,
            buckets=LAUNCH_BUCKETS,
        )

    def observe(self, event: LaunchEvent) -> None:
        """Count one canonical event of these kinds.

        :raise ValueError: when the event is none; nothing is counted then.
        """
        kind = next((kind for kind in OBSERVED if event.get("event") == EVENTS[kind]), None)
        if kind is None:
            raise ValueError(f"none of {', '.join(EVENTS[kind] for kind in OBSERVED)}")
        count = {Kind.KERNEL: self._count_kernel, Kind.INSTALL: self._count_step, Kind.VM: self._count_boot}[kind]
        try:
            if event["schema_version"] != 1:
                raise ValueError(f"a {EVENTS[kind]} event of another schema version than 1")
            machine = {"profile": event["profile"], "accel": str(event["accel"] or "unknown")}
            count(event, machine | {"made_on": of_event(event).label})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"an incomplete {EVENTS[kind]} event: {error!r}") from error

    def _count_kernel(self, event: LaunchEvent, machine: dict[str, str]) -> None:
        run: Mapping[str, Any] = event.get("kernel_run") or {}
        seconds, dma = _booted_s(event), DMA[event["fw_cfg_dma"]]
        self._kernel_runs.labels(**machine, verdict=run["verdict"]).inc()
        if seconds is not None:
            self._kernel_seconds.labels(**machine, fw_cfg_dma=dma).observe(seconds)

    def _count_step(self, event: LaunchEvent, machine: dict[str, str]) -> None:
        step: Mapping[str, Any] = event.get("install") or {}
        machine["step"], seconds = step["step"], event["total_ns"] / 1e9
        self._install_steps.labels(**machine, verdict=step["verdict"]).inc()
        if step["verdict"] == _DONE:
            self._install_seconds.labels(**machine).observe(seconds)

    def _count_boot(self, event: LaunchEvent, machine: dict[str, str]) -> None:
        vm: Mapping[str, Any] = event.get("vm") or {}
        machine["how"], outcome = "created" if vm["created"] else "started", event["outcome"]
        seconds = _booted_s(event)
        self._vm_boots.labels(**machine, outcome=outcome).inc()
        if seconds is not None:
            self._vm_seconds.labels(**machine).observe(seconds)


def _booted_s(event: LaunchEvent) -> float | None:
    """Return how long it took from the start of the virtual CPUs until the command began, or the VM was ready."""
    starts = {phase["name"]: phase["start_ns"] for phase in event["phases"]}
    began, booted = starts.get(Phase.FIRMWARE), starts.get(Phase.WORKLOAD)
    return (booted - began) / 1e9 if began is not None and booted is not None else None
