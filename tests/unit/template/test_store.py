"""The store of templates: published whole, found by all that they depend on, removed when nobody clones them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import LaunchError, NotFoundError
from orchestrator.template import store
from orchestrator.template.model import (
    CONSOLE,
    FIRMWARE,
    FORMAT,
    MANIFEST,
    NVRAM,
    RAM,
    ROOT,
    STATE,
    Facts,
    Template,
    identity,
    key_of,
)

FACTS: Facts = {"profile": "aarch64-uefi", "qemu": "/q 1 2", "memory_mib": 768}


def publish(state_dir: Path, facts: Facts = FACTS, *, nvram: bool = False, learned: bool = False) -> Template:
    """Publish a template of a few bytes."""
    with store.staging(state_dir) as directory:
        for name in (RAM, STATE, ROOT, FIRMWARE, CONSOLE, *((NVRAM,) if nvram else ())):
            (directory / name).write_bytes(name.encode() * 100)
        return store.publish(state_dir, directory, facts, request={}, seconds=1.5, learned=learned)


def below(state_dir: Path) -> list[str]:
    """Return the names of what lies beside the templates, and the templates."""
    return sorted(path.name for path in store.home(state_dir).iterdir())


@pytest.mark.parametrize("nvram", [True, False])
def test_what_is_published_is_found(tmp_path: Path, nvram: bool) -> None:
    """A template is found by its facts, undamaged, with all its files; and nothing of its making is left."""
    made = publish(tmp_path, nvram=nvram)
    assert store.find(tmp_path, FACTS) == made
    assert store.templates(tmp_path) == [made]
    assert store.damage(made) is None
    assert below(tmp_path) == [f"aarch64-uefi-{key_of(FACTS)}"]
    assert {path.name for path in made.path.iterdir()} - {".lock"} == {MANIFEST, *made.files}
    assert (NVRAM in made.files) is nvram
    assert (made.ram, made.state, made.root, made.firmware) == tuple(
        made.path / name for name in (RAM, STATE, ROOT, FIRMWARE)
    )
    assert made.seconds == 1.5
    assert made.disk_bytes >= sum(size for size, _ in made.files.values())


def test_no_template(tmp_path: Path) -> None:
    """A state directory without templates has none, and looking does not make any."""
    assert store.find(tmp_path, FACTS) is None
    assert store.templates(tmp_path) == []
    assert store.sweep(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changed",
    [{"qemu": "/q 1 3"}, {"memory_mib": 769}, {"memory_mib": "768"}, {"more": 1}, {"profile": "aarch64-bare"}],
)
def test_stale_templates_are_never_found(tmp_path: Path, changed: dict[str, str | int]) -> None:
    """Whatever of the facts has changed, in value, type or number, the key is another."""
    publish(tmp_path)
    assert store.find(tmp_path, {**FACTS, **changed}) is None
    assert key_of({**FACTS, **changed}) != key_of(FACTS)
    less = {name: value for name, value in FACTS.items() if name != "memory_mib"}
    assert store.find(tmp_path, less) is None


def test_the_order_of_facts_does_not_matter() -> None:
    """The key is of what the facts say."""
    assert key_of(dict(reversed(list(FACTS.items())))) == key_of(FACTS)


def test_the_key_is_not_believed_alone(tmp_path: Path) -> None:
    """A directory of the right name that was made for other facts is no template for these."""
    other = publish(tmp_path, {**FACTS, "qemu": "other"})
    other.path.rename(store.home(tmp_path) / f"aarch64-uefi-{key_of(FACTS)}")
    assert store.find(tmp_path, FACTS) is None


def cut_off(file: Path) -> None:
    """Take the last byte away."""
    os.truncate(file, file.stat().st_size - 1)


def overwritten(file: Path) -> None:
    """Change a byte and nothing of the size."""
    file.write_bytes(b"X" + file.read_bytes()[1:])


@pytest.mark.parametrize("name", [RAM, STATE, ROOT, FIRMWARE, NVRAM])
@pytest.mark.parametrize(
    ("harm", "glance", "says"),
    [
        (Path.unlink, True, "is missing"),
        (cut_off, True, "is not as it was built"),
        (overwritten, False, "is not as it was built"),
    ],
)
def test_damage(tmp_path: Path, name: str, harm: Callable[[Path], None], glance: bool, says: str) -> None:
    """Each damaged file is named; what can be seen without reading it all keeps the template from being used."""
    made = publish(tmp_path, nvram=True)
    harm(made.path / name)
    assert store.damage(made) == f"{name} {says}"
    assert (store.find(tmp_path, FACTS) is None) is glance


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "x"}', '{"key": 1, "facts": {}, "files": {"ram": 3}}', None])
def test_a_manifest_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    """What cannot be understood is no template, and disturbs no other."""
    damaged, whole = publish(tmp_path), publish(tmp_path, {**FACTS, "qemu": "other"})
    if text is None:
        (damaged.path / MANIFEST).unlink()
    else:
        (damaged.path / MANIFEST).write_text(text)
    assert store.find(tmp_path, FACTS) is None
    assert store.templates(tmp_path) == [whole]


def test_a_template_of_another_format(tmp_path: Path) -> None:
    """What another guestlaunch has built is not used, and goes when there is a build."""
    made = publish(tmp_path)
    manifest = made.path / MANIFEST
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**said, "format": FORMAT - 1}))
    old = time.time() - 60
    os.utime(made.path, (old, old))
    assert store.find(tmp_path, FACTS) is None
    assert store.sweep(tmp_path) == [made.path]


def test_holes_are_not_read(tmp_path: Path) -> None:
    """A guest's memory is mostly holes: they cost nothing when it is published and checked, and may be filled later."""
    size = 1 << 40  # whoever reads it all takes an hour
    with store.staging(tmp_path) as directory:
        for name in (STATE, ROOT, FIRMWARE):
            (directory / name).write_bytes(b"x")
        with (directory / RAM).open("wb") as ram:
            ram.truncate(size)
            ram.seek(size // 2)
            ram.write(b"y")
        made = store.publish(tmp_path, directory, FACTS, request={}, seconds=1.5)
    assert store.damage(made) is None
    with made.ram.open("r+b") as ram:
        ram.write(bytes(4096))
    assert store.damage(made) is None
    with made.ram.open("r+b") as ram:
        ram.write(b"z")
    assert store.damage(made) == f"{RAM} is not as it was built"


def test_a_damaged_template_makes_room_for_a_new_one(tmp_path: Path) -> None:
    """Publishing for the same facts replaces what was there."""
    cut_off(publish(tmp_path).state)
    made = publish(tmp_path)
    assert store.find(tmp_path, FACTS) == made
    assert store.damage(made) is None
    assert below(tmp_path) == [made.path.name]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """What was staged and not published is gone."""

    def fail() -> None:
        with store.staging(tmp_path) as directory:
            (directory / RAM).write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert below(tmp_path) == []


def test_a_build_that_cannot_write_says_where(tmp_path: Path) -> None:
    """A state directory that cannot hold templates is named."""
    (tmp_path / "templates").touch()
    with pytest.raises(LaunchError, match=f"cannot build the template: {tmp_path}/templates"), store.staging(tmp_path):
        pass


STAGES_AND_WAITS = """
import sys, time
from pathlib import Path
from orchestrator.template import store
with store.staging(Path(sys.argv[1])) as directory:
    (directory / "ram").write_bytes(b"x")
    print("staged", flush=True)
    time.sleep(60)
"""


def test_sweep(tmp_path: Path) -> None:
    """A build at work is left alone; what a killed one left goes, and so does what was half-removed."""
    with subprocess.Popen([sys.executable, "-c", STAGES_AND_WAITS, tmp_path], stdout=subprocess.PIPE) as build:
        assert build.stdout is not None
        assert build.stdout.readline() == b"staged\n"
        (staged,) = store.home(tmp_path).iterdir()
        old = time.time() - 60
        os.utime(staged, (old, old))
        assert store.sweep(tmp_path) == []
        build.kill()
    assert staged.exists()
    assert store.sweep(tmp_path) == [staged]
    assert below(tmp_path) == []


def test_the_next_build_sweeps(tmp_path: Path) -> None:
    """Nobody has to ask for it; templates stay."""
    made = publish(tmp_path)
    left = store.home(tmp_path) / ".building-left"
    left.mkdir()
    old = time.time() - 60
    os.utime(left, (old, old))
    with store.staging(tmp_path):
        assert not left.exists()
    assert below(tmp_path) == [made.path.name]


def test_a_template_in_use_is_not_removed(tmp_path: Path) -> None:
    """It stays while a launch holds it, and goes afterwards; who comes too late is told."""
    made = publish(tmp_path)
    with made.hold(), made.hold():
        assert store.remove(made) is False
        assert store.find(tmp_path, FACTS) == made
    assert store.remove(made) is True
    assert below(tmp_path) == []
    assert store.remove(made) is True
    with pytest.raises(NotFoundError, match=f"{made.key}: it has just been removed"), made.hold():
        pass


def test_one_build_at_a_time(tmp_path: Path) -> None:
    """Who wants to build while another does waits until that is over."""
    entered = threading.Event()

    def second() -> None:
        with store.building(tmp_path):
            entered.set()

    waiting = threading.Thread(target=second)
    with store.building(tmp_path):
        waiting.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    waiting.join()


def test_lookup(tmp_path: Path) -> None:
    """A template is named by its directory or by enough of its key; what is unclear or unknown is an error."""
    made = [publish(tmp_path, {**FACTS, "qemu": str(number)}) for number in range(17)]
    assert store.lookup(tmp_path, made[3].key) == made[3]
    assert store.lookup(tmp_path, made[5].path.name) == made[5]
    with pytest.raises(NotFoundError, match="there is no such template"):
        store.lookup(tmp_path, "no-such-key")
    first_digits = [template.key[0] for template in made]
    shared = next(digit for digit in first_digits if first_digits.count(digit) > 1)
    with pytest.raises(NotFoundError, match=f"{first_digits.count(shared)} templates start so"):
        store.lookup(tmp_path, shared)


def test_identity_of_a_file(tmp_path: Path) -> None:
    """A changed file, and one behind a changed link, is another; the same file by another name is the same."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("one")
    link.symlink_to(file)
    before = identity(file)
    assert identity(link) == before
    file.write_text("longer")
    assert identity(file) != before
    os.utime(file, (1, 1))
    assert identity(file) != identity(tmp_path)
    with pytest.raises(FileNotFoundError):
        identity(tmp_path / "none")


def test_what_was_not_cloned_for_longest_goes_first(tmp_path: Path) -> None:
    """Down to the space that is allowed, and after the days that are; what is in use stays."""
    made = [publish(tmp_path, {**FACTS, "memory_mib": size}) for size in (1, 2, 3, 4)]
    for days, one in zip((40, 30, 20, 10), made, strict=True):
        used = time.time() - days * 86_400
        os.utime(one.path, (used, used))
    with made[2].hold():  # which is a use
        assert store.prune(tmp_path) == []
        assert store.prune(tmp_path, unused_s=35 * 86_400) == [made[0]]
        assert store.prune(tmp_path, most_bytes=made[2].disk_bytes + made[3].disk_bytes) == [made[1]]
        assert store.prune(tmp_path, most_bytes=0) == [made[3]]
    assert store.templates(tmp_path) == [made[2]]
    assert store.prune(tmp_path, most_bytes=made[2].disk_bytes, unused_s=3_600) == []


def test_room_is_made_among_what_nobody_asked_for(tmp_path: Path) -> None:
    """By number and by space, those that were not used for longest first; the newest, and those in use, stay."""
    asked = publish(tmp_path, {**FACTS, "memory_mib": 1})
    made = [publish(tmp_path, {**FACTS, "memory_mib": size}, learned=True) for size in (2, 3, 4, 5)]
    for days, one in zip((50, 40, 30, 20, 10), (asked, *made), strict=True):
        used = time.time() - days * 86_400
        os.utime(one.path, (used, used))
    assert [one.learned for one in store.templates(tmp_path) if one.key == asked.key] == [False]
    newest, size = made[3], made[3].disk_bytes
    assert store.make_room(tmp_path, newest, most=4, most_bytes=100 * size) == []
    assert store.make_room(tmp_path, newest, most=3, most_bytes=100 * size) == [made[0]]
    with made[1].hold():
        os.utime(made[1].path, (1, 1))
        assert store.make_room(tmp_path, newest, most=9, most_bytes=size + made[1].disk_bytes) == [made[2]]
    assert store.make_room(tmp_path, newest, most=1, most_bytes=0) == [made[1]]
    assert {one.key for one in store.templates(tmp_path)} == {asked.key, newest.key}


def test_uses_are_counted(tmp_path: Path) -> None:
    """Each clone holds its template, and counts; the count is no part of what was built."""
    made = publish(tmp_path)
    assert made.uses == 0
    for _ in range(3):
        with made.hold():
            pass
    assert made.uses == 3
    assert store.damage(made) is None


def test_a_recording_is_marked(tmp_path: Path) -> None:
    """What the template said at its boot stands between two lines of ours, which name it."""
    made = publish(tmp_path)
    first, *said, last = made.recording().split(b"\r\n")[:-1]
    assert made.key.encode() in first
    assert b"recorded" in first
    assert b"".join(said) == CONSOLE.encode() * 100
    assert last == b"guestlaunch: end of the recording"


@pytest.mark.parametrize("change", [{"facts": {}}, {"facts": []}, {"facts": {**FACTS, "libvirt": 1}}, {"key": 3},
                                    {"key": "x"}, {"seconds": "long"}, {"seconds": None}])  # fmt: skip
def test_a_manifest_that_says_something_else(tmp_path: Path, change: dict[str, object]) -> None:
    """A key is the digest of its facts; whoever lists templates may rely on what it reads."""
    made = publish(tmp_path)
    manifest = made.path / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    assert store.templates(tmp_path) == []
