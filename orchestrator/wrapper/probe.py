"""Answers to libguestfs's questions about its hypervisor, given without starting one.

What libguestfs 1.48 to 1.60 asks, and what it looks for in the answer:

| question | asked by | looked for |
|---|---|---|
| `-help` | 1.48-1.56 | the first `X.Y` (version), `-no-user-config`, `-nodefaults`, `-no-hpet` as substrings |
| `-device ?` | 1.48-1.56 | `virtio-rng-pci` as a substring |
| QMP `query-qmp-schema` | 1.48-1.54 | an object with a member `locking`: overlays are then opened with `locking=off` |
| QMP `query-kvm` | all | `enabled`: `-cpu host` on Arm, no `lpj=`, whether the setting `force_kvm` is refused |
| `-version` | 1.58 and later, when verbose | nothing, it is logged |

libguestfs up to 1.56 keeps the answers in /var/tmp/.guestfs-UID under the program's size and modification time.
They are therefore constant for one installed guestlaunch: the version is that of the QEMU command line we
translate, not that of the QEMU that happens to be installed. `query-kvm` is the exception: it repeats what the
orchestrator put into GUESTLAUNCH_KVM. A stale answer costs nothing but the setting `force_kvm` being refused
or allowed too early, because the orchestrator decides about accelerator and CPU and `lpj=` is not handed on to a
guest of another arch (`orchestrator.domain.cmdline`).

The installed program is a shell script that answers `query-kvm` itself, as it is asked before each launch. In any other
session it has greeted and read a line, which is then in GUESTLAUNCH_ASKED.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

_QMP_SECONDS = 60.0  # for the whole session: libguestfs pipes its commands in at once
_QEMU_SECONDS = 5.0
_READ_BYTES = 65536

# The QEMU whose command line `orchestrator.wrapper.argv` translates: 7.2 is the first with `-netdev stream`.
INTERFACE_VERSION = (7, 2, 0)

# name, bus, description: in the form of QEMU's own list.
DEVICES = (
    ("scsi-hd", "SCSI", "virtual SCSI disk"),
    ("virtio-blk-pci", "PCI", "disk"),
    ("virtio-net-pci", "PCI", "network interface"),
    ("virtio-rng-pci", "PCI", "entropy"),
    ("virtio-scsi-pci", "PCI", "SCSI bus"),
    ("virtio-serial-pci", "PCI", "bus of serial ports"),
    ("virtserialport", "virtio-serial-bus", "serial port"),
)

# Only options that libguestfs's direct back end uses; `-no-hpet` is accepted but not asked for.
_OPTIONS = (
    "-append", "-chardev", "-cpu", "-device", "-display", "-drive", "-global", "-initrd", "-kernel", "-m", "-machine",
    "-netdev", "-no-reboot", "-no-user-config", "-nodefaults", "-object", "-rtc", "-S", "-s", "-serial", "-smp",
)  # fmt: skip


def answer(argv: Sequence[str]) -> int:
    """Answer the probe in argv on stdout and return the exit status: 0, or 2 for what is neither probe nor launch."""
    options = {arg.replace("--", "-", 1) if arg.startswith("--") else arg for arg in argv}
    if options & {"-help", "-h"}:
        _print(help_text())
    elif "-version" in options:
        _print(version_text(os.environ))
    elif "-device" in options and options & {"?", "help"}:
        _print("".join(f'name "{name}", bus {bus}, desc "{text}"\n' for name, bus, text in DEVICES))
    elif "-qmp" in options and "stdio" in options:
        qmp_session(os.environ)
    else:
        from orchestrator.errors import UsageError

        why = "neither a launch (no -kernel) nor a question that libguestfs asks"
        hint = "set LIBGUESTFS_HV to this program and run a libguestfs tool, or see `guestlaunch env`"
        sys.stderr.write(f"{UsageError('guestlaunch-hv', ' '.join(argv) or 'no arguments', why, hint)}\n")
        return 2
    return 0


def help_text() -> str:
    """Return the answer to `-help`."""
    version = ".".join(map(str, INTERFACE_VERSION))
    head = f"QEMU emulator version {version} (guestlaunch-hv: the part of its command line that libguestfs uses)\n"
    return head + "usage: guestlaunch-hv [options], started by libguestfs\n\n" + "".join(f"{o}\n" for o in _OPTIONS)


def version_text(env: Mapping[str, str]) -> str:
    """Return the answer to `-version`: ours, and the first line of each QEMU found on PATH."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        ours = version("guestlaunch")
    except PackageNotFoundError:
        ours = "(not installed)"
    lines = [f"guestlaunch-hv {ours}"]
    lines += (f"{program}: {found}" for program, found in _qemu_versions(env))
    return "\n".join(lines) + "\n"


def _qemu_versions(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield name and version line of each QEMU that answers in time."""
    import shutil
    import subprocess

    for program in ("qemu-system-aarch64", "qemu-system-x86_64"):
        path = shutil.which(program, path=env.get("PATH"))
        if path is None:
            continue
        try:
            done = subprocess.run(
                [path, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_QEMU_SECONDS, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            yield program, f"does not run ({type(error).__name__})"
        else:
            yield program, done.stdout.decode(errors="replace").partition("\n")[0]


def qmp_session(env: Mapping[str, str]) -> None:
    """Serve QMP on stdin and stdout until `quit`, end of file, or the deadline."""
    major, minor, micro = INTERFACE_VERSION
    version = {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": "guestlaunch-hv"}
    if "GUESTLAUNCH_ASKED" not in env:
        _print_json({"QMP": {"version": version, "capabilities": []}})
    negotiated = False
    for command in _commands(time.monotonic() + _QMP_SECONDS, env.get("GUESTLAUNCH_ASKED", "")):
        name = command.get("execute")
        reply = _reply(name, version, env) if negotiated or name == "qmp_capabilities" else None
        negotiated = negotiated or name == "qmp_capabilities"
        body = {"return": reply} if reply is not None else {"error": _not_found(name)}
        _print_json({**body, "id": command["id"]} if "id" in command else body)
        if name == "quit" and reply is not None:
            now_us = time.time_ns() // 1000
            stamp = {"seconds": now_us // 1_000_000, "microseconds": now_us % 1_000_000}
            data = {"guest": False, "reason": "host-qmp-quit"}
            _print_json({"timestamp": stamp, "event": "SHUTDOWN", "data": data})
            return


def _reply(name: object, version: Mapping[str, Any], env: Mapping[str, str]) -> object:
    """Return what the QMP command returns, or None if there is no such command."""
    if name in ("qmp_capabilities", "quit"):
        return {}
    if name == "query-kvm":
        kvm = env.get("GUESTLAUNCH_KVM") == "1"
        return {"enabled": kvm, "present": kvm}
    if name == "query-version":
        return version
    if name == "query-qmp-schema":
        return _schema()
    return None


def _not_found(name: object) -> dict[str, str]:
    """Return QMP's error for a command that does not exist (yet)."""
    return {"class": "CommandNotFound", "desc": f"The command {name} has not been found"}


def _schema() -> list[dict[str, Any]]:
    """Return the part of the QMP schema that is true of us and that libguestfs looks at: file locking."""
    members = [{"name": "filename", "type": "str"}, {"name": "locking", "default": None, "type": "OnOffAuto"}]
    values = ["auto", "on", "off"]
    return [
        {"name": "BlockdevOptionsFile", "meta-type": "object", "members": members},
        {"name": "OnOffAuto", "meta-type": "enum", "values": values, "members": [{"name": v} for v in values]},
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
    ]


def _commands(deadline: float, pending: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects that arrive on stdin after what is pending, however they are spread over lines."""
    decoder = json.JSONDecoder()
    while True:
        pending = pending.lstrip()
        while pending:
            try:
                command, end = decoder.raw_decode(pending)
            except ValueError:
                break  # not complete yet
            pending = pending[end:].lstrip()
            if isinstance(command, dict):
                yield command
        if not select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return
        data = os.read(0, _READ_BYTES)
        if not data:
            return
        pending += data.decode("utf-8", "replace")


def _print_json(obj: Mapping[str, Any]) -> None:
    """Write one QMP message as a line."""
    _print(json.dumps(obj) + "\n")


def _print(text: str) -> None:
    """Write text to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
