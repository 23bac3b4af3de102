"""guestlaunch.toml(5), made from the settings themselves: their documentation, conversions, defaults and options."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from orchestrator import settings
from orchestrator.domain.profiles import load_profile, profile_names
from orchestrator.manual.page import Entry, Lines, Page, Paragraph, Section, entry
from orchestrator.manual.reference import see_also
from orchestrator.settings.convert import CONVERT, DEADLINES, seconds, takes

NAME = "guestlaunch.toml"

_DESCRIPTION = (
    Paragraph("A settings file is TOML: the keys below at the top, deadlines in a table of their own."),
    Lines(
        (
            'profile = "x86_64-ovmf"',
            'start = "warm"',
            "standby = 2",
            'image_roots = ["/srv/images"]',
            "",
            "[deadlines]",
            "kernel = 300",
        )
    ),
    Paragraph(
        "A setting is looked for in this order: the command's option, the variable, the file named by `--config` or"
        f" GUESTLAUNCH_CONFIG, $XDG_CONFIG_HOME/guestlaunch/config.toml (~/.config), {settings.SYSTEM_CONFIG}, the"
        " default. A key that there is not is an error that names the nearest one. Paths start from the directory of"
        " the file; from the working directory in options and variables. An empty variable counts as none."
    ),
)
_OWN_PROFILES = (
    Paragraph(
        f"A file NAME.toml in {settings.SYSTEM_CONFIG.with_name('profiles')} or"
        " $XDG_CONFIG_HOME/guestlaunch/profiles (~/.config) is a profile as well, or stands for the one of its name."
        " Only its description may be left out:"
    ),
    Lines(
        (
            'description = "aarch64 virt with UEFI, on a newer processor"',
            'arch = "aarch64"          # or x86_64',
            'machine = "virt"          # as qemu-system-ARCH -machine help has it',
            'firmware = "uefi"         # or bios (on x86_64), or none',
            'cpu_tcg = "cortex-a76"',
            'cpu_kvm = "host"',
            "memory_mib = 768",
            "vcpus = 1",
            'console = "ttyAMA0"       # of the kernel; ttyS0 on x86_64',
        )
    ),
)


def page(options: Mapping[str, Iterable[str]]) -> Page:
    """Return the page of all settings.

    :param options: the options that set a key, by the key.
    """
    plain = settings.Settings(state_dir=Path("/"), runtime_dir=Path("/"))
    about = _documented(settings.Settings)
    times = _documented(settings.Deadlines)
    known = [_setting(key, about[key], getattr(plain, key), options.get(key, ())) for key in CONVERT]
    deadlines = [_deadline(name, times[name], getattr(plain.deadlines, name)) for name in DEADLINES]
    profiles = [entry(f"`{name}`", f"{load_profile(name, ()).description}.") for name in profile_names(())]
    return Page(
        name=NAME,
        number=5,
        about="settings of guestlaunch",
        sections=(
            Section("DESCRIPTION", _DESCRIPTION),
            Section("KEYS", tuple(known)),
            Section("DEADLINES", (Paragraph(_first(settings.Deadlines)), *deadlines)),
            Section("PROFILES", (*profiles, *_OWN_PROFILES)),
            Section("SEE ALSO", (Paragraph(see_also(NAME)),)),
        ),
    )


def _setting(key: str, about: str, default: object, options: Iterable[str]) -> Entry:
    facts = [f"Takes {takes(CONVERT[key])}."]
    if default is not None and default != () and key not in {"state_dir", "runtime_dir"}:
        facts.append(f"Default: {_shown(default)}.")
    named = [*(f"`{one}`" for one in options), settings.variable(key)]
    facts.append(f"Also {' or '.join(named)}.")
    if key not in settings.PER_LAUNCH:
        facts.append("Where a daemon launches, the daemon's counts.")
    return Entry(f"`{key}`", (Paragraph(_sentence(about)), Paragraph(" ".join(facts))))


def _deadline(name: str, about: str, default: float) -> Entry:
    variable = settings.variable(f"deadline_{name}")
    return entry(f"`{name}`", f"{_sentence(about)} Takes {takes(seconds)}. Default: {default:g}. Also {variable}.")


def _documented(kind: type) -> dict[str, str]:
    """Return what a dataclass's docstring says of each field, by the field.

    :raise AssertionError: it says nothing of one.
    """
    found = dict(_fields(inspect.getdoc(kind) or ""))
    missing = [one.name for one in dataclasses.fields(kind) if one.name not in found | {"deadlines": ""}]
    assert not missing, f"{kind.__name__} does not say what these are for: {', '.join(missing)}"
    return found


def _fields(docstring: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^:ivar ", docstring, flags=re.MULTILINE)[1:]:
        name, _, text = part.partition(":")
        yield name, " ".join(text.split())


def _first(kind: type) -> str:
    """Return the first line of a docstring, which says what the thing is."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _sentence(text: str) -> str:
    """Return text that begins with a capital letter, unless it begins with what is typed as it is."""
    return text if text.startswith("`") else text[0].upper() + text[1:]


def _shown(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
