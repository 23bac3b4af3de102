"""Starts the process that builds a template in the background, and is that process (`python -m`).

It is one of its own, in a session of its own: it goes on when the command whose launch it learned from is over, and
libvirt's private driver is there once a process. One at a time learns for a state directory. It is idle as the kernel
sees it: it gets what nobody else wants of the processors and of the disk, and so has ten times a launch's deadlines.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

from orchestrator import files, locks, priority, surroundings
from orchestrator.hypervisor import embed
from orchestrator.launch import learning
from orchestrator.launch.context import LaunchSpec
from orchestrator.launch.eligibility import template_facts, why_not_warm
from orchestrator.launch.launcher import Launcher
from orchestrator.launch.plan import make_plan
from orchestrator.launch.request import from_json
from orchestrator.program import guarded
from orchestrator.settings import Deadlines, Settings, is_setting, load, to_environ
from orchestrator.template import store
from orchestrator.template.model import Facts, key_of

_PATIENCE = 10


def begin(spec: LaunchSpec, facts: Facts, emit: Callable[..., None]) -> None:
    """Have the template of a launch that is over built by a process that outlives this one, unless it is not to be."""
    settings = spec.settings
    if not (settings.learn and settings.learned_templates and settings.learned_mib):
        return
    why = learning.why_not(settings, facts)
    if why is not None:
        emit("not_learned", key=key_of(facts), reason=why)
        return
    said = json.dumps({"request": asdict(spec.without_tool().request), "key": key_of(facts)})
    kept = {key: value for key, value in os.environ.items() if not is_setting(key) and key != "GUESTLAUNCH_CONFIG"}
    own = to_environ(replace(settings, timeline=None, start="auto"))
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, [kept.get("PYTHONPATH")])])
    try:
        process = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-m", "orchestrator.daemon.learning"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=kept | own | {"PYTHONPATH": path},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        emit("not_learned", level="warning", key=key_of(facts), reason=error.strerror or str(error))
        return
    assert process.stdin is not None  # it was started with a pipe
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(said.encode())
    threading.Thread(target=process.wait, name="learning", daemon=True).start()


def main() -> int:
    """Build the template that standard input describes."""
    surroundings.settle_server()
    return guarded("guestlaunch", _learn)


def _learn() -> int:
    from orchestrator.daemon.service import stop_on_signals  # here: it starts us

    said = json.loads(sys.stdin.read())
    settings = _patient(load())
    priority.give_way()
    cache = settings.state_dir / "cache"
    os.close(files.open_folder(cache, make=True))
    with locks.locked_file(cache / "learning.lock", seconds=0) as alone, stop_on_signals() as stop:
        if not alone:
            return 0  # whoever comes after that one asks again
        request = from_json(said["request"])
        spec = LaunchSpec(request=request, settings=settings, plan=make_plan(request, settings))
        if why_not_warm(spec) is not None:
            return 0
        facts = template_facts(spec)
        if key_of(facts) != said["key"] or store.find(settings.state_dir, facts) is not None:
            return 0  # what it depends on has changed meanwhile, or somebody was faster
        with Launcher(settings) as launcher:
            launcher.learn(spec, facts, stop)
        embed.leave()
    return 0


def _patient(settings: Settings) -> Settings:
    slow = {one.name: getattr(settings.deadlines, one.name) * _PATIENCE for one in fields(Deadlines)}
    return replace(settings, deadlines=replace(settings.deadlines, **slow))


if __name__ == "__main__":
    sys.exit(main())
