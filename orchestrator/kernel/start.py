"""The start of a kernel that is tried: a cold one, of what the user gave, with the command's streams beside it."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.channel.port import listening
from orchestrator.channel.streams import Input, Marks, Output, Streams
from orchestrator.domain.model import Channel, Domain, FirmwareKind, FwCfgFile, Loader, Share
from orchestrator.errors import LaunchError
from orchestrator.firmware.flash import fitting
from orchestrator.hypervisor import confinement
from orchestrator.hypervisor.events import EventSource, GuestEvent
from orchestrator.hypervisor.guest import Guest
from orchestrator.hypervisor.virtiofs import serving
from orchestrator.kernel.boot import Expected, KernelBoot
from orchestrator.kernel.builtin import join
from orchestrator.kernel.plan import KernelPlan
from orchestrator.kernel.request import credential_string
from orchestrator.launch.boot import NO_TRACE
from orchestrator.launch.cold import ColdStart
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place
from orchestrator.launch.describe import describe
from orchestrator.launch.staging import make_loader, make_place
from orchestrator.timeline.phases import TRANSFER_PHASES, Phase
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile

STREAMS = ("stdin", "stdout", "stderr")
_SHARE_TAG = "guestlaunch"
_PANICS = {(EventSource.QEMU, "GUEST_PANICKED"), (EventSource.LIBVIRT, "crashed")}
_SAY_SECONDS = 10.0
_FLUSH_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """What of the client's a run is joined to; -1 stands for nothing.

    :ivar stdin: descriptors for the command's streams.
    :ivar take_stdout: gets the command's output as well; `take_console` what the console says.
    :ivar escape: the byte that ends a run from its console.
    """

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    take_stdout: Callable[[bytes], None] | None = None
    take_console: Callable[[bytes], None] | None = None
    escape: bytes | None = None


class KernelStart(ColdStart):
    """A kernel that is tried boots; see `orchestrator.launch.start.StartPath`."""

    def __init__(
        self, run: KernelPlan, attached: Attached, spec: LaunchSpec, context: LaunchContext, recorder: Recorder
    ) -> None:
        super().__init__(spec, context, recorder, None)
        self._run, self._attached = run, attached
        self.following: KernelBoot | None = None
        self._streams: Streams | None = None
        self.console_bytes = 0

    def close(self) -> None:
        """Give the client the last of the output, and remove the run's files."""
        if self._streams is not None:
            self._streams.give_up()
            _finish(self._streams, _FLUSH_SECONDS)
            self._streams = None
        super().close()

    def stage(self) -> tuple[Domain, Place]:
        """Make directories, NVRAM copy, initrd and sockets."""
        spec, run = self._spec, self._run
        place = make_place(spec.settings, self._context, self._owned)
        if run.request.command:
            place = replace(place, streams=self._make_streams(place))
        loader = self._make_loader(place)
        initrd = ""
        if run.plan.initrd_bytes:
            initrd = os.fspath(place.data / "initrd")
            join(run.request.initrds, run.own_initrd, Path(initrd))
        spec = replace(spec, request=replace(spec.request, initrd=initrd))
        domain = describe(spec, place, loader=loader, root=None, verbatim=True)
        return self._with_more(domain, place), place

    def _make_loader(self, place: Place) -> Loader | None:
        """Return the firmware, with a variable store of this run's own."""
        return make_loader(self._with_fitting_firmware(), place, self._owned)

    def _with_fitting_firmware(self) -> LaunchSpec:
        """Return the launch with the firmware files that the user named as the machine's flash wants them."""
        spec, firmware = self._spec, self._spec.plan.firmware
        code, variables = self._run.request.firmware
        if firmware is None:
            return spec
        arch, cache = spec.plan.profile.arch, spec.settings.state_dir / "cache"
        if code is not None:
            firmware = replace(firmware, code=fitting(firmware.code, arch, cache))
        if variables is not None:
            firmware = replace(firmware, nvram_template=fitting(firmware.nvram_template, arch, cache))
        return replace(spec, plan=replace(spec.plan, firmware=firmware))

    def _make_streams(self, place: Place) -> Streams:
        ends = {name: self._owned.enter_context(listening(place.sockets / name)) for name in STREAMS}
        attached, marks = self._attached, Marks.of(self._run.number)
        streams = Streams(
            stdin=Input(ends["stdin"], attached.stdin),
            stdout=Output(ends["stdout"], attached.stdout, marks, attached.take_stdout),
            stderr=Output(ends["stderr"], attached.stderr, marks),
        )
        self._owned.callback(streams.close)
        self._streams = streams
        return streams

    def _with_more(self, domain: Domain, place: Place) -> Domain:
        """Return the domain with what no appliance has."""
        request = self._run.request
        channels = domain.channels
        if request.command:
            channels += tuple(
                Channel(name=f"org.guestlaunch.{name}.0", path=str(place.sockets / name)) for name in STREAMS
            )
        files = tuple(
            FwCfgFile(name=told.name, path=_written(place.data / f"fw_cfg-{number}", told.content()))
            for number, told in enumerate(request.fw_cfg)
        )
        strings = tuple(
            _written(place.data / f"oem-string-{number}", credential_string(told))
            for number, told in enumerate(request.credentials)
        )
        share, privileges = None, domain.privileges
        if request.share is not None:
            share = Share(path=os.fspath(request.share), tag=_SHARE_TAG, socket=self._serve(request.share, place))
            if share.socket is None:
                privileges = confinement.staying_root(privileges, "it reads a shared directory")
        return replace(
            domain,
            channels=channels,
            fw_cfg_files=files,
            oem_strings=strings,
            share=share,
            privileges=privileges,
            panic_device=True,
            trace_path=domain.trace_path if self._spec.settings.measure else None,
        )

    def _serve(self, directory: Path, place: Place) -> str | None:
        """Have a directory served, where the way that it is shared by takes that; return the socket."""
        _, program = self._run.sharing
        if program is None:
            return None
        path = place.sockets / "share"
        listener = self._owned.enter_context(listening(path))
        self._owned.enter_context(serving(program, directory, listener))
        return os.fspath(path)

    def boot(self, place: Place) -> KernelBoot:
        """Return what follows the kernel, and tell the recorder what cannot be seen of it."""
        settings, run = self._spec.settings, self._run
        uefi_or_bios = run.plan.profile.firmware is not FirmwareKind.NONE
        expected = Expected(
            number=run.number,
            own_init=run.request.own_init,
            program=run.image.is_program,
            transfers=uefi_or_bios,
            initrd=run.plan.initrd_bytes > 0,
            traced=settings.measure,
        )
        self._explain_what_is_not_seen(expected)
        trace = TraceFile(place.trace) if settings.measure else None
        boot = self._followed(trace, expected, place)
        place.console.take = self._on_console(boot)
        if self._attached.escape is not None:
            stop = self._context.stop
            place.console.escape = (self._attached.escape, lambda: stop.request("ended at its console"))
        self.following = boot
        return boot

    def _followed(self, trace: TraceFile | None, expected: Expected, place: Place) -> KernelBoot:
        """Return what follows the guest."""
        deadlines, timeout_s = self._spec.settings.deadlines, self._run.request.timeout_s
        return KernelBoot(self._recorder, trace, deadlines, expected, place.streams, timeout_s=timeout_s)

    def _on_console(self, boot: KernelBoot) -> Callable[[bytes], None]:
        more = self._attached.take_console

        def take(block: bytes) -> None:
            self.console_bytes += len(block)
            boot.on_console(block)
            if more is not None:
                more(block)

        return take

    def run(self, guest: Guest, place: Place) -> None:
        """Let the guest run."""
        assert self.following is not None  # `boot` comes first
        self._owned.callback(on_panic(guest, self.following.on_panic))
        super().run(guest, place)

    def let_through(self, guest: Guest, place: Place) -> None:
        """Tell a guest whose command has ended that this is known; it then ends by itself."""
        del guest
        boot = self.following
        assert boot is not None
        place.control.say(f"acknowledged {self._run.number}", _SAY_SECONDS)
        boot.note_acknowledged()
        self._recorder.begin(Phase.SHUTDOWN, "exit record acknowledged")

    def _explain_what_is_not_seen(self, expected: Expected) -> None:
        recorder = self._recorder
        if not expected.traced:
            for phase in (*TRANSFER_PHASES, Phase.FIRMWARE_HANDOFF):
                recorder.unseen(phase, NO_TRACE)
        elif not expected.transfers:
            for phase in (*TRANSFER_PHASES, Phase.FIRMWARE_HANDOFF):
                recorder.unseen(phase, "QEMU places the kernel in memory itself: there is no transfer")
        elif not expected.initrd:
            recorder.unseen(Phase.FW_CFG_INITRD, "there is no initrd")
        for phase in (Phase.KERNEL, Phase.INITRD):
            recorder.unseen(phase, "neither a marker nor a time stamp on the console told of it")
        if not expected.own_init:
            recorder.unseen(Phase.WORKLOAD, "no command was run")


def _written(path: Path, content: bytes) -> str:
    """Write a file of the run that only we can read, and return its path.

    :raise LaunchError: it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        raise LaunchError("cannot write for the guest", path, error.strerror or error) from error
    return os.fspath(path)


def on_panic(guest: Guest, tell: Callable[[], object]) -> Callable[[], None]:
    """Have a guest's panic told, by whichever way it comes; return what ends that."""

    def note(event: GuestEvent) -> None:
        if (event.source, event.name) in _PANICS:
            tell()

    return guest.on_event(note)


def _finish(streams: Streams, seconds: float) -> None:
    """Let a slow client have the last of the output, for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _, writing = streams.waits()
        if not writing:
            return
        poll = select.poll()
        for descriptor in writing:
            poll.register(descriptor, select.POLLOUT)
        with contextlib.suppress(InterruptedError):
            poll.poll(100)
        for flush in writing.values():
            flush()
