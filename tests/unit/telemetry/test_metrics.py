"""The metrics that launch events are counted into, and the HTTP address they are shown at."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator import __version__
from orchestrator.errors import CapabilityError, SettingsError
from orchestrator.records.filters import INSTRUMENT_MARK
from orchestrator.records.provenance import LABELS, NOWHERE
from orchestrator.records.record import schema, to_event
from orchestrator.telemetry.http import parse_address, serve
from orchestrator.telemetry.metrics import LaunchMetrics
from orchestrator.telemetry.textfile import exposition
from orchestrator.timeline.phases import Phase, Start
from tests.provisioned import provisioned
from tests.simulated_launches import (
    BARE,
    EMULATED,
    INITRD_BYTES,
    INSTRUCTIONS,
    KERNEL_BYTES,
    VIRTUALISED,
    event,
    mixture,
)
from tests.unit.kernel.test_series import record

TCG_COLD = {"profile": "aarch64-uefi", "accel": "tcg", "start": "cold", "made_on": "bare"}


def value(metrics: LaunchMetrics, name: str, **labels: str) -> float | None:
    """Return one sample, None when there is none."""
    return metrics.registry.get_sample_value(name, labels)


def test_simulated_lines_fit_the_schema() -> None:
    """The lines these tests feed are canonical ones."""
    for line in mixture():
        jsonschema.validate(line, schema())


def test_launches_are_counted_by_what_they_were() -> None:
    """Outcome and the verified fw_cfg path are labels of one counter."""
    metrics = LaunchMetrics()
    for options in ({}, {}, {"dma": False}, {"failed_in": Phase.STAGE, "dma": None}, {"cancelled_in": Phase.KERNEL}):
        metrics.observe(event(1, **options))
    name = "guestlaunch_launches_total"
    assert value(metrics, name, **TCG_COLD, outcome="success", fw_cfg_dma="true") == 2
    assert value(metrics, name, **TCG_COLD, outcome="success", fw_cfg_dma="false") == 1
    assert value(metrics, name, **TCG_COLD, outcome="failure", fw_cfg_dma="unknown") == 1
    assert value(metrics, name, **TCG_COLD, outcome="cancelled", fw_cfg_dma="true") == 1


def test_kinds_of_host_are_counted_apart() -> None:
    """KVM on an emulated host adds nothing to what hardware did; the label has a closed set of values."""
    metrics = LaunchMetrics()
    for made in (BARE, VIRTUALISED, EMULATED, INSTRUCTIONS, INSTRUCTIONS, NOWHERE):
        metrics.observe(event(1, accel="kvm", provenance=made))
    metrics.observe(event(2, accel="kvm") | {"host": "x" * 99, "clock": 7})
    kind = {"profile": "aarch64-uefi", "accel": "kvm", "start": "cold", "outcome": "success", "fw_cfg_dma": "true"}
    counted = {label: value(metrics, "guestlaunch_launches_total", **kind, made_on=label) for label in LABELS}
    assert counted == {"bare": 1, "virtualised": 1, "emulated": 1, "emulated-instructions": 2, "unknown": 2}


def test_experiments_are_not_counted() -> None:
    """A launch whose trap cost was modelled tells an operator nothing."""
    metrics = LaunchMetrics()
    metrics.observe(event(1) | {"extra_args": ["-plugin", f"/x/{INSTRUMENT_MARK}.so"]})
    assert value(metrics, "guestlaunch_launches_total", **TCG_COLD, outcome="success", fw_cfg_dma="true") is None


def test_failures_name_their_phase() -> None:
    """A failure is counted under the phase it happened in, a cancelled launch is none."""
    metrics = LaunchMetrics()
    metrics.observe(event(1, failed_in=Phase.KERNEL))
    metrics.observe(event(2, cancelled_in=Phase.KERNEL))
    assert value(metrics, "guestlaunch_launch_failures_total", **TCG_COLD, phase="kernel") == 1
    assert value(metrics, "guestlaunch_last_launch_timestamp_seconds", outcome="failure") == pytest.approx(
        1_750_000_060 + event(1, failed_in=Phase.KERNEL)["total_ns"] / 1e9
    )


def test_a_launch_is_timed_until_its_flag() -> None:
    """The launch histogram holds launch_ns, without the workload; a launch that never got ready is not in it."""
    metrics = LaunchMetrics()
    line = event(1)
    metrics.observe(line)
    metrics.observe(event(2, failed_in=Phase.INIT))
    labels = {**TCG_COLD, "fw_cfg_dma": "true"}
    assert value(metrics, "guestlaunch_launch_duration_seconds_count", **labels) == 1
    assert value(metrics, "guestlaunch_launch_duration_seconds_sum", **labels) == pytest.approx(line["launch_ns"] / 1e9)
    assert line["launch_ns"] < line["total_ns"]


def test_each_phase_seen_is_timed() -> None:
    """Phases carry their own durations, unseen ones are left out and never 0."""
    metrics = LaunchMetrics()
    line = event(1, start=Start.WARM)
    metrics.observe(line)
    labels = {**TCG_COLD, "start": "warm", "fw_cfg_dma": "unknown"}
    for phase in line["phases"]:
        seconds = value(metrics, "guestlaunch_phase_duration_seconds_sum", **labels, phase=phase["name"])
        assert seconds == pytest.approx(phase["duration_ns"] / 1e9)
    assert value(metrics, "guestlaunch_phase_duration_seconds_sum", **labels, phase="firmware") is None
    metrics.observe(event(2, failed_in=Phase.FIRMWARE))
    assert value(metrics, "guestlaunch_phase_duration_seconds_sum", **TCG_COLD, fw_cfg_dma="true", phase="init") is None


def test_the_transfer_has_bytes_time_and_rate() -> None:
    """Bytes, duration and rate agree; a warm launch transfers nothing."""
    metrics = LaunchMetrics()
    line = event(1)
    metrics.observe(line)
    metrics.observe(event(2, start=Start.WARM))
    labels = {**TCG_COLD, "fw_cfg_dma": "true"}
    size = KERNEL_BYTES + INITRD_BYTES
    assert value(metrics, "guestlaunch_transfer_bytes_total", **labels) == size
    rate = value(metrics, "guestlaunch_transfer_rate_bytes_per_second_sum", **labels)
    assert rate == pytest.approx(line["transfer_mb_per_s"] * 1e6)
    assert value(metrics, "guestlaunch_transfer_duration_seconds_sum", **labels) == pytest.approx(size / (rate or 0))
    assert value(metrics, "guestlaunch_transfer_bytes_total", **{**labels, "start": "warm"}) is None


@pytest.mark.parametrize("phase", [Phase.FW_CFG_KERNEL, Phase.FW_CFG_INITRD])
def test_a_transfer_that_broke_off_is_none(phase: Phase) -> None:
    """A launch that ended in the middle of the transfer adds neither bytes nor time to it."""
    metrics = LaunchMetrics()
    metrics.observe(event(1, failed_in=phase))
    labels = {**TCG_COLD, "fw_cfg_dma": "true"}
    assert value(metrics, "guestlaunch_transfer_bytes_total", **labels) is None
    assert value(metrics, "guestlaunch_transfer_duration_seconds_count", **labels) is None
    metrics.observe(event(2, cancelled_in=Phase.FIRMWARE_HANDOFF))
    assert value(metrics, "guestlaunch_transfer_bytes_total", **labels) == KERNEL_BYTES + INITRD_BYTES


@pytest.mark.parametrize(
    ("options", "requested", "verified", "count"),
    [
        ({}, "true", "true", 1),
        ({"dma": False}, "false", "false", 1),
        ({"dma": False, "requested": True}, "true", "false", 1),
        ({"dma": None, "requested": True}, "true", "unknown", 1),
        ({"dma": None, "requested": True, "failed_in": Phase.CREATE}, "true", "unknown", 0),
    ],
)
def test_dma_is_counted_as_asked_and_as_verified(
    options: dict[str, object], requested: str, verified: str, count: int | None
) -> None:
    """Every launch that came to the check is counted by both; one that failed before it is not."""
    metrics = LaunchMetrics()
    metrics.observe(event(1, **options))
    name = "guestlaunch_fw_cfg_dma_checks_total"
    assert value(metrics, name, **TCG_COLD, requested=requested, verified=verified) == count


def test_counters_of_a_kind_start_at_zero() -> None:
    """With the first launch of a kind all its counters are there, so that the first failure is an increase."""
    metrics = LaunchMetrics()
    metrics.observe(event(1))
    for phase in ("plan", "fw_cfg_kernel", "shutdown"):
        assert value(metrics, "guestlaunch_launch_failures_total", **TCG_COLD, phase=phase) == 0
    assert value(metrics, "guestlaunch_launch_failures_total", **TCG_COLD, phase="restore") is None
    assert value(metrics, "guestlaunch_launches_total", **TCG_COLD, outcome="failure", fw_cfg_dma="true") == 0
    name = "guestlaunch_fw_cfg_dma_checks_total"
    assert value(metrics, name, **TCG_COLD, requested="true", verified="false") == 0


def test_versions_follow_the_latest_launch() -> None:
    """A component has one version at a time; unknown ones are left out."""
    metrics = LaunchMetrics()
    metrics.observe(event(1, qemu="7.2.22"))
    metrics.observe(event(2, qemu="8.0.0"))
    name = "guestlaunch_component_info"
    assert value(metrics, name, component="qemu", version="8.0.0") == 1
    assert value(metrics, name, component="qemu", version="7.2.22") is None
    assert "kernel" not in exposition(metrics.registry).split(f"{name}{{", 1)[1].split("\n# ")[0]
    assert f'version="{__version__}"' in exposition(metrics.registry)


def test_in_flight_is_asked_at_the_scrape_or_left_out() -> None:
    """Who knows the running launches is asked each time; who does not shows no number."""
    running = [0]
    metrics = LaunchMetrics(in_flight=lambda: running[0])
    running[0] = 3
    assert value(metrics, "guestlaunch_launches_in_flight") == 3
    assert value(LaunchMetrics(), "guestlaunch_launches_in_flight") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.update(event="phase_finished"),
        lambda line: line.update(schema_version=2),
        lambda line: line.pop("phases"),
        lambda line: line.update(phases=None),
        lambda line: line.update(fw_cfg_dma="yes"),
        lambda line: line.update(timestamp="yesterday"),
        lambda line: line.update(versions=[]),
        lambda line: line.update(start="lukewarm"),
    ],
)
def test_a_damaged_event_counts_nowhere(damage: Callable[[dict[str, object]], object]) -> None:
    """An event that cannot be understood is refused before anything is counted."""
    metrics = LaunchMetrics()
    before = exposition(metrics.registry)
    line = event(1)
    damage(line)
    with pytest.raises(ValueError, match="launch_finished|timestamp|isoformat|lukewarm"):
        metrics.observe(line)
    assert exposition(metrics.registry) == before


def test_a_scrape_shows_the_registry() -> None:
    """What was counted is what an HTTP client reads, and the port is free again afterwards."""
    metrics = LaunchMetrics()
    metrics.observe(event(1))
    with serve(metrics.registry, "127.0.0.1:0") as url:
        with urllib.request.urlopen(url, timeout=10) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        port = int(url.rsplit(":", 1)[1].split("/")[0])
    assert families["guestlaunch_launches"].samples[0].value == 1
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_taken_port_is_one_line() -> None:
    """A port in use is named, with what to do, and no traceback's worth of text."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CapabilityError, match=f"cannot listen for metrics: {address}: .*in use") as caught:
            serve(LaunchMetrics().registry, address).__enter__()
    assert "\n" not in str(caught.value)


def test_an_unknown_host_is_one_line() -> None:
    """A host that is not there is a listening failure too."""
    with pytest.raises(CapabilityError, match="cannot listen for metrics"):
        serve(LaunchMetrics().registry, "no-such-host.invalid:0").__enter__()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("[::1]:0", ("::1", 0)),
        ("metrics.example:80", ("metrics.example", 80)),
    ],
)
def test_addresses_are_understood(address: str, expected: tuple[str, int]) -> None:
    """Host and port, IPv6 in brackets, this host when none is named."""
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address", ["", "9464", "host", "host:", "host:http", "::1:80", "host:65536", "host:-1", "h:١"]
)
def test_other_addresses_are_refused(address: str) -> None:
    """What is no address is named."""
    with pytest.raises(SettingsError, match="not an address"):
        parse_address(address)


def test_kernels_that_were_tried_are_no_launches() -> None:
    """They are counted by their verdict and timed by their boot, and nothing of them is among launches."""
    metrics = LaunchMetrics()
    for run in (record(), record(3), record(121, verdict="panic")):
        metrics.provisioned.observe(to_event(run))
    kind = {"profile": "aarch64-uefi", "accel": "tcg", "made_on": "unknown"}
    name = "guestlaunch_kernel_runs_total"
    assert value(metrics, name, **kind, verdict="command") == 2
    assert value(metrics, name, **kind, verdict="panic") == 1
    assert value(metrics, "guestlaunch_kernel_boot_duration_seconds_sum", **kind, fw_cfg_dma="unknown") == 9
    families = [one for one in metrics.registry.collect() if one.name.startswith("guestlaunch_launch")]
    assert not [sample for family in families for sample in family.samples if sample.labels.get("profile")]
    with pytest.raises(ValueError, match="not a launch_finished"):
        metrics.observe(to_event(record()))
    with pytest.raises(ValueError, match="incomplete kernel_run_finished"):
        metrics.provisioned.observe({"event": "kernel_run_finished"})  # type: ignore[typeddict-item]


def test_installations_and_vms_are_no_launches() -> None:
    """Steps are counted by their verdict, VMs by whether they were made; only what came to its end is timed."""
    metrics = LaunchMetrics()
    for one in provisioned():
        metrics.provisioned.observe(to_event(one))
    kind = {"profile": "aarch64-uefi", "accel": "tcg", "made_on": "unknown"}
    steps, step_s = "guestlaunch_install_steps_total", "guestlaunch_install_step_duration_seconds_count"
    assert value(metrics, steps, **kind, step="installer", verdict="done") == 1
    assert value(metrics, steps, **kind, step="first_boot", verdict="panic") == 1
    assert value(metrics, step_s, **kind, step="installer") == 1
    assert value(metrics, step_s, **kind, step="first_boot") is None
    assert value(metrics, "guestlaunch_vm_boots_total", **kind, how="created", outcome="success") == 1
    assert value(metrics, "guestlaunch_vm_ready_duration_seconds_sum", **kind, how="created") == 9
    families = [one for one in metrics.registry.collect() if one.name.startswith("guestlaunch_launch")]
    assert not [sample for family in families for sample in family.samples if sample.labels.get("profile")]
    with pytest.raises(ValueError, match="none of kernel_run_finished, install_step_finished, vm_boot_finished"):
        metrics.provisioned.observe({"event": "launch_finished"})  # type: ignore[typeddict-item]
