"""What all tests share: markers by folder, skips that fail in CI, and the fixtures that run the real commands.

Everything a session of real guests makes lies under one short folder of its own, so that nobody else's guests are
mistaken for ours, and so that what a test leaves behind can be seen. How a command is run is in tests/running.py, what
counts as left behind in tests/leftovers.py, how disk images are made in tests/disks.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.disks import DiskFactory
from tests.hosts import Appliances, lacking, needs_of
from tests.libvirt_daemons import system_daemon as running_system_daemon
from tests.running import Guestlaunch, end_all, session_environment

TOP = Path(__file__).resolve().parents[1]
MARKED_FOLDERS = ("functional", "performance")
IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}

failed_key = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Have SIGTERM, as `timeout` sends it, end what tests have started, as an interruption does."""

    def ended(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)  # it comes to the process and to its group
        end_all()
        if config.pluginmanager.hasplugin("dsession"):  # the children are workers
            for children in Path("/proc/self/task").glob("*/children"):
                for child in children.read_text("utf-8").split():
                    os.kill(int(child), signal.SIGTERM)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, ended)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the folder they are in."""
    for item in items:
        folder = item.path.relative_to(TOP).parts[1] if item.path.is_relative_to(TOP / "tests") else ""
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this host cannot do, with all that it lacks: before anything is made for it."""
    if reasons := lacking(needs_of(item)):
        pytest.skip("; ".join(reasons))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember failures, name the kept evidence, and turn a functional skip in CI into a failure."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("functional"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"a functional test must not be skipped in CI: {item.nodeid}: {reason}"
    if report.failed:
        item.stash[failed_key] = True
        folder = item.funcargs.get("evidence") if isinstance(item, pytest.Function) else None
        if folder is not None:
            report.sections.append(("Evidence", f"kept in {folder}"))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a functional module that skips itself as a whole in CI into a failure too."""
    report = yield
    if IN_CI and report.outcome == "skipped" and collector.path.is_relative_to(TOP / "tests" / "functional"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"a functional test must not be skipped in CI: {collector.nodeid}: {reason}"
    return report


@pytest.fixture(scope="session")
def built_state_dir() -> Path:
    """The state directory in which tools/test has built the appliances."""
    return Path(os.environ.get("GUESTLAUNCH_STATE_DIR") or TOP / ".build" / "state").absolute()


@pytest.fixture(scope="session")
def session_dir() -> Iterator[Path]:
    """A folder for everything this session makes; its name is short, because unix sockets lie in it."""
    folder = Path(
        tempfile.mkdtemp(prefix="gl-", dir=tempfile.gettempdir() if len(tempfile.gettempdir()) < 16 else "/tmp")
    )
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def state_dir(session_dir: Path, built_state_dir: Path) -> Path:
    """This session's own state directory. The appliances in it are the built ones."""
    folder = session_dir / "state"
    folder.mkdir(mode=0o700)
    (folder / "appliances").symlink_to(built_state_dir / "appliances")
    return folder


@pytest.fixture(scope="session")
def evidence_dir() -> Iterator[Path]:
    """Where failed tests of this session keep what they saw; gone when none failed."""
    folder = TOP / ".build" / "evidence" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir(parents=True)
    yield folder
    if not any(folder.iterdir()):
        folder.rmdir()


@pytest.fixture
def evidence(request: pytest.FixtureRequest, evidence_dir: Path) -> Iterator[Path]:
    """A folder for one test's logs, timeline and command outputs, kept when the test fails."""
    folder = evidence_dir / re.sub(r"[^\w.=-]+", "_", request.node.nodeid.removeprefix("tests/"))[-120:]
    folder.mkdir()
    yield folder
    if not request.node.stash.get(failed_key, False):
        shutil.rmtree(folder)


@pytest.fixture
def guestlaunch(session_dir: Path, state_dir: Path, evidence: Path) -> Iterator[Guestlaunch]:
    """Run our commands, and any program in our environment, with a deadline. What still runs at the end is killed."""
    with Guestlaunch(
        bin_dir=TOP / ".venv" / "bin",
        environ=session_environment(session_dir, state_dir, evidence),
        evidence=evidence,
    ) as runner:
        yield runner


@pytest.fixture(scope="session")
def appliance(built_state_dir: Path) -> dict[str, Path]:
    """The built appliances' directories by arch ("aarch64", "x86_64"), of the arches whose QEMU is installed."""
    found = {
        arch: built_state_dir / "appliances" / arch / "current"
        for arch in ("aarch64", "x86_64")
        if not lacking([f"qemu-system-{arch}"])
    }
    missing = [arch for arch, folder in found.items() if not (folder / "kernel").exists()]
    if missing:
        commands = "; ".join(f"guestlaunch appliance build --arch {arch}" for arch in missing)
        pytest.fail(
            f"no appliance for {', '.join(missing)} in {built_state_dir}: run tools/test, or with"
            f" GUESTLAUNCH_STATE_DIR={built_state_dir}: {commands}",
            pytrace=False,
        )
    return Appliances({arch: folder.resolve() for arch, folder in found.items()})


@pytest.fixture(scope="session")
def stock_init_appliance(built_state_dir: Path) -> Path:
    """The directory of the aarch64 appliance with libguestfs's own init, built by tools/test as well."""
    folder = built_state_dir / "appliances/aarch64-stock/current"
    if not (folder / "kernel").exists():
        command = "guestlaunch appliance build --init stock"
        pytest.fail(f"none in {built_state_dir}: run tools/test, or there: {command}", pytrace=False)
    return folder.resolve()


@pytest.fixture
def disk_image(tmp_path: Path) -> DiskFactory:
    """Make small disk images on the host, without a guest and without root."""
    return DiskFactory(tmp_path)


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that libvirt's QEMU, a user of its own, may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="guestlaunch-vm-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def system_daemon(session_dir: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A system libvirtd on a socket of its own: its URI and its process."""
    with running_system_daemon(session_dir / "libvirtd") as running:
        yield running
