"""Functional tests leave nothing behind: each is checked for guests, files, sockets and mounts after its end."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.conftest import TOP, failed_key
from tests.leftovers import left_behind, look
from tests.libvirt_daemons import system_daemon as running_system_daemon
from tests.orchestrators import Start, starting
from tests.processes import both_guardians
from tests.running import Guestlaunch, session_environment
from tests.storage import Storage, make

if TYPE_CHECKING:
    from orchestrator.hypervisor.connection import Connection
    from orchestrator.hypervisor.guest import Guest

Create: TypeAlias = "Callable[..., Guest]"


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest, session_dir: Path, state_dir: Path, evidence: Path) -> Iterator[None]:
    """Fail a test that leaves a guest, a process, a file, a socket or a mount of its session behind."""
    assert state_dir.is_relative_to(session_dir)
    before = look(session_dir)
    yield
    if remaining := left_behind(session_dir, before):
        request.node.stash[failed_key] = True
        pytest.fail(f"left behind (evidence kept in {evidence}):\n" + "\n".join(remaining), pytrace=False)


@pytest.fixture(scope="session")
def embedded(state_dir: Path) -> Iterator[Connection]:
    """The embedded driver, which a process can start only once."""
    # By way of our binding, which keeps libvirt from writing to stderr.
    pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")
    from orchestrator.hypervisor.connect import open_connection

    with open_connection(None, state_dir) as connection:
        assert connection.root is not None
        both_guardians(connection.root.path)  # the second comes a little later, and belongs to no test
        yield connection


@pytest.fixture
def create(embedded: Connection) -> Iterator[Create]:
    """Start guests, each of which is ended and its log removed whatever becomes of the test."""
    started: list[Guest] = []

    def start(xml: str, *, paused: bool = True) -> Guest:
        started.append(embedded.create(xml, paused=paused))
        return started[-1]

    yield start
    for guest in started:
        guest.end(5)
        assert guest.log_file is not None
        guest.log_file.unlink(missing_ok=True)


@pytest.fixture
def start(evidence: Path) -> Iterator[Start]:
    """Start orchestrators; those that still run at the end of a test are killed."""
    with starting(evidence) as begin:
        yield begin


@pytest.fixture
def system_daemon(session_dir: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A system libvirtd on a socket of its own: its URI and its process."""
    with running_system_daemon(session_dir / "libvirtd") as running:
        yield running


@pytest.fixture(scope="session")
def shared_guestlaunch(
    request: pytest.FixtureRequest, session_dir: Path, state_dir: Path, evidence_dir: Path
) -> Iterator[Guestlaunch]:
    """Run our commands for what several tests share; what they printed is kept when any test failed."""
    folder = evidence_dir / "shared"
    folder.mkdir()
    environ = session_environment(session_dir, state_dir, folder)
    with Guestlaunch(bin_dir=TOP / ".venv" / "bin", environ=environ, evidence=folder) as runner:
        yield runner
    if not request.session.testsfailed:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def storage(shared_guestlaunch: Guestlaunch, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """One of every kind of storage, made once a run by the appliance; to be attached read-only."""
    folder = tmp_path_factory.getbasetemp()
    return make(shared_guestlaunch, (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "storage")


@pytest.fixture(scope="module")
def templates(state_dir: Path) -> Iterator[Path]:
    """Where the templates of a test module are; the launches of the next one find none."""
    folder = state_dir / "templates"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def template(guestlaunch: Guestlaunch, templates: Path, evidence: Path) -> Path:
    """The template that guestfish's launches of the default profile are cloned from, built once a module."""
    found = sorted(templates.glob("aarch64-uefi-*"))
    if not found:
        log = {"GUESTLAUNCH_LOG": str(evidence / "template-build.jsonl")}
        guestlaunch("template", "build", "--accel", "tcg", environ=log).ok()
        found = sorted(templates.glob("aarch64-uefi-*"))
    # Tests that ask for other memory or a verbose kernel have their own, built after this one.
    return min(found, key=lambda folder: folder.stat().st_mtime)
