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
from tests.hosts import ACCEL
from tests.leftovers import left_behind, look
from tests.orchestrators import Start, starting
from tests.processes import both_guardians
from tests.running import Guestlaunch, session_environment
from tests.shared import once
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
def without_firmware(guestlaunch: Guestlaunch) -> None:
    """Guests that say nothing else have no firmware, which costs a third of a cold launch: for what is not about it."""
    guestlaunch.environ["GUESTLAUNCH_PROFILE"] = "aarch64-bare"


@pytest.fixture
def fresh(session_dir: Path) -> Iterator[Path]:
    """A state directory with nothing in it. A test that fails leaves nothing in the next one's way."""
    folder = session_dir / "fresh"  # short: libvirt's sockets are in it
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(evidence: Path) -> Iterator[Start]:
    """Start orchestrators; those that still run at the end of a test are killed."""
    with starting(evidence) as begin:
        yield begin


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
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the workers of a run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def storage(shared_guestlaunch: Guestlaunch, run_dir: Path) -> Storage:
    """One of every kind of storage, made once a run by the appliance; to be attached read-only."""
    return make(shared_guestlaunch, run_dir / "storage")


@pytest.fixture(scope="module")
def templates(state_dir: Path) -> Iterator[Path]:
    """Where the templates of a test module are; the launches of the next one find none."""
    folder = state_dir / "templates"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def first_template(shared_guestlaunch: Guestlaunch, session_dir: Path, state_dir: Path, run_dir: Path) -> Path:
    """A template of the default profile, built once a run: test modules have copies of it."""

    def build(staging: Path) -> None:
        own = session_dir / "first"
        own.mkdir(mode=0o700)
        (own / "appliances").symlink_to(state_dir / "appliances")
        environ = {"GUESTLAUNCH_STATE_DIR": str(own)}
        shared_guestlaunch("template", "build", *ACCEL, environ=environ, timeout_s=280).ok()
        (built,) = (own / "templates").glob("aarch64-uefi-*")
        copy(built, staging / built.name)
        # The next boot's firmware finds what this one's has left.
        assert [path.stat().st_mode & 0o777 for path in (own / "cache").glob("nvram-settled-*.fd")] == [0o600]
        shutil.rmtree(own)

    (built,) = once(run_dir / "template", build).iterdir()
    return built


@pytest.fixture(scope="module")
def module_template(first_template: Path, templates: Path) -> Path:
    """The template that guestfish's launches of the default profile are cloned from."""
    found = templates / first_template.name
    if not found.exists():
        copy(first_template, found)
    return found


@pytest.fixture
def template(module_template: Path, first_template: Path) -> Path:
    """The same for one test, whatever became of it in those before."""
    if not module_template.exists():
        copy(first_template, module_template)
    return module_template


@pytest.fixture
def cloned(guestlaunch: Guestlaunch, template: Path) -> None:
    """Launches that say nothing else are clones, a quarter of the work: for what is about tools, not launches."""
    guestlaunch.environ["GUESTLAUNCH_START"] = "auto"


def copy(template: Path, target: Path) -> None:
    """Copy a template; most of its memory's file is a hole."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["cp", "--archive", "--sparse=always", template, target], check=True, timeout=120)
