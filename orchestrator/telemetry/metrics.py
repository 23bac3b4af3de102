"""Prometheus metrics of launches, counted from canonical `launch_finished` events.

How they are shown (HTTP, text file) is `http`'s and `textfile`'s job. Import this module only when
metrics are asked for: prometheus_client costs a launch nothing that way.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

import orchestrator
from orchestrator.records.filters import is_modelled
from orchestrator.records.provenance import of_event
from orchestrator.records.record import EVENT, LaunchEvent, PhaseEntry
from orchestrator.telemetry.provisioned import DMA, LAUNCH_BUCKETS, ProvisioningMetrics
from orchestrator.timeline.phases import SEQUENCE, TRANSFER_PHASES, Start

# From a hot-plug under KVM (milliseconds) to a guest that hangs until its deadline under TCG (minutes).
PHASE_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
# MMIO under KVM on Arm moves about 1.5 MB/s, DMA up to some GB/s.
RATE_BUCKETS = tuple(factor * 10.0**power for power in range(5, 10) for factor in (1, 2.5, 5))

OUTCOMES = ("success", "failure", "cancelled")
_KIND = ("profile", "accel", "start", "made_on")  # the last is a label of `provenance`: a closed set


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What the metrics take from one event, checked before anything is counted. Times in seconds."""

    kind: Mapping[str, str]  # by the names of `_KIND`
    dma: str
    outcome: str
    requested: bool
    ready: bool
    finished_at: float
    launch: float | None
    phases: Mapping[str, float]
    transfer: float | None
    transferred: int
    error_phase: str
    versions: Mapping[str, str]


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


def _transferred(phases: Iterable[PhaseEntry]) -> bool:
    """Tell whether both transfer phases came to their end: a launch that broke off in one moved less than all."""
    return {p["name"] for p in phases if p["outcome"] == "success"} >= set(TRANSFER_PHASES)


def _facts(event: LaunchEvent) -> _Facts:
    """Take an event apart.

    :raise ValueError: when it is not a canonical launch event of a schema that is known here.
    """
    try:
        if event["event"] != EVENT or event["schema_version"] != 1:
            raise ValueError(f"not a {EVENT} event of schema version 1")
        durations = {p["name"]: p["duration_ns"] / 1e9 for p in event["phases"] if p["duration_ns"] is not None}
        return _Facts(
            kind={name: str(event[name] or "unknown") for name in ("profile", "accel")}
            | {"start": Start(event["start"]), "made_on": of_event(event).label},
            dma=DMA[event["fw_cfg_dma"]],
            outcome=str(event["outcome"]),
            requested=bool(event["fw_cfg"]["requested"]),
            ready=bool(event["ready"]),
            finished_at=datetime.fromisoformat(event["timestamp"]).timestamp(),
            launch=_seconds(event["launch_ns"]),
            phases=durations,
            transfer=_seconds(event["transfer_ns"]) if _transferred(event["phases"]) else None,
            transferred=(event["bytes"]["kernel"] or 0) + (event["bytes"]["initrd"] or 0),
            error_phase=str(event["error_phase"] or "unknown"),
            versions={name: str(version) for name, version in event["versions"].items() if version},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"an incomplete {EVENT} event: {error!r}") from error


class LaunchMetrics:
    """The instruments of one process, in a registry of their own.

    :ivar provisioned: those of what is no launch, in the same registry.

    :param in_flight: number of launches under way, asked at each scrape; None where nobody knows (one-shot
        processes): the gauge is then left out, never 0.
    """

    def __init__(self, *, in_flight: Callable[[], int] | None = None) -> None:
        # A series per counter and bucket that no query here reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._versions: Mapping[str, str] = {}
        self._versions_lock = threading.Lock()
        self._count_launches()
        self._time_launches()
        self.provisioned = ProvisioningMetrics(self.registry)
        self._describe()
        if in_flight is not None:
            gauge = Gauge("guestlaunch_launches_in_flight", "Launches under way now.", registry=self.registry)
            gauge.set_function(in_flight)

    def _count_launches(self) -> None:
        kind = _KIND
        self._launches = Counter(
            "guestlaunch_launches_total",
            "Finished launches; fw_cfg_dma as verified.",
            (*kind, "outcome", "fw_cfg_dma"),
            registry=self.registry,
        )
        self._failures = Counter(
            "guestlaunch_launch_failures_total",
            "Failed launches by the phase in which they failed.",
            (*kind, "phase"),
            registry=self.registry,
        )
        self._checks = Counter(
            "guestlaunch_fw_cfg_dma_checks_total",
            "Launches by fw_cfg DMA as requested and as verified; without those that failed before the check.",
            (*kind, "requested", "verified"),
            registry=self.registry,
        )
        self._bytes = Counter(
            "guestlaunch_transfer_bytes_total",
            "Bytes of kernel and initrd that the guest read through fw_cfg.",
            (*kind, "fw_cfg_dma"),
            registry=self.registry,
        )

    def _time_launches(self) -> None:
        labels = (*_KIND, "fw_cfg_dma")
        self._launch_seconds = Histogram(
            "guestlaunch_launch_duration_seconds",
            "From the client's start until the tool had its launch flag.",
            labels,
            registry=self.registry,
            buckets=LAUNCH_BUCKETS,
        )
        self._phase_seconds = Histogram(
            "guestlaunch_phase_duration_seconds",
            "Duration of each phase; the phases of a launch tile it.",
            (*labels, "phase"),
            registry=self.registry,
            buckets=PHASE_BUCKETS,
        )
        self._transfer_seconds = Histogram(
            "guestlaunch_transfer_duration_seconds",
            "Duration of the fw_cfg transfer: fw_cfg_kernel and fw_cfg_initrd together.",
            labels,
            registry=self.registry,
            buckets=PHASE_BUCKETS,
        )
        self._transfer_rate = Histogram(
            "guestlaunch_transfer_rate_bytes_per_second",
            "Rate of the fw_cfg transfer of each launch.",
            labels,
            registry=self.registry,
            buckets=RATE_BUCKETS,
        )

    def _describe(self) -> None:
        build = Gauge("guestlaunch_build_info", "Always 1.", ("version", "python_version"), registry=self.registry)
        build.labels(orchestrator.__version__, platform.python_version()).set(1)
        self._components = Gauge(
            "guestlaunch_component_info",
            "Always 1; the versions that the latest launch ran with.",
            ("component", "version"),
            registry=self.registry,
        )
        self._last = Gauge(
            "guestlaunch_last_launch_timestamp_seconds",
            "When the latest launch of this outcome was over, as Unix time.",
            ("outcome",),
            registry=self.registry,
        )

    def observe(self, event: LaunchEvent) -> None:
        """Count one canonical launch event; safe to call from several threads.

        A launch with a modelled trap cost is an experiment and is not counted.

        :raise ValueError: when the event is not one; nothing is counted then.
        """
        facts = _facts(event)
        if is_modelled(event):
            return
        self._announce(facts.kind)
        self._launches.labels(**facts.kind, outcome=facts.outcome, fw_cfg_dma=facts.dma).inc()
        if facts.outcome == "failure":
            self._failures.labels(**facts.kind, phase=facts.error_phase).inc()
        if facts.ready or facts.dma != DMA[None]:
            requested = DMA[facts.requested]
            self._checks.labels(**facts.kind, requested=requested, verified=facts.dma).inc()
        self._time(facts)
        self._last.labels(facts.outcome).set(facts.finished_at)
        self._show_versions(facts.versions)

    def _announce(self, kind: Mapping[str, str]) -> None:
        """Show the counters of a kind of launch from 0 on: Prometheus sees no increase in one that appears at 1."""
        for dma in DMA.values():
            for outcome in OUTCOMES:
                self._launches.labels(**kind, outcome=outcome, fw_cfg_dma=dma)
            for requested in (DMA[True], DMA[False]):
                self._checks.labels(**kind, requested=requested, verified=dma)
        for phase in SEQUENCE[Start(kind["start"])]:
            self._failures.labels(**kind, phase=phase)

    def _show_versions(self, versions: Mapping[str, str]) -> None:
        with self._versions_lock:
            if not versions or versions == self._versions:
                return
            self._components.clear()
            for component, version in versions.items():
                self._components.labels(component, version).set(1)
            self._versions = versions

    def _time(self, facts: _Facts) -> None:
        if facts.launch is not None:
            self._launch_seconds.labels(**facts.kind, fw_cfg_dma=facts.dma).observe(facts.launch)
        for phase, seconds in facts.phases.items():
            self._phase_seconds.labels(**facts.kind, fw_cfg_dma=facts.dma, phase=phase).observe(seconds)
        if facts.transfer is None:
            return
        self._transfer_seconds.labels(**facts.kind, fw_cfg_dma=facts.dma).observe(facts.transfer)
        if facts.transferred:
            self._bytes.labels(**facts.kind, fw_cfg_dma=facts.dma).inc(facts.transferred)
        if facts.transferred and facts.transfer:
            rate = facts.transferred / facts.transfer
            self._transfer_rate.labels(**facts.kind, fw_cfg_dma=facts.dma).observe(rate)
