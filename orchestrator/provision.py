"""Provisioning from Python: VMs of images, systems installed from trees, kernels tried, as values and context managers.

What `guestlaunch vm`, `install` and `kernel run` do is done here by the same functions of the same rooms. Whoever
leaves a context leaves nothing of what it made. The distribution is called guestlaunch and its package orchestrator,
so that this is `orchestrator.provision`. `orchestrator/vm/README.md` has a tour.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.domain.model import Arch
from orchestrator.errors import InstallationError, LaunchError
from orchestrator.hypervisor.connection import Connection
from orchestrator.install.request import InstallRequest
from orchestrator.install.run import Installed, carry_out
from orchestrator.kernel.request import KernelRequest
from orchestrator.kernel.run import CarriedRun
from orchestrator.kernel.runner import Runner
from orchestrator.kernel.start import Attached
from orchestrator.launch.stop import Stop
from orchestrator.records.record import LaunchRecord
from orchestrator.settings import Settings, load
from orchestrator.timeline.phases import Kind
from orchestrator.vm import create as making
from orchestrator.vm import known, ssh
from orchestrator.vm.customization import Customization
from orchestrator.vm.folder import default_folder
from orchestrator.vm.image import VmImage, architecture, read_image, read_loaders
from orchestrator.vm.own_commands import appliance_settings, reading_profile, run_job
from orchestrator.vm.request import PoolVolume, ReadySign, VmRequest

__all__ = [
    "Customization",
    "Image",
    "InstallRequest",
    "Installation",
    "KernelRequest",
    "KernelRun",
    "PoolVolume",
    "ReadySign",
    "VirtualMachine",
    "VmRequest",
]

Say = Callable[[str], None]


def _silent(_text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A disk image.

    :ivar format: what it is; None where its header is to tell, if that is certain.
    """

    path: Path
    format: str | None = None

    def header(self) -> VmImage:
        """Return its format and virtual size.

        :raise DiskError: it cannot be read, or its format cannot be told.
        """
        return read_image(self.path.absolute(), self.format, copied=True)

    def architecture(self, settings: Settings | None = None) -> Arch:
        """Return which architecture its UEFI loader is for, looked up by an appliance and remembered.

        :raise GuestlaunchError: it has none, or several.
        """
        settings = settings or load()
        header = self.header()
        with Stop() as stop:
            look = partial(run_job, settings=appliance_settings(settings, reading_profile(settings)), stop=stop)
            return architecture(header.path, read_loaders(header, settings.state_dir, look), None, by_entry=False)


class VirtualMachine:
    """A VM, made of an image when its context is entered, and removed when that is left; one that was there stays.

    Without a context, `create` and `delete` do the same.

    :param request: what it is; `settings` the user's own if None.
    :param folder: below which its files are; where `guestlaunch vm` has them if None.
    :param step: takes how far it is, in words.
    """

    def __init__(
        self, request: VmRequest, *, settings: Settings | None = None, folder: Path | None = None, step: Say = _silent
    ) -> None:
        self.request = request
        self.settings = settings or load()
        self.uri = making.default_uri(self.settings)
        self._parent = (folder or default_folder(self.settings, self.uri)).absolute()
        self._step = step
        self.created: making.Created | None = None

    def __enter__(self) -> Self:
        self.create()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.created is not None and self.created.made:
            self.delete()

    def create(self) -> making.Created:
        """Make it and wait until it is ready; one that is there is left as it is, and started if it is off.

        :raise GuestlaunchError: it cannot be made; then nothing is left of it.
        """
        with self._place() as place:
            self.created = making.create(self.request, place)
        return self.created

    def start(self) -> LaunchRecord:
        """Start it, and wait until it is ready.

        :raise GuestlaunchError: it does not become ready.
        """
        with self._place() as place, self._found() as (connection, found):
            request = self.request
            return making.start(found, connection, place, request.ready, request.timeout_s)

    def stop(self, deadline_s: float = 120.0, *, force: bool = False) -> None:
        """Shut it down by its power button, or pull the plug.

        :raise DeadlineError: it is not off in time.
        """
        with self._found() as (_, found):
            if force:
                found.domain.destroy()
            elif found.domain.is_active:
                found.domain.shut_down(deadline_s)

    def delete(self) -> None:
        """Remove it, running or not, and all that was made for it.

        :raise GuestlaunchError: there is none, or it is none of ours.
        """
        with making.connected(self.settings, self.uri) as connection:
            known.delete(connection, self.request.name, self._parent, force=True, tell=self._step)

    def state(self) -> str:
        """Return how it is, in libvirt's words.

        :raise GuestlaunchError: there is none, or it is none of ours.
        """
        with self._found() as (_, found):
            return str(found.state)

    def run(
        self, command: Sequence[str], *, user: str | None = None, deadline_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it by ssh, whose words reach it as they are, and return what came of it.

        :raise GuestlaunchError: it cannot be reached.
        """
        with self._found() as (connection, found):
            way = ssh.reached(found.domain, found.note, deadline_s, lambda: False, here=connection.is_local)
            with way as (address, port):
                words = ssh.command(found.note, address, port, user, ("--", shlex.join(command)))
                return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    @contextlib.contextmanager
    def _place(self) -> Iterator[making.VmPlace]:
        with Stop() as stop:
            yield making.VmPlace(
                settings=self.settings, uri=self.uri, parent=self._parent, stop=stop, step=self._step, tell=self._step
            )

    @contextlib.contextmanager
    def _found(self) -> Iterator[tuple[Connection, known.KnownVm]]:
        with making.connected(self.settings, self.uri) as connection:
            yield connection, known.find(connection, self.request.name)


class Installation:
    """A system, installed when its context is entered, whose disks and variables are removed when that is left.

    Disks that were there before stay. Without a context, `carry_out` leaves them all.
    """

    def __init__(self, request: InstallRequest, *, settings: Settings | None = None, step: Say = _silent) -> None:
        self.request = request
        self.settings = settings or load()
        self._step = step
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        self.request.check()
        made = [*self.request.disks, self.request.kept_nvram]
        self._made = [path for path in made if not path.exists()]
        self.carry_out()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in self._made:
            path.unlink(missing_ok=True)

    def carry_out(self) -> Installed:
        """Install, and boot what was installed once.

        :raise GuestlaunchError: it is not installed, or does not boot; then nothing is left of it.
        """
        with Stop() as stop:
            done = carry_out(
                self.request, self.settings, stop, attached=Attached(), console=None,
                terminal=contextlib.nullcontext, progress=lambda _: None, tell=self._step,
            )  # fmt: skip
        if not done.good:
            last = done.steps[-1]
            why = last.error or "it was ended"
            raise InstallationError("not installed", os.fspath(self.request.disks[0]), why)
        return done


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRun:
    """A kernel that is tried; nothing is left of it.

    :ivar settings: the user's own if None.
    """

    request: KernelRequest
    settings: Settings = field(default_factory=load)

    def carry_out(self) -> LaunchRecord:
        """Boot it and run its command; the record has the verdict, and the command's status.

        :raise LaunchError: what was asked for cannot be tried.
        """
        self.request.check()
        with Stop() as stop, Runner(self.settings, Kind.KERNEL) as runner:
            record = runner.carry_out(CarriedRun(self.request, self.settings), stop)
        if record.kernel_run is None:
            raise LaunchError("cannot try the kernel", self.request.kernel, record.error or "no record")
        return record
