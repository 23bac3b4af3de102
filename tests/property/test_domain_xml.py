"""Whatever a path or a command line holds, libvirt and QEMU read back exactly that, or it is refused."""

from __future__ import annotations

import itertools
import json
from xml.etree import ElementTree as ET

from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.domain.cmdline import fix_cmdline
from orchestrator.domain.layout import lay_out
from orchestrator.domain.model import Accel, Arch, Channel, Disk, DiskBus, Domain, FileSource, Incoming, Ram
from orchestrator.domain.passthrough import drive_option, join_options
from orchestrator.domain.profiles import load_profile
from orchestrator.domain.xml import QEMU_NAMESPACE, domain_xml
from orchestrator.errors import UsageError

PROFILE = load_profile("aarch64-uefi")
TEXT = st.text(min_size=1, max_size=40)
HOSTILE = st.text(alphabet="a ,=:'\"\\<>&;\t\r\n\x85\u2028üß漢-]", min_size=1, max_size=30)
SPEAKABLE = HOSTILE.map(lambda text: "/" + text)


def domain(path: str, other: str = "/o") -> Domain:
    """Return a domain in which path stands in every kind of place."""
    return Domain(
        name="d",
        uuid="u",
        profile=PROFILE,
        accel=Accel.TCG,
        emulator=path,
        memory_mib=1,
        vcpus=1,
        cpu="max",
        kernel=path,
        initrd=other,
        cmdline=path,
        disks=(Disk(source=FileSource(path=path), format="raw"), Disk(source=FileSource(path=path), serial=other)),
        channels=(Channel(name="c", path=path),),
        trace_path=path,
        ram=Ram(path=path, private=True),
        incoming=Incoming(firmware=path),
    )


def qemu_options(text: str) -> dict[str, str]:
    """Read `key=value,…` as QEMU does: a doubled comma is a comma, a single one ends the value."""
    parts = [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]
    return dict(part.split("=", 1) for part in parts)


@given(path=SPEAKABLE, other=SPEAKABLE)
def test_paths_come_back(path: str, other: str) -> None:
    """Every place gives back the very characters that went in."""
    root = ET.fromstring(domain_xml(domain(path, other)))
    assert [root.findtext(tag) for tag in ("os/kernel", "os/cmdline", "devices/emulator")] == [path] * 3
    assert root.findtext("os/initrd") == other
    attributes = [("devices/disk/source", "file"), ("devices/channel/source", "path")]
    assert [root.find(tag).get(name) for tag, name in attributes] == [path] * 2  # type: ignore[union-attr]
    arguments = [element.get("value", "") for element in root.iter(f"{{{QEMU_NAMESPACE}}}arg")]
    assert [arguments[arguments.index(option) + 1] for option in ("-D", "-bios")] == [path] * 2
    assert qemu_options(arguments[arguments.index("-object") + 1].partition(",")[2])["mem-path"] == path
    assert qemu_options(arguments[arguments.index("-drive") + 1])["file.filename"] == path
    assert json.loads(arguments[arguments.index("-device") + 1])["serial"] == other


@given(path=TEXT)
def test_any_text_comes_back_or_is_refused(path: str) -> None:
    """Nothing is altered silently, whatever Unicode holds."""
    try:
        xml = domain_xml(domain(path))
    except UsageError as e:
        assert "cannot be written in domain XML" in str(e)  # noqa: PT017
        return
    assert ET.fromstring(xml).findtext("os/kernel") == path


@given(pairs=st.dictionaries(st.from_regex(r"[a-z][a-z.-]{0,8}", fullmatch=True), HOSTILE, min_size=1))
def test_options_come_back(pairs: dict[str, str]) -> None:
    """No value can end its option and begin another."""
    assert qemu_options(join_options(pairs.items())) == pairs


@given(path=SPEAKABLE, index=st.integers(0, 300))
def test_no_path_becomes_an_option(path: str, index: int) -> None:
    """A disk's path adds no option to its drive."""
    plain = qemu_options(drive_option(Disk(source=FileSource(path="/x")), index))
    assert qemu_options(drive_option(Disk(source=FileSource(path=path)), index)).keys() == plain.keys()


@given(words=st.lists(st.from_regex(r"[a-z_]{1,8}(=[a-z0-9,]{0,5})?|\"[a-z ]{0,5}\"", fullmatch=True)))
def test_cmdline_settles(words: list[str]) -> None:
    """Fixing a command line twice changes nothing the second time, and words keep their order."""
    once, changes = fix_cmdline(" ".join(words), PROFILE, Accel.TCG)
    assert fix_cmdline(once, PROFILE, Accel.TCG)[0] == once
    assume(all(change.before is None for change in changes))
    added = [change.after for change in changes]
    assert once.split() == [*" ".join(words).split(), *added]


@given(buses=st.lists(st.sampled_from(list(DiskBus)), max_size=60))
def test_no_two_disks_in_one_place(buses: list[DiskBus]) -> None:
    """However buses alternate, places are the disks' own, or the bus is said to be full."""
    disks = tuple(Disk(source=FileSource(path="/d"), bus=bus) for bus in buses)
    assume(sum(a is not b for a, b in itertools.pairwise(buses)) < 15)
    layout = lay_out(disks, Arch.X86_64)
    assert len(set(layout.places)) == len(disks)
    controllers = {(c.bus, c.index) for c in layout.controllers}
    assert all(p.pci is not None or (p.bus, p.controller) in controllers for p in layout.places)
