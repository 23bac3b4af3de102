"""The same guestfish scripts give the same output in the appliance with libguestfs's own init, in ours, and in a clone.

A way of launching runs one guestfish session over the same disks, in which each feature has its section; the sections
are compared whole, with what guestfish said on standard error. What cannot be the same from one run to the next is
left out by `settled`, and by nothing else.
"""

from __future__ import annotations

import filecmp
import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pytest

from tests.disks import MIB, DiskFactory, host
from tests.hosts import ACCEL
from tests.parity_scripts import FEATURES, KEPT_MIB, OWN, OWN_MIB, SHARED, settled
from tests.running import Guestlaunch
from tests.storage import PASSPHRASE, Storage, attached, commands, device, split

pytestmark = pytest.mark.timeout(1500)

OURS = ("lean", "warm")
WAYS = ("stock", *OURS)
AT_A_TIME = 2
COMMAND = ("guestfish", *ACCEL, "--start")
SESSION_S = 600.0  # what a session may take on a busy machine
UPLOADED = bytes(range(256)) * 8000
HOSTS = "192.0.2.1 one.example\n192.0.2.2\ttwo.example\n"
# What each session leaves on its own disks: where, and commands with what they print.
LEFT = (
    ("/dev/made/one", "cat /where", "lvm"),
    ("/dev/md/made", "cat /where", "md"),
    ("/dev/hidden/inner", "cat /where", "changed"),
    ("$windows", "cat /Windows/System32/where", "ntfs"),
    ("$big", "cat /where", "xfs"),
    ("btrfsvol:$tree/snapshot", "cat /where", "btrfs"),
    ("${seeded}1", "checksum sha256 /uploaded", hashlib.sha256(UPLOADED.ljust(3_000_000, b"\0")).hexdigest()),
    ("${seeded}1", "cat /etc/hosts", HOSTS.strip()),
    ("${seeded}1", "lgetxattr /hosts user.colour", "green"),
    ("${seeded}1", "hivex-open /hive\nhivex-node-name $added\nhivex-close", "Software"),
)
# What list-filesystems finds on the shared disks, in this order; there is more on the session's own.
FOUND = {
    "/dev/sdb": "btrfs", "/dev/sdg": "btrfs", "/dev/sdh": "squashfs", "/dev/sdi": "f2fs", "/dev/sdj": "xfs",
    "/dev/sdk": "ext2", "/dev/sda1": "ntfs", "/dev/sda2": "vfat", "/dev/mirrored/data": "ext4",
    "/dev/system/root": "ext4", "/dev/system/swap": "swap",
}  # fmt: skip
# Members of arrays and groups, and what is encrypted, are none.
NOT_FOUND = ("/dev/sdc", "/dev/sdd", "/dev/sde", "/dev/sdf", "/dev/sdl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one way gave.

    :ivar output: what each feature printed, settled; `errors` what was said on standard error meanwhile.
    :ivar touched: shared disks that are not as they were.
    :ivar left: what another launch, read-only, then found on the session's own disks, in the order of LEFT.
    """

    folder: Path
    record: Mapping[str, Any]
    output: Mapping[str, str]
    errors: Mapping[str, str]
    touched: frozenset[str]
    left: list[str]


def script(devices: Mapping[str, str], storage: Storage) -> str:
    """Return the session. Each feature's name goes to both streams; no error ends it."""
    lines = [*(f"add-drive {arguments}" for arguments in OWN.values()), "run"]
    for name, feature in FEATURES.items():
        lines += [f"echo == {name}", f"!echo == {name} >&2"]
        text = Template(feature.script).substitute(devices, hive_root=storage.hive_root)
        lines += [line if line == PASSPHRASE else f"-{line}" for line in text.splitlines() if line]
    return commands(*lines)


def make_own_disks(folder: Path, storage: Storage) -> None:
    """Make the disks of one session, empty but for three."""
    factory = DiskFactory(folder)
    for name, size in OWN_MIB.items():
        file = OWN[name].split()[0]
        factory(file, size_mib=size, image_format="raw" if file.endswith(".img") else "qcow2", filesystem=False)
    factory("seeded.img", partitioned=True, files={"seeded": "from the host\n"})
    factory("kept.img", size_mib=KEPT_MIB, files={"kept": ""})
    shutil.copyfile(folder / "kept.img", folder / "kept.before")
    host("qemu-img", "create", "-q", "-f", "qcow2", "-b", storage.disks["luks"], "-F", "raw", folder / "luks.qcow2")
    (folder / "upload.bin").write_bytes(UPLOADED)


def run_session(guestlaunch: Guestlaunch, way: tuple[str, ...], folder: Path, storage: Storage) -> Session:
    """Run one way's session, and have what it wrote read by another launch."""
    make_own_disks(folder, storage)
    order = (*SHARED, *OWN)
    devices = {name: device(name, order) for name in order}
    shared = {name: storage.disks[name] for name in SHARED}
    before = {name: path.stat().st_mtime_ns for name, path in shared.items()}
    command = (*COMMAND, *way, "--timeline", f"{folder}/timeline.jsonl", "--", "--keys-from-stdin", "--ro")
    time.sleep(1 - time.time() % 1)  # so that what is on the disks already is older by a whole second
    began = time.time()
    result = guestlaunch(
        *command, *attached(shared.values()), stdin=script(devices, storage), timeout_s=SESSION_S, cwd=folder
    ).ok()
    ended = time.time()
    (record,) = map(json.loads, (folder / "timeline.jsonl").read_text().splitlines())
    output, errors = (
        {name: settled(text, began, ended) for name, text in split(stream).items()}
        for stream in (result.stdout, result.stderr)
    )
    return Session(
        folder=folder,
        record=record,
        output=output,
        errors=errors,
        touched=frozenset(name for name, path in shared.items() if path.stat().st_mtime_ns != before[name]),
        left=read_again(guestlaunch, folder, added=output["hivex"].split("hivex_node_h: ")[1].split()[0]),
    )


def read_again(guestlaunch: Guestlaunch, folder: Path, *, added: str) -> list[str]:
    """Return what a session has left on its own disks."""
    disks = {name: folder / options.split()[0] for name, options in OWN.items()}
    devices = {name: device(name, disks) for name in disks}
    lines = ["run", "cryptsetup-open $luks opened", PASSPHRASE]
    for number, (place, question, _) in enumerate(LEFT):
        lines += [f"mount-ro {place} /", f"echo == {number}", question, 'echo ""', "umount /"]
    text = Template(commands(*lines)).substitute(devices, added=added)
    command = (*COMMAND, "warm", "--", "--keys-from-stdin", "--ro")
    result = guestlaunch(*command, *attached(disks.values()), stdin=text, timeout_s=SESSION_S).ok()
    return [text.strip() for text in split(result.stdout).values()][1:]


@pytest.fixture(scope="module")
def sessions(
    shared_guestlaunch: Guestlaunch,
    stock_init_appliance: Path,
    storage: Storage,
    module_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Future[Session]]:
    """The session of each way, all over; one that has failed fails those who ask for it."""
    ways = {"stock": ("cold", "--appliance", f"{stock_init_appliance}"), "lean": ("cold",), "warm": ("warm",)}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return {
            name: pool.submit(run_session, shared_guestlaunch, way, tmp_path_factory.mktemp(name), storage)
            for name, way in ways.items()
        }


@pytest.mark.parametrize("way", WAYS)
def test_launched_as_asked(sessions: Mapping[str, Future[Session]], stock_init_appliance: Path, way: str) -> None:
    """No way is another one in disguise: the log says which start and which appliance it was, and warns of nothing."""
    session = sessions[way].result()
    assert session.record["start"] == ("warm" if way == "warm" else "cold")
    assert (session.record["outcome"], session.record["exit_status"]) == ("success", 0)
    assert (Path(session.record["appliance"]["path"]) == stock_init_appliance) is (way == "stock")
    assert (session.output[""], session.errors[""]) == ("", "")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FEATURES)
def test_feature(sessions: Mapping[str, Future[Session]], name: str, way: str) -> None:
    """The feature is there: it shows what it must, and complains of what it must and of nothing else."""
    session = sessions[way].result()
    for shown in FEATURES[name].shows:
        assert shown in session.output[name]
    complaints = session.errors[name].split("libguestfs: error: ")[1:]
    assert len(complaints) == len(FEATURES[name].errors), session.errors[name]
    for complaint, expected in zip(complaints, FEATURES[name].errors, strict=True):
        assert expected in complaint


@pytest.mark.parametrize("way", WAYS)
def test_found_as_made(sessions: Mapping[str, Future[Session]], way: str) -> None:
    """All that was made by another launch, on disks in another order, is activated at the start and named."""
    lines = sessions[way].result().output["filesystems"].splitlines()
    listed = dict(line.rsplit(": ", 1) for line in itertools.takewhile(lambda line: ": " in line, lines))
    assert [(name, kind) for name, kind in listed.items() if name in FOUND] == list(FOUND.items())
    assert not [name for name in listed if name.startswith(NOT_FOUND)]


@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("name", FEATURES)
def test_same_as_stock(sessions: Mapping[str, Future[Session]], name: str, way: str) -> None:
    """Every line is the one that libguestfs's own init leads to, on both streams."""
    stock, session = sessions["stock"].result(), sessions[way].result()
    assert session.output[name] == stock.output[name]
    assert session.errors[name] == stock.errors[name]


@pytest.mark.parametrize("way", WAYS)
def test_written_is_on_disk(sessions: Mapping[str, Future[Session]], storage: Storage, way: str) -> None:
    """After the exit another launch and the host find what was written, and read-only disks as they were."""
    session = sessions[way].result()
    assert session.left == [expected for _, _, expected in LEFT]
    seeded = f"{session.folder / 'seeded.img'}?offset={MIB}"
    host("/usr/sbin/debugfs", "-R", f"dump /etc/hosts {session.folder / 'hosts'}", seeded)
    assert (session.folder / "hosts").read_text() == HOSTS
    assert (session.folder / "download.bin").read_bytes() == UPLOADED
    assert (session.folder / "hive.bin").read_bytes() == storage.hive.read_bytes()
    assert filecmp.cmp(session.folder / "kept.img", session.folder / "kept.before", shallow=False)
    assert session.touched == frozenset()
