"""What the dashboard of the log shows: LogQL over the JSON lines of the event log."""

from __future__ import annotations

from panel import Panel, Row

# Only the fields that a query needs are taken out of a line: `| json` alone would make dozens of labels of each.
LAUNCH_LINES = '{job=~"$job"} |= `"launch_finished"`'
PHASE_LINES = '{job=~"$job"} |= `"phase_finished"`'

# Kernels that are tried have an event of their own: no panel of launches counts them.
KERNEL_LINES = '{job=~"$job"} |= `"kernel_run_finished"`'

KIND = ("profile", "accel", "host", "clock", "start")


def _fields(*names: str, **renamed: str) -> str:
    taken = {name: name for name in ("event", *names)} | renamed
    return "| json " + ", ".join(f'{label}="{path}"' for label, path in taken.items())


def _kind(event: str) -> str:
    made_on = '| host=~"$host" | clock=~"$clock"'
    return f'| event="{event}" | profile=~"$profile" | accel=~"$accel" {made_on} | start=~"$start"'


def _launches(*names: str, **renamed: str) -> str:
    fields = _fields(*KIND, *names, **renamed)
    return f"{LAUNCH_LINES} {fields} {_kind('launch_finished')}"


def _kernels(*names: str, **renamed: str) -> str:
    return f"{KERNEL_LINES} {_fields(*KIND, *names, **renamed)} {_kind('kernel_run_finished')}"


def _others(event: str, *names: str, **renamed: str) -> str:
    """Return lines of what is neither a launch nor a kernel's run."""
    return f'{{job=~"$job"}} |= `"{event}"` {_fields(*KIND, *names, **renamed)} {_kind(event)}'


def _over_time(function: str, field: str, by: str, *names: str, **renamed: str) -> str:
    """Return a range aggregation of a field; launches in which it is null drop out."""
    lines = f'{_launches(field, *names, **renamed)} | {field}!="" | unwrap {field} | __error__=""'
    return f"{function} {lines} [$window]) by ({by})"


PHASES = (
    f"avg_over_time({PHASE_LINES} {_fields(*KIND, 'phase', 'duration_ns')} "
    f"{_kind('phase_finished')} "
    '| duration_ns!="" | unwrap duration_ns | __error__="" [$window]) by (phase)'
)

KERNEL_BOOT = (
    f"quantile_over_time(0.5, {_kernels('launch_ns', 'fw_cfg_dma')}"
    ' | launch_ns!="" | unwrap launch_ns | __error__="" [$window]) by (accel, fw_cfg_dma)'
)
INSTALL_STEPS = _others("install_step_finished", step="install.step", verdict="install.verdict")
VM_BOOTS = _others("vm_boot_finished", "outcome", created="vm.created")
VM_FAILURES = (
    _others("vm_boot_finished", "launch_id", "outcome", "error", name="vm.name")
    + ' | outcome="failure" | line_format `{{.name}} {{.launch_id}} {{.profile}}: {{.error}}`'
)

ROWS = (
    Row(
        title="Launches",
        panels=(
            Panel(
                title="Launches by outcome",
                why="",
                shape="bars",
                queries=[
                    (f"sum by (outcome) (count_over_time({_launches('outcome')} [$__interval]))", "{{outcome}}"),
                ],
            ),
            Panel(
                title="Launch time, DMA against MMIO",
                why="Until the tool had its launch flag: median and 95th percentile.",
                shape="lines",
                queries=[
                    (
                        _over_time("quantile_over_time(0.5,", "launch_ns", "accel, fw_cfg_dma", "fw_cfg_dma"),
                        "median, {{accel}}, DMA {{fw_cfg_dma}}",
                    ),
                    (
                        _over_time("quantile_over_time(0.95,", "launch_ns", "accel, fw_cfg_dma", "fw_cfg_dma"),
                        "p95, {{accel}}, DMA {{fw_cfg_dma}}",
                    ),
                ],
                unit="ns",
            ),
            Panel(
                title="Transfer rate",
                why="Kernel and initrd through fw_cfg, median.",
                shape="lines",
                queries=[
                    (
                        _over_time("quantile_over_time(0.5,", "transfer_mb_per_s", "accel, fw_cfg_dma", "fw_cfg_dma"),
                        "{{accel}}, DMA {{fw_cfg_dma}}",
                    )
                ],
                unit="MBs",
            ),
            Panel(
                title="Mean of each phase",
                why="From the events of single phases.",
                shape="stack",
                queries=[
                    (
                        PHASES,
                        "{{phase}}",
                    )
                ],
                unit="ns",
            ),
        ),
    ),
    Row(
        title="Kernels that were tried",
        panels=(
            Panel(
                title="Runs by verdict",
                why="guestlaunch kernel: `command` is the end of the command that was run, with whatever status.",
                shape="bars",
                queries=[
                    (
                        "sum by (verdict) (count_over_time("
                        + _kernels(verdict="kernel_run.verdict")
                        + " [$__interval]))",
                        "{{verdict}}",
                    ),
                ],
            ),
            Panel(
                title="Time to the command",
                why="From the start of the run until its command began: median.",
                shape="lines",
                queries=[
                    (
                        KERNEL_BOOT,
                        "{{accel}}, DMA {{fw_cfg_dma}}",
                    )
                ],
                unit="ns",
            ),
            Panel(
                title="Runs without the command's end",
                why="Verdict, id, profile and reason of each.",
                shape="logs",
                queries=[
                    (
                        _kernels("launch_id", "outcome", "error", verdict="kernel_run.verdict")
                        + ' | outcome="failure" '
                        + "| line_format `{{.verdict}} {{.launch_id}} {{.profile}}: {{.error}}`",
                        "",
                    )
                ],
                width=24,
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
                queries=[
                    (
                        f"sum by (step, verdict) (count_over_time({INSTALL_STEPS} [$__interval]))",
                        "{{step}}: {{verdict}}",
                    )
                ],
            ),
            Panel(
                title="VMs by outcome",
                why="guestlaunch vm: VMs that were created, or started again.",
                shape="bars",
                queries=[
                    (
                        f"sum by (created, outcome) (count_over_time({VM_BOOTS} [$__interval]))",
                        "created: {{created}}, {{outcome}}",
                    )
                ],
            ),
            Panel(
                title="VMs that did not become ready",
                why="Name, id, profile and reason of each.",
                shape="logs",
                queries=[(VM_FAILURES, "")],
                width=24,
            ),
        ),
    ),
    Row(
        title="What went wrong",
        panels=(
            Panel(
                title="Failed launches",
                why="Phase, launch id, profile and error of each; the console's tail is in the line itself.",
                shape="logs",
                queries=[
                    (
                        _launches("outcome", "launch_id", "error", "error_phase")
                        + ' | outcome="failure" '
                        + "| line_format `{{.error_phase}} {{.launch_id}} {{.profile}}: {{.error}}`",
                        "",
                    )
                ],
                width=24,
            ),
            Panel(
                title="DMA asked for, not active",
                why="Launches that asked for fw_cfg DMA and were found without it, with the QEMU they ran on.",
                shape="logs",
                queries=[
                    (
                        _launches("launch_id", "fw_cfg_dma", requested="fw_cfg.requested", qemu="versions.qemu")
                        + ' | requested="true" | fw_cfg_dma="false" '
                        + "| line_format `{{.launch_id}} {{.profile}} {{.accel}} QEMU {{.qemu}}`",
                        "",
                    )
                ],
                width=24,
            ),
            Panel(
                title="Warnings and errors",
                why="Everything else that was logged above information.",
                shape="logs",
                queries=[
                    (
                        '{job=~"$job"} ' + _fields("level") + ' | level=~"warning|error" | event!="launch_finished"',
                        "",
                    )
                ],
                width=24,
            ),
        ),
    ),
)
