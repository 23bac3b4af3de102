"""What the store of launches returns, as typed rows."""

from __future__ import annotations

from typing import TypedDict


class KindRow(TypedDict):
    """What keeps launches apart; `modelled` is as `filters.is_modelled` tells, `made_on` a label of `provenance`."""

    profile: str
    accel: str | None
    start: str
    fw_cfg_dma: bool | None
    modelled: bool
    made_on: str


class LaunchRow(KindRow):
    """A launch in short; `kind` is what was launched (`phases.Kind`)."""

    launch_id: str
    kind: str
    wall_start_ns: int
    arch: str | None
    outcome: str
    error_phase: str | None
    launch_ns: int | None
    transfer_ns: int | None
    total_ns: int


class SettledRow(KindRow):
    """A successful cold launch whose transfer path is known."""

    wall_start_ns: int
    launch_ns: int | None
    transfer_ns: int | None


class TotalRow(KindRow):
    """How many launches of a kind there are, and when the first and the last began."""

    outcome: str
    launches: int
    first_ns: int
    last_ns: int
