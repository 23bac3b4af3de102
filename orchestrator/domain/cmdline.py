"""The kernel command line, fixed up for the guest that gets it.

libguestfs writes it for the arch it was built for and for the accelerator it believes in; guest and accelerator
may differ here. One table of rules, each with its reason. What no rule names stays as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.domain.model import Accel, Arch, Profile
from orchestrator.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

# Words are separated by white space, which double quotes protect, as the kernel reads them.
_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')


@dataclass(frozen=True, slots=True, kw_only=True)
class _GuestFacts:
    """What a rule may look at."""

    profile: Profile
    accel: Accel
    quiet: bool
    aslr: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Drop a word that matches `pattern`, or put `becomes` in its place, for the guests that `applies` to."""

    pattern: re.Pattern[str]
    applies: Callable[[_GuestFacts], bool]
    reason: str
    becomes: Callable[[re.Match[str], _GuestFacts], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A word that was changed: `before` is None when it was added, `after` when it was dropped."""

    before: str | None
    after: str | None
    reason: str


def _not_x86(guest: _GuestFacts) -> bool:
    return guest.profile.arch is not Arch.X86_64


def _not_aarch64(guest: _GuestFacts) -> bool:
    return guest.profile.arch is not Arch.AARCH64


RULES = (
    Rule(
        pattern=re.compile(r"console=(?:ttyS0|ttyAMA0|hvc0|ttysclp0)(,.*)?"),
        applies=lambda _: True,
        reason="the guest's first serial port has another name",
        becomes=lambda match, guest: f"console={guest.profile.console}{match[1] or ''}",
    ),
    Rule(
        pattern=re.compile(r"earlyprintk=pl011,.*"),
        applies=_not_aarch64,
        reason="there is no PL011 at that address",
    ),
    Rule(
        pattern=re.compile(r"efi-rtc=.*"),
        applies=_not_aarch64,
        reason="a parameter of some arm64 kernels only",
    ),
    Rule(
        pattern=re.compile(r"ignore_loglevel"),
        applies=lambda guest: guest.quiet or _not_aarch64(guest),
        reason="undoes quiet: each console character costs a trap, and other archs do without",
    ),
    Rule(
        pattern=re.compile(r"lpj=.*"),
        applies=lambda guest: _not_x86(guest) or guest.accel is Accel.KVM,
        reason="a delay loop count of the host's CPU: wrong for another arch, and meant for TCG only",
    ),
    Rule(
        pattern=re.compile(r"noapic|no_timer_check"),
        applies=_not_x86,
        reason="about the x86 IO-APIC; elsewhere the kernel hands it to init as an argument",
    ),
    Rule(
        pattern=re.compile(r"tsc=.*"),
        applies=_not_x86,
        reason="about the x86 time stamp counter; elsewhere the kernel hands it to init",
    ),
    Rule(
        pattern=re.compile(r"edd=.*"),
        applies=_not_x86,
        reason="about the PC BIOS; elsewhere the kernel hands it to init",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """Add `word` for the guests that `applies` to, unless the tool gave one of the parameters `unless`."""

    word: str
    applies: Callable[[_GuestFacts], bool]
    unless: frozenset[str]
    reason: str


# Under TCG alone (2026-11-24). LIBGUESTFS_APPEND takes each back by a word of `unless`.
_BY_ADDRESS = "QEMU translates code anew for each address that it runs at"
_NO_SPECULATION = "an emulated CPU does not speculate: what guards against that only costs time"
ADDITIONS = (
    Addition(
        word="mitigations=off",
        applies=lambda guest: guest.accel is Accel.TCG,
        unless=frozenset({"mitigations"}),
        reason=_NO_SPECULATION,
    ),
    # With KASLR, arm64 isolates its page tables whatever mitigations= says, which empties the TLB at each system call.
    Addition(
        word="kpti=off",
        applies=lambda guest: guest.accel is Accel.TCG and not _not_aarch64(guest),
        unless=frozenset({"kpti", "mitigations"}),
        reason=_NO_SPECULATION,
    ),
    Addition(
        word="norandmaps",
        applies=lambda guest: guest.accel is Accel.TCG and not guest.aslr,
        unless=frozenset({"sysctl.kernel.randomize_va_space"}),
        reason=_BY_ADDRESS,
    ),
)


def split_words(cmdline: str) -> list[str]:
    """Return the words of a kernel command line, as the kernel reads them."""
    return _WORD.findall(cmdline)


def fix_cmdline(cmdline: str, profile: Profile, accel: Accel, *, aslr: bool = False) -> tuple[str, tuple[Change, ...]]:
    """Return cmdline as the guest needs it, and what was changed.

    Words after `--` belong to init and stay. The same console named twice stays once.

    :param aslr: emulated guests, too, randomise their address spaces.
    """
    words = split_words(cmdline)
    end = words.index("--") if "--" in words else len(words)
    guest = _GuestFacts(profile=profile, accel=accel, quiet="quiet" in words[:end], aslr=aslr)
    kept: list[str] = []
    changes: list[Change] = []
    for word in words[:end]:
        after, reason = _apply(word, guest)
        if after is not None and after.startswith("console=") and after in kept:
            after, reason = None, reason or "the same console again"
        if after is not None:
            kept.append(after)
        if after != word:
            changes.append(Change(before=word, after=after, reason=reason))
    given = {word.partition("=")[0] for word in words[:end]}
    for addition in ADDITIONS:
        if words and addition.applies(guest) and not given & addition.unless and addition.word not in given:
            kept.append(addition.word)
            changes.append(Change(before=None, after=addition.word, reason=addition.reason))
    return " ".join([*kept, *words[end:]]), tuple(changes)


def _apply(word: str, guest: _GuestFacts) -> tuple[str | None, str]:
    """Return what becomes of word (None: dropped) by the first rule that matches and applies, and why."""
    for rule in RULES:
        match = rule.pattern.fullmatch(word)
        if match is not None and rule.applies(guest):
            return (rule.becomes(match, guest) if rule.becomes is not None else None), rule.reason
    return word, ""
