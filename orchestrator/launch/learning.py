"""What `auto` learns: a kind of launch that booted for want of a template gets one, unasked and in the background.

Who does the work is up to others: guestlaunchd's pool, or a process of its own where there is none. Here is what both
heed: how many such templates there may be, how much room they take, and that one that failed is not tried for ever.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from orchestrator.errors import GuestlaunchError, LaunchError, StoppedError
from orchestrator.launch.context import LaunchContext, LaunchSpec
from orchestrator.launch.template_build import build_template
from orchestrator.settings import Settings
from orchestrator.template import failures, store
from orchestrator.template.model import Facts, Template, key_of

_MIB = 1 << 20
_LEAST_FREE_MIB = 2048  # of the file system: learning must not be what fills it
_LEAST_AVAILABLE_MIB = 512  # of the host's memory, beside the guest's


def why_not(settings: Settings, facts: Facts) -> str | None:
    """Return why a template is not to be built unasked just now, None when it may be."""
    again = failures.why_not_again(settings.state_dir, key_of(facts))
    if again is not None:
        return again
    with contextlib.suppress(OSError):
        if shutil.disk_usage(settings.state_dir).free < _LEAST_FREE_MIB * _MIB:
            return f"less than {_LEAST_FREE_MIB} MiB are free in {settings.state_dir}"
    if available_mib() < int(facts["memory_mib"]) + _LEAST_AVAILABLE_MIB:
        return "the host is short of memory"
    return None


def build(spec: LaunchSpec, facts: Facts, context: LaunchContext) -> Template:
    """Build a template that nobody asked for, and remove those that were not used for longest where it is one too many.

    :raise GuestlaunchError: it could not be built, which is remembered.
    """
    settings = spec.settings
    try:
        template = build_template(spec, facts, context, learned=True)
        _require_room(template, settings)
    except StoppedError:
        raise
    except (GuestlaunchError, OSError):
        if not context.stop.requested:
            failures.note(settings.state_dir, key_of(facts))
        raise
    failures.forget(settings.state_dir, key_of(facts))
    removed = store.make_room(
        settings.state_dir, template, most=settings.learned_templates, most_bytes=settings.learned_mib * _MIB
    )
    for one in removed:
        context.emit("template_forgotten", key=one.key)
    return template


def _require_room(template: Template, settings: Settings) -> None:
    """Remove a template that is alone larger than all of them may be: each launch would have it built again.

    :raise LaunchError: says so.
    """
    if template.disk_bytes > settings.learned_mib * _MIB and store.remove(template):
        why = f"it takes {template.disk_bytes / _MIB:.0f} MiB, and learned_mib is {settings.learned_mib}"
        raise LaunchError("cannot keep the template", template.key, why)


def available_mib() -> int:
    """Return how much memory the host has available (proc(5), MemAvailable)."""
    with contextlib.suppress(OSError, ValueError, IndexError), Path("/proc/meminfo").open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    return 0
