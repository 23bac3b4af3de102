"""What the dashboard of metrics shows: PromQL over what orchestrator/telemetry/metrics.py counts.

TCG and KVM are never pooled, nor are kinds of host, or cold and warm launches: each is chosen one at a time.
"""

from __future__ import annotations

from panel import Panel, Row

RUN = 'profile=~"$profile", accel="$accel", made_on="$made_on"'
KIND = f'{RUN}, start="$start"'


def _quantile(quantile: float, metric: str, by: str = "", window: str = "$window") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket{{{KIND}}}[{window}])))"


def _mean(metric: str, by: str, more: str = "") -> str:
    parts = (f"sum by ({by}) (rate({metric}_{part}{{{KIND}{more}}}[$window]))" for part in ("sum", "count"))
    return " / ".join(parts)


def _increase(metric: str, more: str = "", by: str = "", window: str = "$__rate_interval") -> str:
    return f"sum {f'by ({by}) ' if by else ''}(increase({metric}{{{KIND}{more}}}[{window}]))"


LAUNCH = "guestlaunch_launch_duration_seconds"
PHASE = "guestlaunch_phase_duration_seconds"
TRANSFER = "guestlaunch_transfer_duration_seconds"
RATE = (
    f"sum by (fw_cfg_dma) (rate(guestlaunch_transfer_bytes_total{{{KIND}}}[$window]))"
    f" / sum by (fw_cfg_dma) (rate({TRANSFER}_sum{{{KIND}}}[$window]))"
)
# Kernels that are tried are no launches, and start in one way only.
KERNEL_RUNS = f"sum by (verdict) (increase(guestlaunch_kernel_runs_total{{{RUN}}}[$__rate_interval]))"
KERNEL_BOOT = (
    "histogram_quantile(0.5, sum by (le, fw_cfg_dma)"
    f" (rate(guestlaunch_kernel_boot_duration_seconds_bucket{{{RUN}}}[$window])))"
)
# So do installations, step by step, and VMs.
INSTALL_STEPS = f"sum by (step, verdict) (increase(guestlaunch_install_steps_total{{{RUN}}}[$__rate_interval]))"
VM_BOOTS = f"sum by (how, outcome) (increase(guestlaunch_vm_boots_total{{{RUN}}}[$__rate_interval]))"
VM_READY = (
    f"histogram_quantile(0.5, sum by (le, how) (rate(guestlaunch_vm_ready_duration_seconds_bucket{{{RUN}}}[$window])))"
)
INSTALL_TIME = (
    "histogram_quantile(0.5, sum by (le, step)"
    f" (rate(guestlaunch_install_step_duration_seconds_bucket{{{RUN}}}[$window])))"
)
FINISHED = ', outcome=~"success|failure"'

ROWS = (
    Row(
        title="At a glance",
        panels=(
            Panel(
                title="Launches",
                why="Launches that ended in the time shown.",
                shape="stat",
                queries=[(_increase("guestlaunch_launches_total", window="$__range"), "")],
                width=4,
                height=4,
            ),
            Panel(
                title="Succeeded",
                why="Share of launches that succeeded, of those that were not cancelled.",
                shape="stat",
                queries=[
                    (
                        _increase("guestlaunch_launches_total", ', outcome="success"', window="$__range")
                        + " / "
                        + _increase("guestlaunch_launches_total", FINISHED, window="$__range"),
                        "",
                    )
                ],
                unit="percentunit",
                width=4,
                height=4,
                alarm_below=0.99,
            ),
            Panel(
                title="Launch, median and p95",
                why="From the client's start until the tool had its launch flag.",
                shape="stat",
                queries=[
                    (_quantile(0.5, LAUNCH, window="$__range"), "median"),
                    (_quantile(0.95, LAUNCH, window="$__range"), "p95"),
                ],
                unit="s",
                width=6,
                height=4,
            ),
            Panel(
                title="In flight",
                why="Launches under way now, all kinds; only daemons know.",
                shape="stat",
                queries=[("sum(guestlaunch_launches_in_flight)", "")],
                width=3,
                height=4,
            ),
            Panel(
                title="DMA asked for, not active",
                why="Launches that asked for fw_cfg DMA and were found without it.",
                shape="stat",
                queries=[
                    (
                        _increase(
                            "guestlaunch_fw_cfg_dma_checks_total",
                            ', requested="true", verified="false"',
                            window="$__range",
                        ),
                        "",
                    )
                ],
                width=4,
                height=4,
                alarm_above=0.5,
            ),
            Panel(
                title="Latest launch",
                why="Time since a launch ended, all kinds.",
                shape="stat",
                queries=[("time() - max(guestlaunch_last_launch_timestamp_seconds)", "")],
                unit="s",
                width=3,
                height=4,
            ),
        ),
    ),
    Row(
        title="Launches",
        panels=(
            Panel(
                title="Launches by outcome",
                why="",
                shape="bars",
                queries=[(_increase("guestlaunch_launches_total", by="outcome"), "{{outcome}}")],
            ),
            Panel(
                title="Launch time, DMA against MMIO",
                why="Median and 95th percentile; true is fw_cfg DMA as verified.",
                shape="lines",
                queries=[
                    (_quantile(0.5, LAUNCH, "fw_cfg_dma"), "median, DMA {{fw_cfg_dma}}"),
                    (_quantile(0.95, LAUNCH, "fw_cfg_dma"), "p95, DMA {{fw_cfg_dma}}"),
                ],
                unit="s",
            ),
            Panel(
                title="Distribution of launch times",
                why="Two bands are two populations: look for what they differ in.",
                shape="heatmap",
                queries=[(_increase(f"{LAUNCH}_bucket", by="le"), "{{le}}")],
                unit="s",
                width=24,
            ),
        ),
    ),
    Row(
        title="Where the time goes",
        panels=(
            Panel(
                title="Mean of each phase",
                why="The phases tile a launch: their stack is the mean launch.",
                shape="stack",
                queries=[(_mean(PHASE, "phase"), "{{phase}}")],
                unit="s",
            ),
            Panel(
                title="95th percentile of each phase",
                why="Over the window, slowest phases first to suspect.",
                shape="gauges",
                queries=[(_quantile(0.95, PHASE, "phase"), "{{phase}}")],
                unit="s",
            ),
        ),
    ),
    Row(
        title="fw_cfg transfer",
        panels=(
            Panel(
                title="Transfer time",
                why="fw_cfg_kernel and fw_cfg_initrd together: mean and 95th percentile.",
                shape="lines",
                queries=[
                    (_mean(TRANSFER, "fw_cfg_dma"), "mean, DMA {{fw_cfg_dma}}"),
                    (_quantile(0.95, TRANSFER, "fw_cfg_dma"), "p95, DMA {{fw_cfg_dma}}"),
                ],
                unit="s",
            ),
            Panel(
                title="Transfer rate",
                why="All bytes by all time, and the median of the launches.",
                shape="lines",
                queries=[
                    (
                        RATE,
                        "mean, DMA {{fw_cfg_dma}}",
                    ),
                    (
                        _quantile(0.5, "guestlaunch_transfer_rate_bytes_per_second", "fw_cfg_dma"),
                        "median, DMA {{fw_cfg_dma}}",
                    ),
                ],
                unit="Bps",
            ),
            Panel(
                title="Kernel against initrd",
                why="Mean of the two transfer phases.",
                shape="lines",
                queries=[
                    (
                        _mean(PHASE, "phase, fw_cfg_dma", ', phase=~"fw_cfg_.+"'),
                        "{{phase}}, DMA {{fw_cfg_dma}}",
                    )
                ],
                unit="s",
            ),
            Panel(
                title="DMA as asked for and as verified",
                why="requested=true with verified=false means that launches pay for MMIO that they did not ask for.",
                shape="bars",
                queries=[
                    (
                        _increase("guestlaunch_fw_cfg_dma_checks_total", by="requested, verified"),
                        "asked {{requested}}, verified {{verified}}",
                    )
                ],
            ),
        ),
    ),
    Row(
        title="Kernels that were tried",
        panels=(
            Panel(
                title="Kernel runs by verdict",
                why="guestlaunch kernel: `command` is the end of the command that was run, with whatever status.",
                shape="bars",
                queries=[(KERNEL_RUNS, "{{verdict}}")],
            ),
            Panel(
                title="Time to a kernel's command",
                why="From the start of the virtual CPUs until the command began: median.",
                shape="lines",
                queries=[(KERNEL_BOOT, "DMA {{fw_cfg_dma}}")],
                unit="s",
            ),
        ),
    ),
    Row(
        title="Installations and VMs",
        panels=(
            Panel(
                title="Steps of installations by verdict",
                why="guestlaunch install: the installer, and the first boot of what it made; `done` is the success.",
                shape="bars",
                queries=[(INSTALL_STEPS, "{{step}}: {{verdict}}")],
            ),
            Panel(
                title="Time of an installation's steps",
                why="Of steps that were done: median.",
                shape="lines",
                queries=[(INSTALL_TIME, "{{step}}")],
                unit="s",
            ),
            Panel(
                title="VMs by outcome",
                why="guestlaunch vm: VMs that were created, or started again.",
                shape="bars",
                queries=[(VM_BOOTS, "{{how}}: {{outcome}}")],
            ),
            Panel(
                title="Time until a VM is ready",
                why="From the start of the virtual CPUs: median.",
                shape="lines",
                queries=[(VM_READY, "{{how}}")],
                unit="s",
            ),
        ),
    ),
    Row(
        title="Failures and versions",
        panels=(
            Panel(
                title="Failures by phase",
                why="The phase in which a launch failed.",
                shape="bars",
                queries=[(_increase("guestlaunch_launch_failures_total", by="phase"), "{{phase}}")],
            ),
            Panel(
                title="Versions",
                why="What the latest launch of each host ran with.",
                shape="table",
                queries=[
                    ("guestlaunch_component_info", ""),
                    ("guestlaunch_build_info", ""),
                ],
            ),
        ),
    ),
)
