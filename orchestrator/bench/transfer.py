"""QEMU started directly with firmware, kernel and initrd until fw_cfg has handed both over; nothing is booted.

Used to count the fw_cfg accesses of a transfer (tracing each slows it down, so the time of such a run means nothing),
and to time transfers of payloads that are no kernel at all. Launches are not made here.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import scratch
from orchestrator.domain.model import Accel, Arch, FirmwareKind, Profile
from orchestrator.errors import CapabilityError, DeadlineError, QemuExitedError
from orchestrator.firmware.descriptors import find_firmware
from orchestrator.firmware.nvram import copy_nvram
from orchestrator.hypervisor.pflash import flash_formats
from orchestrator.tether import Tether
from orchestrator.timeline.trace_lines import ADD_FILE, PREFIX, SELECT, Blob, Directory, wall_ns

_EVENT = re.compile(PREFIX + rb"(?:" + SELECT + rb"|" + ADD_FILE + rb")", re.MULTILINE)
_READ = b":fw_cfg_read "
_CHUNK = 1 << 20
# The firmware's driver on Arm reads the data register in 64-bit loads.
_ACCESS_BYTES = 8
_PIECE_BYTES = 1 << 20
_FW_CFG_DEVICE = {Arch.AARCH64: "fw_cfg_mem", Arch.X86_64: "fw_cfg_io"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What is handed over; absolute paths."""

    kernel: Path
    initrd: Path

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of kernel and initrd."""
        return self.kernel.stat().st_size, self.initrd.stat().st_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One transfer as QEMU's trace dates it. Times in ns, sizes in bytes.

    :ivar accesses: reads of the data register, or DMA operations, while kernel or initrd was selected;
        `accesses_total` all up to the transfer's end, the firmware's own among them. None when they were not counted.
    """

    fw_cfg_dma: bool
    duration_ns: int
    kernel_ns: int
    initrd_ns: int
    kernel_bytes: int
    initrd_bytes: int
    accesses: int | None = None
    accesses_total: int | None = None


def predicted_accesses(payload: Payload, profile: Profile, *, fw_cfg_dma: bool) -> int | None:
    """Return how many accesses the payload takes by the way edk2 reads it; None for other firmware."""
    if profile.arch is not Arch.AARCH64 or profile.firmware is not FirmwareKind.UEFI:
        return None
    if fw_cfg_dma:  # QemuKernelLoaderFsDxe reads in pieces of 1 MiB, each of them one DMA operation
        return sum(-(-size // _PIECE_BYTES) for size in payload.sizes)
    # Whole words first, then the rest in loads of 4, 2 and 1 bytes.
    return sum(size // _ACCESS_BYTES + (size % _ACCESS_BYTES).bit_count() for size in payload.sizes)


def transfer(
    payload: Payload,
    profile: Profile,
    *,
    fw_cfg_dma: bool,
    accel: Accel = Accel.TCG,
    count: bool = False,
    plugin: str | None = None,
    memory_mib: int | None = None,
    deadline_s: float = 300.0,
) -> Transfer:
    """Start QEMU, follow the transfer, end QEMU, and return what was seen.

    :param count: trace every access; the durations are then those of tracing.
    :param plugin: value of QEMU's `-plugin` option.
    :raise QemuExitedError: QEMU ended before the transfer did.
    :raise DeadlineError: the transfer was not over in time.
    :raise CapabilityError: QEMU or firmware for the profile is missing, or the profile has no fw_cfg transfer.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(scratch.folder())
        command = [
            f"qemu-system-{profile.arch}", "-machine", profile.machine, "-accel", str(accel),
            "-cpu", profile.cpu_kvm if accel is Accel.KVM else profile.cpu_tcg,
            "-m", str(memory_mib or profile.memory_mib), "-nodefaults", "-no-user-config", "-display", "none",
            "-kernel", _quoted(payload.kernel), "-initrd", _quoted(payload.initrd), "-append", "transfer",
            "-global", f"{_FW_CFG_DEVICE[profile.arch]}.dma_enabled={'on' if fw_cfg_dma else 'off'}",
            "-msg", "timestamp=on", "-trace", "fw_cfg_add_file", "-trace", "fw_cfg_select",
            *(("-trace", "fw_cfg_read") if count else ()),
            *(("-plugin", plugin) if plugin else ()), *stack.enter_context(_firmware(profile, folder)),
        ]  # fmt: skip
        walk = _TraceReader()
        _follow(stack.enter_context(_started(command, folder)), walk, time.monotonic() + deadline_s)
    kernel_bytes, initrd_bytes = payload.sizes
    return walk.result(fw_cfg_dma=fw_cfg_dma, sizes=(kernel_bytes, initrd_bytes), counted=count)


def _quoted(path: Path) -> str:
    return str(path.absolute())


@contextmanager
def _firmware(profile: Profile, folder: Path) -> Iterator[list[str]]:
    """Yield the arguments that give QEMU the profile's firmware."""
    if profile.firmware is FirmwareKind.NONE:
        why = "QEMU's own boot stub loads kernel and initrd without fw_cfg"
        raise CapabilityError("nothing to measure", profile.name, why, "use a profile with firmware")
    if profile.firmware is FirmwareKind.SEABIOS:
        yield []
        return
    firmware = find_firmware(profile.arch, profile.machine, formats=flash_formats())
    with copy_nvram(firmware.nvram_template, folder) as nvram:
        yield [
            "-drive", f"if=pflash,format={firmware.code_format},readonly=on,file={firmware.code}",
            "-drive", f"if=pflash,format={firmware.nvram_format},file={nvram}",
        ]  # fmt: skip


@dataclass(slots=True)
class _Started:
    process: subprocess.Popen[bytes]
    trace_fd: int
    stderr: Path


@contextmanager
def _started(command: list[str], folder: Path) -> Iterator[_Started]:
    """Run QEMU with its trace in a pipe; it is gone when the context ends."""
    stderr = folder / "stderr"
    read_fd, write_fd = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, read_fd)
        tether = stack.enter_context(contextlib.closing(Tether()))
        try:
            with stderr.open("wb") as errors:
                process = subprocess.Popen(
                    [*command, "-D", f"/proc/self/fd/{write_fd}"], stdin=subprocess.DEVNULL, stdout=errors,
                    stderr=errors, pass_fds=(write_fd, tether.reading), cwd=folder,
                )  # fmt: skip
        except FileNotFoundError as error:
            raise CapabilityError("QEMU not found", command[0], "no such program", "install it") from error
        finally:
            os.close(write_fd)
        stack.callback(_end, process)
        tether.tie(process.pid)
        yield _Started(process=process, trace_fd=read_fd, stderr=stderr)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait(30)


def _follow(run: _Started, walk: _TraceReader, deadline: float) -> None:
    """Feed the trace to the walk until the transfer is over."""
    while not walk.over:
        left = deadline - time.monotonic()
        if left <= 0:
            why = f"deadline passed; its trace shows {walk.seen}"
            raise DeadlineError("the fw_cfg transfer did not end", f"QEMU process {run.process.pid}", why)
        ready, _, _ = select.select([run.trace_fd], [], [], min(left, 1.0))
        if not ready:
            continue
        block = os.read(run.trace_fd, _CHUNK)
        if not block:
            said = run.stderr.read_text("utf-8", "replace").strip().splitlines()
            raise QemuExitedError("QEMU ended before the transfer did", run.process.args, said[-1] if said else "")
        walk.feed(block)


@dataclass(slots=True)
class _TraceReader:
    """State of one pass over the trace."""

    over: bool = False
    _rest: bytes = b""
    _reads: int = 0  # of kernel and initrd
    _reads_total: int = 0
    _blob: Blob | None = None  # what is selected
    _files: Directory = field(default_factory=Directory)
    _marks: dict[Blob, int] = field(default_factory=dict)  # blob -> wall ns of its first selection
    _selected: bool = False
    _end_ns: int = 0

    @property
    def seen(self) -> str:
        """What was selected so far, in words."""
        if not self._marks:
            return "no blob that is known" if self._selected else "no event that could be read"
        return f"{' and '.join(self._marks)}, and nothing after both"

    def feed(self, block: bytes) -> None:
        """Take a block of trace lines."""
        whole, newline, rest = (self._rest + block).rpartition(b"\n")
        self._rest = rest
        text = whole + newline
        position = 0
        for match in _EVENT.finditer(text):
            if match[3] is None:
                self._files.add(int(match[4]), match[5])
                continue
            self._count(text.count(_READ, position, match.start()))
            position = match.start()
            self._select(wall_ns(*match.group(1, 2)), self._files.blob(int(match[3], 16)))
            if self.over:
                return
        self._count(text.count(_READ, position))

    def _count(self, reads: int) -> None:
        self._reads_total += reads
        if self._blob is not None:
            self._reads += reads

    def _select(self, wall_ns: int, blob: Blob | None) -> None:
        self._blob, self._selected = blob, True
        if blob is not None:
            self._marks.setdefault(blob, wall_ns)
        elif self._marks.keys() >= {Blob.KERNEL, Blob.INITRD}:
            self._end_ns = wall_ns
            self.over = True

    def result(self, *, fw_cfg_dma: bool, sizes: tuple[int, int], counted: bool) -> Transfer:
        """Return what was seen, once it is over."""
        kernel, initrd = self._marks[Blob.KERNEL], self._marks[Blob.INITRD]
        return Transfer(
            fw_cfg_dma=fw_cfg_dma,
            duration_ns=self._end_ns - min(kernel, initrd),
            kernel_ns=(initrd if kernel < initrd else self._end_ns) - kernel,
            initrd_ns=(kernel if initrd < kernel else self._end_ns) - initrd,
            kernel_bytes=sizes[0],
            initrd_bytes=sizes[1],
            accesses=self._reads if counted else None,
            accesses_total=self._reads_total if counted else None,
        )
