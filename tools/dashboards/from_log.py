"""What the dashboard of the log shows: LogQL over the JSON lines of the event log."""

from __future__ import annotations

from panel import Panel, Row

# Only the fields that a query needs are taken out of a line: `| json` alone would make dozens of labels of each.
LAUNCH_LINES = '{job=~"$job"} |= `"launch_finished"`'
PHASE_LINES = '{job=~"$job"} |= `"phase_finished"`'

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


def _over_time(function: str, field: str, by: str, *names: str, **renamed: str) -> str:
    """Return a range aggregation of a field; launches in which it is null drop out."""
    lines = f'{_launches(field, *names, **renamed)} | {field}!="" | unwrap {field} | __error__=""'
    return f"{function} {lines} [$window]) by ({by})"


PHASES = (
    f"avg_over_time({PHASE_LINES} {_fields(*KIND, 'phase', 'duration_ns')} "
    f"{_kind('phase_finished')} "
    '| duration_ns!="" | unwrap duration_ns | __error__="" [$window]) by (phase)'
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
