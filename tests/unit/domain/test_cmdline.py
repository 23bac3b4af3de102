"""The kernel command line's rules: each one where it applies and where it does not."""

from __future__ import annotations

import pytest

from orchestrator.domain.cmdline import ADDITIONS, RULES, fix_cmdline
from orchestrator.domain.model import Accel
from orchestrator.domain.profiles import load_profile

# As libguestfs 1.48 writes them.
X86 = (
    "panic=1 console=ttyS0 edd=off udevtimeout=6000 udev.event-timeout=6000 no_timer_check lpj=4399996 printk.time=1"
    " cgroup_disable=memory usbcore.nousb cryptomgr.notests tsc=reliable 8250.nr_uarts=1 root=UUID=4f selinux=0"
    " quiet TERM=xterm-256color"
)
# What is added for the guests of each arch under TCG.
ADDED_ON_ARM = " mitigations=off kpti=off norandmaps"
ADDED_ON_X86 = " mitigations=off norandmaps"
ARM = (
    "panic=1 console=ttyAMA0 earlyprintk=pl011,0x9000000 ignore_loglevel efi-rtc=noprobe edd=off no_timer_check"
    " tsc=reliable root=UUID=4f selinux=0 guestfs_verbose=1 TERM=linux"
)


def words(cmdline: str, profile: str, accel: Accel = Accel.TCG) -> str:
    """Return the fixed command line."""
    return fix_cmdline(cmdline, load_profile(profile), accel)[0]


def test_x86_to_aarch64() -> None:
    """An x86 libguestfs's words for an aarch64 guest: the console renamed, what is about the PC gone."""
    assert words(X86, "aarch64-uefi") == (
        "panic=1 console=ttyAMA0 udevtimeout=6000 udev.event-timeout=6000 printk.time=1 cgroup_disable=memory"
        " usbcore.nousb cryptomgr.notests 8250.nr_uarts=1 root=UUID=4f selinux=0 quiet TERM=xterm-256color"
        + ADDED_ON_ARM
    )


def test_x86_to_x86_is_untouched() -> None:
    """With its own arch and accelerator, libguestfs's words stay as they are."""
    assert words(X86, "x86_64-seabios") == X86 + ADDED_ON_X86
    kvm = X86.replace(" lpj=4399996", "")
    assert fix_cmdline(kvm, load_profile("x86_64-seabios"), Accel.KVM) == (kvm, ())


def test_aarch64_to_x86() -> None:
    """An Arm libguestfs's words for an x86 guest."""
    assert words(ARM, "x86_64-ovmf") == (
        "panic=1 console=ttyS0 edd=off no_timer_check tsc=reliable root=UUID=4f selinux=0 guestfs_verbose=1 TERM=linux"
        + ADDED_ON_X86
    )


def test_loglevel_is_ignored_only_when_verbose() -> None:
    """`ignore_loglevel` stays with -v and goes with quiet."""
    assert "ignore_loglevel" in words(ARM, "aarch64-uefi").split()
    assert "ignore_loglevel" not in words(ARM + " quiet", "aarch64-uefi").split()


def test_lpj_goes_with_kvm() -> None:
    """Libguestfs's loop count is for TCG; KVM's guest calibrates itself."""
    assert "lpj" not in words(X86, "x86_64-seabios", Accel.KVM)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("console=ttyS0,115200n8", "console=ttyAMA0,115200n8"),
        ("console=ttyS0 console=ttyAMA0", "console=ttyAMA0"),
        ("console=hvc0 console=ttyS0", "console=ttyAMA0"),
        ("console=tty0 console=ttyS1", "console=tty0 console=ttyS1"),
        ("xconsole=ttyS0", "xconsole=ttyS0"),
        ('a="x edd=off  y" edd=off', 'a="x edd=off  y"'),
        ('a="open edd=off', 'a="open edd=off'),
        ("quiet -- console=ttyS0 edd=off", "quiet -- console=ttyS0 edd=off"),
        ("  a\t b\n", "a b"),
        ("a a b=1 b=1", "a a b=1 b=1"),
        ("", ""),
    ],
)
def test_words(before: str, after: str) -> None:
    """Quotes, repetitions, init's own arguments and words that only look alike."""
    assert words(before, "aarch64-uefi", Accel.KVM) == after


@pytest.mark.parametrize(
    ("before", "profile", "accel", "after"),
    [
        ("a", "aarch64-uefi", Accel.TCG, "a mitigations=off kpti=off norandmaps"),
        ("a", "aarch64-bare", Accel.TCG, "a mitigations=off kpti=off norandmaps"),
        ("a", "x86_64-ovmf", Accel.TCG, "a mitigations=off norandmaps"),
        ("a", "aarch64-uefi", Accel.KVM, "a"),
        ("a", "x86_64-ovmf", Accel.KVM, "a"),
        ("mitigations=auto", "aarch64-uefi", Accel.TCG, "mitigations=auto norandmaps"),
        ("kpti=on", "aarch64-uefi", Accel.TCG, "kpti=on mitigations=off norandmaps"),
        ("a -- mitigations=auto", "x86_64-ovmf", Accel.TCG, "a mitigations=off norandmaps -- mitigations=auto"),
        ("", "aarch64-uefi", Accel.TCG, ""),
    ],
)
def test_additions(before: str, profile: str, accel: Accel, after: str) -> None:
    """What is added goes before init's own arguments, and yields to what the tool says of the same."""
    assert words(before, profile, accel) == after


def test_changes_are_told() -> None:
    """Every change is reported, with what became of the word and why."""
    _, changes = fix_cmdline("console=ttyS0 quiet edd=off console=ttyAMA0", load_profile("aarch64-uefi"), Accel.TCG)
    assert [(c.before, c.after) for c in changes] == [
        ("console=ttyS0", "console=ttyAMA0"),
        ("edd=off", None),
        ("console=ttyAMA0", None),
        (None, "mitigations=off"),
        (None, "kpti=off"),
        (None, "norandmaps"),
    ]
    assert all(c.reason for c in changes)


def test_every_rule_is_exercised() -> None:
    """No rule is dead: each changes some command line of libguestfs's."""
    used = set()
    for cmdline in (X86, ARM, ARM + " quiet", "noapic"):
        for profile in ("aarch64-uefi", "x86_64-seabios"):
            used |= {c.reason for c in fix_cmdline(cmdline, load_profile(profile), Accel.TCG)[1]}
    assert used == {change.reason for change in (*RULES, *ADDITIONS)}


def test_randomness_can_be_paid_for() -> None:
    """An emulated guest is laid out by chance where that is asked for."""
    profile = load_profile("aarch64-uefi")
    assert "norandmaps" in fix_cmdline("quiet", profile, Accel.TCG)[0].split()
    assert "norandmaps" not in fix_cmdline("quiet", profile, Accel.TCG, aslr=True)[0].split()
