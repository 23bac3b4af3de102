"""What is asked of the corpus of layouts (tests/layouts.py), and how the answers of a way of launching are had."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.daemons import standing_by
from tests.disks import host
from tests.hosts import ACCEL
from tests.layouts import Corpus, device_names, make, named
from tests.parity_scripts import settled
from tests.running import Guestlaunch
from tests.storage import split

WAYS = ("stock", "lean", "warm", "standby")

QUESTIONS = {
    "devices": "list-devices\nlist-partitions\nlist-disk-labels\n",
    # The list itself ends at a volume that no init can activate.
    "file systems": "list-filesystems\n"
    + "".join(
        f"vfs-type {place}\n"
        for place in (
            *("/dev/stacked/top", "/dev/md/above", "/dev/many/v0", "/dev/vault/door"),
            *("${parts}1", "${mbr}1", "${large}1", "$tree1", "$kept"),
        )
    ),
    "physical volumes": "pvs\n",
    "volumes": "vgs\nlvs\nlist-dm-devices\nlist-ldm-volumes\nlist-ldm-partitions\n",
    "records": "lvs-full\nvgs-full\npvs-full\n",
    "arrays": 'list-md-devices\ndebug sh "ls /dev/md /dev/mapper"\ndebug sh "grep -c ^md /proc/mdstat"\n',
    # But for those of the appliance's own root.
    "links": 'debug sh "cd /dev/disk; ls by-label by-partuuid by-id | grep -v -e guestlaunch -e ^scsi -e ^virtio"',
    "btrfs": "btrfs-filesystem-show $tree1\nmount-ro $tree2 /\numount /\n",
    "mounts": "".join(
        f"mount-ro {place} /\nls /\numount /\n"
        for place in ("/dev/twins/one", "/dev/stacked/top", "/dev/md/half", "/dev/md/above")
    ),
    # Each of these is a program that an emulated guest has to start.
    "sizes": "".join(
        f"blockdev-get{what} ${name}\n"
        for name in ("large", "kept", "nothing", "odd")
        for what in ("size64", "ss", "ro")
    ),
    "labels": "part-list $mbr\npart-get-parttype $large\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one way said: each section's output, and what guestfish said on standard error meanwhile."""

    record: Mapping[str, Any]
    output: Mapping[str, str]
    errors: Mapping[str, str]


def ask(
    guestlaunch: Guestlaunch,
    way: tuple[str, ...],
    made: Corpus,
    images: Mapping[str, Path],
    folder: Path,
    session_s: float,
) -> Answers:
    """Launch over copies of the images, and ask everything, within so many seconds."""
    lines = []
    for name, image in made.shown.items():
        host("cp", "--sparse=always", images[name], folder)
        lines.append(f"add-drive {folder / images[name].name} format:raw {image.options}")
    lines.append("run")
    devices = device_names(made.shown)
    for section, text in QUESTIONS.items():
        lines += [f"echo == {section}", f"!echo == {section} >&2"]
        lines += [f"-{line}" for line in named(text, devices).splitlines()]
    timeline = folder / "timeline.jsonl"
    command = ("guestfish", *ACCEL, "--start", *way, "--timeline", f"{timeline}")
    result = guestlaunch(*command, stdin="\n".join(lines) + "\n", timeout_s=session_s).ok()
    (record,) = map(json.loads, timeline.read_text().splitlines())
    output, errors = (
        {name: _settled(text) for name, text in split(stream).items()} for stream in (result.stdout, result.stderr)
    )
    output["physical volumes"] = "\n".join(sorted(output["physical volumes"].replace("/dev/sdb", "/dev/sda").split()))
    return Answers(record=record, output=output, errors=errors)


def _settled(text: str) -> str:
    """Return an answer without what the kernel's names of disks decide, which come as their probes end.

    LVM tells them, lists by them, and takes the first of two copies by them: so it is with any init.
    """
    text = re.sub(r"^( *pv_name: /dev/)sd[a-z]+\d*$", r"\1-", settled(text, 0, 0), flags=re.MULTILINE)
    head, *records = re.split(r"^\[\d+\] = {\n", text, flags=re.MULTILINE)
    return "".join([head, *sorted(records)])


def compare(
    guestlaunch: Guestlaunch, made: Corpus, *, kept: Path, stock: Path, folder: Path, session_s: float = 900.0
) -> Iterator[Mapping[str, Future[Answers]]]:
    """Have the answers of all ways; one that has failed fails those who ask for it.

    :param kept: where the images are kept; `stock` the appliance with libguestfs's own init; `folder` takes copies.
    :param session_s: how long each of them may take, and making the images.
    """
    images = make(guestlaunch, kept, made, *ACCEL, "--start", "warm", timeout_s=session_s)
    ways = {"stock": ("cold", "--appliance", f"{stock}"), "lean": ("cold",), "warm": ("warm",), "standby": ("auto",)}

    def answers(name: str) -> Answers:
        (folder / name).mkdir()
        return ask(guestlaunch, ways[name], made, images, folder / name, session_s)

    with ThreadPoolExecutor(2) as pool:
        found = {name: pool.submit(answers, name) for name in WAYS[:-1]}
    with standing_by(guestlaunch), ThreadPoolExecutor(1) as pool:
        found["standby"] = pool.submit(answers, "standby")
    yield found
