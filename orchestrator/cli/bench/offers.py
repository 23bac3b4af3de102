"""The sides of benchmarks that launch with daemons of their own, made one by one; what cannot be had is left out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.appliance.fixed import check_version
from orchestrator.appliance.manifest import Init
from orchestrator.appliance.store import resolve
from orchestrator.appliance.version import host_version
from orchestrator.bench import seed, sides, start_sides
from orchestrator.bench.daemons import StandbyDaemon, standing_by
from orchestrator.bench.start_sides import COLD, OURS, REFERENCE, STANDBY, WARM, LeftOut
from orchestrator.cli.bench.session import environ_of
from orchestrator.cli.progress import shown
from orchestrator.domain.model import Accel, Arch
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import ApplianceError, CapabilityError, GuestlaunchError, NotFoundError, UsageError
from orchestrator.settings import Settings, variable
from orchestrator.workload.environment import tool_environment

if TYPE_CHECKING:  # SciPy comes with it: imported by the commands that compute
    from orchestrator.bench.recording import Recording
    from orchestrator.bench.rounds import Side
    from orchestrator.bench.sides import Work

_COLD = (start_sides.COLD_WITHOUT_DMA, COLD)
_BUILD_SECONDS = 1800.0


def tried(rows: Sequence[str], offers: Offers, recording: Recording, deadline_s: float) -> list[Side]:
    """Return the sides that this host can have; the others are noted with the reason.

    :raise UsageError: it can have none.
    """
    found: list[Side] = []
    with shown("bench") as tell:
        for number, name in enumerate(rows):
            tell(f"trying: {name}", number / len(rows))
            try:
                offered = offers.side(name)
                out = offers.why_not(name, offered, deadline_s)
            except GuestlaunchError as error:
                out = LeftOut(side=name, reason=str(error))
            if out is None:
                found += offered
            else:
                offers.withdraw(name)
                recording.leave_out(out.side, out.reason)
                click.echo(f"bench: left out: {out.side}: {out.reason}", err=True)
    if not found:
        raise UsageError("nothing to measure", ", ".join(rows), "none of them can be had on this host")
    return found


class Offers:
    """Makes the sides, each with all that it needs.

    :param stack: ends what runs for a side.
    :param clones: how many the standby side's daemon keeps ready; one is enough for launches that follow each other.
    """

    def __init__(
        self, work: Work, settings: Settings, folder: Path, stack: contextlib.ExitStack, *, clones: int = 1
    ) -> None:
        self._clones = clones
        self._work, self._settings, self._folder = work, settings, folder
        self._profile = load_profile(settings.profile)
        self._facts = {"profile": settings.profile, "accel": settings.accel, "arch": str(self._profile.arch)}
        self._environ = _alone(settings, folder)
        self._standby = stack.enter_context(contextlib.ExitStack())
        self._daemon: StandbyDaemon | None = None
        self._warmed_up = False
        self._plain = stack.enter_context(standing_by(folder / "run", self._environ, clones=0))

    def side(self, name: str) -> tuple[Side, ...]:
        """Return a side by its name.

        :raise GuestlaunchError: what it needs cannot be had.
        """
        if name == REFERENCE:
            return self._reference()
        if name == seed.STOCK:
            return self._stock()
        if name in seed.NAIVE.values():
            return self._naive(name)
        if name == STANDBY:
            self._daemon = self._standby.enter_context(
                standing_by(self._folder / "run", self._environ, clones=self._clones)
            )
        return start_sides.ours(name, self._work, self._environ_of(name), self._facts)

    def why_not(self, name: str, offered: tuple[Side, ...], deadline_s: float) -> LeftOut | None:
        """Return why a side cannot be had on this host, None when it can. What it clones is made here, untimed."""
        if name in _COLD or name == seed.NAIVE[False]:
            # That can be had everywhere: where it fails, that is an error and no side to be left out. The first launch
            # of a daemon has libvirt ask QEMU what it can; where no other side's try was that launch, one with DMA is.
            if name == COLD and not self._warmed_up:
                start_sides.tried(offered, deadline_s=deadline_s)
                self._warmed_up = True
            return None
        out = None
        if name in (WARM, STANDBY):
            first = start_sides.first_warm(name, self._work, self._environ_of(name), self._facts)
            out = start_sides.tried(first, deadline_s=deadline_s)
            self._warmed_up |= name == WARM  # the standby side has a daemon of its own
            self.wait()
        return out or start_sides.tried(offered, deadline_s=deadline_s)

    def environ(self) -> dict[str, str]:
        """Return the environment in which tools launch by the way, to make what a benchmark needs."""
        return {**self._environ_of(COLD), **{variable(key): value for key, value in OURS[WARM].items()}}

    def _environ_of(self, name: str) -> dict[str, str]:
        """Return the environment of one of our sides: what `guestlaunch env` gives, and a daemon of ours."""
        daemon = self._daemon if name == STANDBY and self._daemon is not None else self._plain
        return dict(tool_environment(self._environ, self._settings, socket=daemon.socket).variables)

    def _reference(self) -> tuple[Side, ...]:
        own = start_sides.has_own_reference(self._profile)
        appliance = None if own else _reference_appliance(self._profile.arch, self._settings)
        environ = dict(os.environ)
        if self._settings.memory_mib is not None:
            environ["LIBGUESTFS_MEMSIZE"] = str(self._settings.memory_mib)
        return start_sides.reference(
            self._work, self._profile, Accel(self._settings.accel), appliance=appliance, folder=self._folder,
            environ=environ,
        )  # fmt: skip

    def _stock(self) -> tuple[Side, ...]:
        if not start_sides.has_own_reference(self._profile):
            why = f"it launches {os.uname().machine} guests only, the profile is for {self._profile.arch}"
            raise CapabilityError("cannot measure", seed.STOCK, why)
        # That of the naive launches: libguestfs makes its own only where the files of its packages are at hand.
        appliance = _reference_appliance(self._profile.arch, self._settings)
        return sides.stock(seed.STOCK, self._work, Accel(self._settings.accel), os.environ, appliance=appliance)

    def _naive(self, name: str) -> tuple[Side, ...]:
        return sides.direct(
            name, self._work, profile=self._profile, accel=Accel(self._settings.accel),
            appliance=_reference_appliance(self._profile.arch, self._settings), folder=self._folder,
            environ=os.environ, fw_cfg_dma=name == seed.NAIVE[True],
        )  # fmt: skip

    def withdraw(self, name: str) -> None:
        """End what runs for a side that is left out."""
        if name == STANDBY:
            self._daemon = None
            self._standby.close()

    def wait(self) -> None:
        """Return once nothing works in the background for the last run: its clone was replaced, or never will be.

        A run without its clone is not counted, so nothing needs to be said here.
        """
        if self._daemon is not None:
            self._daemon.wait()


def _alone(settings: Settings, folder: Path) -> dict[str, str]:
    """Return the environment of our sides: no daemon of the user's serves them, so that each is what it is named."""
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    environ = environ_of(replace(settings, runtime_dir=runtime, log=str(folder / "events.jsonl")))
    environ.pop("GUESTLAUNCH_SOCKET", None)
    return environ


def _reference_appliance(arch: Arch, settings: Settings) -> Path:
    """Return the directory of the appliance with libguestfs's own init; build it where there is none that fits.

    :raise GuestlaunchError: it cannot be built.
    """
    with contextlib.suppress(NotFoundError, ApplianceError):
        found = resolve(settings.appliance_store, arch, Init.STOCK)
        check_version(found, host_version() or "")
        return found.path
    from orchestrator.appliance.build import build  # here: only building needs all of it
    from orchestrator.appliance.command import Deadline

    with shown(f"the reference's appliance for {arch}") as progress:
        deadline = Deadline.after(_BUILD_SECONDS)
        return build(arch, settings.appliance_store, init=Init.STOCK, progress=progress, deadline=deadline).path
