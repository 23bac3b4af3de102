"""What a QEMU that root starts may still do: it has a user of its own, no capabilities, no network, and bounds.

QEMU opens what its command line names with root's rights, under its seccomp filters and already without a network, and
gives all rights up before its monitor and its guest are served. What it needs later is handed to it as descriptors
(`orchestrator.hypervisor.handing`). So every format, chain and driver works as ever, no file changes its owner or mode,
and nothing is started in between (2026-11-26).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import platform
import pwd
import random
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from orchestrator.domain.model import Privileges
from orchestrator.hypervisor import bounded
from orchestrator.hypervisor.emulator import emulator_version
from orchestrator.values import dataclass

_T = TypeVar("_T")

# Nobody's users: systemd's table of users (UIDS-GIDS.md) calls 1879048192 to 2147483647 unused.
_UNUSED = range(0x7000_0000, 0x8000_0000)
_FIRST_SMALL, _NOBODY = 20_000, 65_534  # where a user namespace has too few for that
_CAP_SETGID, _CAP_SETUID, _CAP_SYS_PTRACE = 6, 7, 19
# What opening files as root takes (DAC_OVERRIDE, DAC_READ_SEARCH), and giving it up.
_TO_START = frozenset({1, 2, _CAP_SETGID, _CAP_SETUID})
_LAST_CAP = 63
_PR_CAPBSET_DROP = 24
# setresgid and setresuid, by the kernel's name of the machine (syscall(2), asm/unistd.h).
_SET_REAL = {"x86_64": (119, 117), "aarch64": (149, 147)}
_CLONE_NEWIPC, _CLONE_NEWNET = 0x0800_0000, 0x4000_0000
# QEMU has some threads, one for each CPU, up to 64 that read and write files, and some for disks of the network.
_THREADS = 512
# A clone has its memory twice, one never touched; up to 1 GiB is for translated code; images have 32 MiB of tables.
_MORE_MIB, _MORE_MIB_A_DISK, _DISKS = 4096, 64, 32
_RUN_WITH_SINCE = (9, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """How a QEMU of root's runs, as the log has it. `None` where it is not confined so; `reason` says why.

    :ivar uid: user and group; `network` is its own, an empty one; `threads` and `memory_mib` the most it may have.
    """

    uid: int | None = None
    network: bool = False
    threads: int | None = None
    memory_mib: int | None = None
    reason: str | None = None


def applies(uri: str | None) -> bool:
    """Tell whether it is for us to confine the QEMUs of a connection: our own libvirt's, started by root."""
    return os.geteuid() == 0 and uri in {None, "qemu:///embed"}


def confined(setting: str, uri: str | None) -> bool:
    """Tell whether the QEMUs of a connection can open nothing once they run."""
    return applies(uri) and why_not(setting) is None


def why_not(setting: str) -> str | None:
    """Return why a QEMU of root's cannot be confined, None when it can be."""
    if setting == "off":
        return "confine = off"
    if isinstance(users := _users(), str):
        return users
    return lacking()


def privileges(
    setting: str,
    uri: str | None,
    emulator: str,
    cache: Path,
    *,
    host_network: str | None,
    memory_mib: int | None = None,
    disks: int = 0,
) -> Privileges | None:
    """Decide what a QEMU keeps of root's rights; None where that is not for us to say.

    :param cache: libvirt's cache folder of the private roots.
    :param host_network: why it must share the host's network; None for an empty network of its own.
    :param memory_mib: the guest's; None for no bound. `disks` is how many images QEMU opens at its start.
    """
    if not applies(uri):
        return None
    option, sandbox = _abilities(emulator, cache)
    reason = why_not(setting)
    if reason is not None:
        return Privileges(user=None, option=option, sandbox=sandbox, own_network=False, reason=reason)
    data_bytes = None
    if memory_mib is not None:
        data_bytes = (2 * memory_mib + _MORE_MIB + _MORE_MIB_A_DISK * max(disks, _DISKS)) << 20
    return Privileges(
        user=_new_user(),
        option=option,
        sandbox=sandbox,
        own_network=host_network is None,
        # The root of a user namespace has others' threads counted as its own, as long as QEMU is root.
        threads=_THREADS if _users() is _UNUSED else None,
        data_bytes=data_bytes,
        reason=host_network,
    )


def staying_root(granted: Privileges | None, reason: str) -> Privileges | None:
    """Return privileges with which QEMU stays root, and keeps root's rights on files."""
    return None if granted is None else replace(granted, user=None, reason=granted.reason or reason)


def unseen() -> str | None:
    """Return why root cannot see what processes of others have open, None when it can."""
    if int(_status_field(os.getpid(), "CapEff") or "0", 16) >> _CAP_SYS_PTRACE & 1:
        return None
    return "root has no CAP_SYS_PTRACE here to see what another user's QEMU has opened"


def lacking() -> str | None:
    """Return which right root itself lacks for giving rights up, None when it has what that takes."""
    held = int(_status_field(os.getpid(), "CapEff") or "0", 16)
    for number, name in ((_CAP_SETUID, "CAP_SETUID"), (_CAP_SETGID, "CAP_SETGID")):
        if not held >> number & 1:
            return f"root has no {name} here"
    with contextlib.suppress(OSError):
        if Path("/proc/self/setgroups").read_text(encoding="ascii").strip() == "deny":
            return "this user namespace forbids setgroups"
    return None


def _mapped(kind: str) -> list[range]:
    """Return the ids that exist in this user namespace (user_namespaces(7))."""
    lines = Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").split("\n")
    starts = [tuple(map(int, line.split())) for line in lines if line.strip()]
    return [range(first, first + count) for first, _, count in starts]


def _users() -> range | str:
    """Return the users that QEMUs are given, or why there are none."""
    try:
        maps = [_mapped("uid"), _mapped("gid")]
    except (OSError, ValueError):
        return _UNUSED
    if all(any(one.start <= _UNUSED.start and _UNUSED.stop <= one.stop for one in ids) for ids in maps):
        return _UNUSED
    start, stop = _FIRST_SMALL, _NOBODY
    for ids in maps:
        widest = max(ids, key=len, default=range(0))
        start, stop = max(start, widest.start), min(stop, widest.stop)
    return range(start, stop) if stop - start >= 1000 else "this user namespace has no users to spare"


def _new_user() -> int:
    """Return a user that nobody else is: no account, and no other QEMU of ours."""
    users = _users()
    assert not isinstance(users, str)  # why_not
    chance = random.SystemRandom()
    while True:
        uid = chance.choice(users)
        if users is _UNUSED or not _is_taken(uid):
            return uid


def _is_taken(uid: int) -> bool:
    """Tell whether a user has an account or a process. Among the unused ones, chance alone sees to that."""
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwuid(uid))
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return any(str(uid) in (_status_field(pid, "Uid") or "").split() for pid in pids)


def _abilities(emulator: str, cache: Path) -> tuple[str, bool]:
    """Return QEMU's option for giving up root, and whether it has seccomp filters.

    libvirt has asked before: the answers are in its cache, which also says of which state of the program they are.
    """
    file = cache / "qemu" / "capabilities" / f"{hashlib.sha256(os.fsencode(emulator)).hexdigest()}.xml"
    with contextlib.suppress(OSError, ValueError):
        known = file.read_text(encoding="utf-8")
        changed = re.search(r"<qemuctime>(\d+)</qemuctime>", known)
        version = re.search(r"<version>(\d+)</version>", known)
        if changed and version and int(changed[1]) == int(Path(emulator).stat().st_ctime):
            number = int(version[1])
            return _option((number // 1_000_000, number // 1000 % 1000)), "'seccomp-sandbox'" in known
    parts = emulator_version(emulator).split(".")
    return _option((int(parts[0]), int(parts[1]))), _links_seccomp(emulator)


def _option(version: tuple[int, int]) -> str:
    return "-run-with" if version >= _RUN_WITH_SINCE else "-runas"


def _links_seccomp(emulator: str) -> bool:
    with (
        contextlib.suppress(OSError, ValueError),
        Path(emulator).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as program,
    ):
        return program.find(b"libseccomp.so") >= 0
    return True


def starting(granted: Privileges | None, function: Callable[[], _T]) -> tuple[_T, str | None]:
    """Call a function that starts QEMU, on a thread that lacks what QEMU is not to inherit.

    Rights and namespaces are a thread's own.

    :return: what the function returns, and why QEMU shares the host's network nevertheless, if it does.
    """
    if granted is None or not granted.own_network:
        return function(), None

    def start() -> tuple[_T, str | None]:
        libc, shared = ctypes.CDLL(None, use_errno=True), None
        if libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC):
            shared = f"unshare: {os.strerror(ctypes.get_errno())}"
        for number in range(_LAST_CAP + 1):
            if number not in _TO_START:
                libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0)
        return function(), shared

    return bounded.call(start, None, name="start-qemu")


def bound(pid: int, granted: Privileges | None) -> None:
    """Bound the threads and the memory of a QEMU that has become its own user, before its guest runs.

    Root may lack the right to bound another's process (CAP_SYS_RESOURCE) in a container; a thread whose real user and
    group are those of the process needs none to lower its bounds (prlimit(2)). Where that fails, `confinement` sees it.
    """
    if granted is None or granted.user is None or (granted.threads is None and granted.data_bytes is None):
        return
    user = granted.user

    def lower() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        # The C library's own functions would change all threads' users.
        for number in _SET_REAL.get(platform.machine(), ()):
            libc.syscall(number, user, -1, -1)
        for what, most in ((resource.RLIMIT_NPROC, granted.threads), (resource.RLIMIT_DATA, granted.data_bytes)):
            if most is not None:
                _, hard = resource.prlimit(pid, what)
                bound_at = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.prlimit(pid, what, (bound_at, bound_at))

    with contextlib.suppress(OSError, ValueError):
        bounded.call(lower, None, name="bound-qemu")


def confinement(pid: int, granted: Privileges | None, shared: str | None = None) -> Confinement | None:
    """Return how a QEMU runs.

    :param shared: why it shares the host's network although it was not to.
    """
    if granted is None:
        return None
    own_network = granted.own_network and shared is None
    if granted.user is None:
        return Confinement(network=own_network, reason=granted.reason)
    limits = _limits(pid)
    threads, data = limits.get("Max processes"), limits.get("Max data size")
    bounds = ((threads, granted.threads), (data, granted.data_bytes))
    unbound = any(most is not None and (held is None or held > most) for held, most in bounds)
    return Confinement(
        uid=granted.user,
        network=own_network,
        threads=threads,
        memory_mib=None if data is None else data >> 20,
        reason=shared or granted.reason or ("the kernel does not let root bound it" if unbound else None),
    )


def _limits(pid: int) -> dict[str, int]:
    """Return the hard limits of /proc/PID/limits that there are."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines():
            limit = re.match(r"(Max [a-z ]+?)  +\S+ +(\d+) ", line)
            if limit:
                found[limit[1]] = int(limit[2])
    return found


def _status_field(pid: int, name: str) -> str | None:
    """Return a field of /proc/PID/status."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return line.partition(":")[2].strip()
    return None
