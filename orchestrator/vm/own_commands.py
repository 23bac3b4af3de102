"""Runs our own commands as programs: `guestlaunch run` and `exec`, which launch appliances for unmodified tools.

Processes of their own, as their launches fork, which one that has threads, as of libvirt's, must not.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator import scratch
from orchestrator.appliance.store import resolve
from orchestrator.domain.model import Arch
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import GuestlaunchError, NotFoundError, StoppedError, UsageError, WorkloadError
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings, is_setting, to_environ
from orchestrator.tether import Tether
from orchestrator.workload.environment import wrapper_path
from orchestrator.workload.tools import swept

# The profile with UEFI of each architecture.
PROFILES = {Arch.AARCH64: "aarch64-uefi", Arch.X86_64: "x86_64-ovmf"}
_PROGRAM = "guestlaunch"
_TICK_S = 0.2
_END_S = 30.0


def appliance_settings(settings: Settings, profile: str) -> Settings:
    """Return the settings of a launch that works for a VM: what is the VM's own is not the appliance's."""
    return replace(
        settings,
        profile=profile,
        connect=None,
        memory_mib=None,
        vcpus=None,
        cpu=None,
        timeline=None,
        image_policy=settings.image_policy or "trusted",  # what an image names was looked at before
    )


def reading_profile(settings: Settings) -> str:
    """Return the profile of an appliance that can read any image: the settings' own, or any that there is.

    :raise NotFoundError: there is no appliance at all.
    """
    own = load_profile(settings.profile).arch
    for arch in sorted(PROFILES, key=lambda arch: arch is not own):
        with contextlib.suppress(NotFoundError):
            resolve(settings.appliance_store, arch)
            return PROFILES[arch]
    resolve(settings.appliance_store, own)
    return settings.profile


def run_job(script: Path, image: Path, image_format: str, settings: Settings, stop: Stop) -> Any:  # noqa: ANN401 - the script's
    """Run a Python file of ours on an image, read-only, in an appliance, and return its result.

    :raise WorkloadError: it failed.
    :raise StoppedError: the end was asked for.
    """
    text = [f"python = {_quoted(script)}", "[[disks]]", f"path = {_quoted(image)}", f"format = {_quoted(image_format)}"]
    with scratch.folder() as folder:
        job = folder / "look.toml"
        job.write_text("\n".join([*text, ""]), "utf-8")
        status, out, err = _run([_PROGRAM, "run", os.fspath(job), "--json"], settings, stop)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        said = json.loads(out)
        if said["outcome"] == "success":
            return said["result"]
        raise WorkloadError("cannot look into the image", image, said["error"])
    raise WorkloadError("cannot look into the image", image, last_words(err) or f"status {status}")


def _quoted(text: Path | str) -> str:
    """Return a text as TOML has it, which knows JSON's escapes but for those of halves of characters.

    :raise UsageError: it is the name of a file, and no text.
    """
    quoted = json.dumps(str(text), ensure_ascii=False)
    try:
        quoted.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("cannot look into the image", text, "its name is not UTF-8", "rename it") from None
    return quoted


def run_tool(what: str, command: Sequence[str], image: Path, settings: Settings, stop: Stop) -> None:
    """Run a program of libguestfs's in a launched appliance.

    :param what: what failed if it fails, as "cannot customise".
    :raise WorkloadError: it failed.
    :raise StoppedError: the end was asked for.
    """
    status, out, err = _run([_PROGRAM, "exec", "--", *command], settings, stop)
    if status:
        raise WorkloadError(
            what, image, last_words(err) or last_words(out) or f"{command[0]} ended with status {status}"
        )


def _run(command: Sequence[str], settings: Settings, stop: Stop) -> tuple[int, str, str]:
    """Run one of our commands to its end, or to ours; what the user asked for reaches it as variables."""
    _heed(stop, command)
    program = wrapper_path().with_name(_PROGRAM)
    environ = {key: value for key, value in os.environ.items() if not is_setting(key)}
    with (
        swept(environ | to_environ(settings)) as variables,
        contextlib.closing(Tether()) as tether,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        try:
            process = subprocess.Popen(
                [os.fspath(program), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(variables),
                pass_fds=(tether.reading,),
            )
        except OSError as error:
            raise GuestlaunchError("cannot run", program, error.strerror or error) from error
        try:
            tether.tie(process.pid)  # it ends its tool, and that its appliance
            while process.poll() is None and not stop.requested:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK_S)
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_END_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        for stream in (out, err):
            stream.seek(0)
        _heed(stop, command)
        return process.returncode, out.read(), err.read()


def _heed(stop: Stop, command: Sequence[str]) -> None:
    """Go no further once the end was asked for.

    :raise StoppedError: it was.
    """
    if stop.requested:
        raise StoppedError("stopped", " ".join(command[:2]), stop.reason)


def last_words(text: str) -> str:
    """Return the line that says what went wrong: the one that a tool calls an error, or else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ": error: " in line]
    return (errors or lines)[-1].removeprefix(f"{_PROGRAM}: ") if lines else ""
