"""guestlaunchd as a program: arguments, the inherited connection, the service manager, and failures as one line."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from orchestrator import program
from orchestrator.daemon import main
from orchestrator.daemon.client import LaunchFeed
from orchestrator.errors import LaunchError, UsageError
from orchestrator.wrapper import protocol
from tests.conftest import TOP


def test_unknown_option_names_the_nearest() -> None:
    """A typo is an error that says what was meant."""
    with pytest.raises(UsageError, match="did you mean '--socket'"):
        main.run(["--sockt", "x"])


def test_serve_fd_must_be_a_socket(tmp_path: Path) -> None:
    """A descriptor that is closed, or no connected socket, is named."""
    with pytest.raises(UsageError, match="--serve-fd 999"):
        main.run(["--serve-fd", "999"])
    with (tmp_path / "f").open("w") as file, pytest.raises(UsageError, match="not a socket"):
        main.run(["--serve-fd", str(file.fileno())])
    with socket.socket(socket.AF_UNIX) as lonely, pytest.raises(UsageError, match="not connected"):
        main.run(["--serve-fd", str(os.dup(lonely.fileno()))])


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("GUESTLAUNCH_START", "hot", "hot"),
        ("GUESTLAUNCH_STARTT", "warm", "GUESTLAUNCH_STARTT"),
        ("GUESTLAUNCH_CONFIG", "/nonexistent/guestlaunch.toml", "/nonexistent/guestlaunch.toml"),
        ("GUESTLAUNCH_OTLP_ENDPOINT", "no address", "no address"),
    ],
)
def test_what_keeps_us_from_serving_is_the_clients_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, why: str
) -> None:
    """A setting that is refused before there is a server reaches whoever started us, in one line."""
    monkeypatch.setenv("GUESTLAUNCH_STATE_DIR", str(tmp_path))
    monkeypatch.setenv(variable, value)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert main.run(["--serve-fd", str(theirs.fileno())]) != 0
        message, _ = protocol.receive(ours, time.monotonic() + 10)
        theirs.detach()  # closed by the server
    assert (message["type"], message["status"]) == ("exit", 1)
    assert why in message["message"]


@pytest.mark.parametrize("abstract", [False, True])
def test_service_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    """READY=1 goes to $NOTIFY_SOCKET, in both of its forms; without one nothing happens."""
    address = f"@guestlaunch-test-{os.getpid()}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        manager.settimeout(5)
        main.notify({"NOTIFY_SOCKET": address}, "READY=1")
        assert manager.recv(100) == b"READY=1"
    main.notify({}, "READY=1")
    main.notify({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, "READY=1")


@pytest.mark.parametrize(("socket_option", "noted"), [((), True), (("--socket", "s"), False)])
def test_where_no_tool_looks(tmp_path: Path, socket_option: tuple[str, ...], *, noted: bool) -> None:
    """A daemon in a folder that only its settings file names says how tools find it; one whose socket was named not."""
    folder = Path(tempfile.mkdtemp(prefix="gl-", dir="/tmp"))
    (folder / "config.toml").write_text(f'runtime_dir = "{folder}/run"\n', encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GUESTLAUNCH_")}
    command = [sys.executable, "-m", "orchestrator.daemon.main", "--config", str(folder / "config.toml")]
    command += ["--state-dir", str(folder / "state"), *socket_option]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "listening on" in process.stderr.readline()
        process.terminate()
        assert ("set GUESTLAUNCH_SOCKET=" in process.stderr.read()) is noted
    shutil.rmtree(folder)


@pytest.mark.parametrize("stopped", [False, True])
def test_daemon_of_a_version_that_was_replaced(tmp_path: Path, stopped: bool) -> None:
    """Who connects after an upgrade is sent to a server of their own, who is served stays; then it ends with 75.

    Told to stop meanwhile, it ends with 0, as ever.
    """
    shutil.copytree(TOP / "orchestrator", tmp_path / "orchestrator", ignore=shutil.ignore_patterns("__pycache__"))
    folder = Path(tempfile.mkdtemp(prefix="gl-", dir="/tmp"))
    path = folder / "run" / "s"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GUESTLAUNCH_")}
    command = [sys.executable, "-c", "import sys; from orchestrator.daemon import main; sys.exit(main.main())"]
    command += ["--state-dir", str(folder / "state"), "--socket", str(path)]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "listening on" in process.stderr.readline()
        with LaunchFeed(path) as watcher:
            watcher.require_accepted()
            (tmp_path / "orchestrator/__init__.py").rename(tmp_path / "old.py")
            shutil.copy(tmp_path / "old.py", tmp_path / "orchestrator/__init__.py")
            with socket.socket(socket.AF_UNIX) as late:
                late.connect(str(path))
                answer, _ = protocol.receive(late, time.monotonic() + 60)
            assert (answer["type"], answer["elsewhere"]) == ("exit", True)
            assert "another version of guestlaunch has been installed" in answer["message"]
            assert "ending with the last client" in process.stderr.readline()
            assert not path.exists()
            assert list(watcher.finished(0.2)) == []  # it is connected still
            assert process.poll() is None
            if stopped:
                process.terminate()
                assert process.wait(60) == 0
        assert process.wait(60) == (0 if stopped else os.EX_TEMPFAIL)
    shutil.rmtree(folder)


def test_version_and_help_need_no_libvirt() -> None:
    """--version answers even where libvirt is missing."""
    code = (
        "import sys; sys.modules['libvirt'] = None; sys.argv = ['guestlaunchd', '--version']\n"
        "from orchestrator.daemon.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("guestlaunchd "), done.stderr


def test_failures_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An error of ours is its own line, and its status is its class's."""

    def fail() -> int:
        raise UsageError("what", "sub\nject", "why")

    assert program.guarded("prog", fail) == 2
    assert capsys.readouterr().err == "prog: what: sub\\nject: why\n"


def test_interruption_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C is no failure worth a word."""

    def interrupt() -> int:
        raise KeyboardInterrupt

    assert program.guarded("prog", interrupt) == 130
    assert capsys.readouterr().err == ""


def test_defect_is_one_line_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected exception names the file that holds its traceback."""
    monkeypatch.setenv("GUESTLAUNCH_STATE_DIR", str(tmp_path))

    def fail() -> int:
        raise ZeroDivisionError("oops")

    assert program.guarded("prog", fail) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "this is a bug" in line
    [kept] = (tmp_path / "log").glob("crash-prog-*.txt")
    assert str(kept) in line
    assert "ZeroDivisionError: oops" in kept.read_text()


def test_what_the_host_does_not_allow_is_no_defect(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A folder that may not be entered, wherever we come upon it: one line that names it."""
    long = str(tmp_path / ("x" * 300))
    assert program.guarded("prog", lambda: os.stat(long).st_size) == 1  # noqa: PTH116 - its error is what is wanted
    assert capsys.readouterr().err == f"prog: cannot use: {long}: File name too long\n"


def test_a_store_that_may_not_be_entered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever lists what is in it says so, or finds none."""
    from orchestrator.cli.main import invoke

    monkeypatch.setenv("GUESTLAUNCH_STATE_DIR", "/tmp/" + "x" * 300)
    for words in (("appliance", "list"), ("appliance", "show"), ("template", "list"), ("history",), ("timeline",)):
        program.guarded("prog", lambda words=words: invoke(list(words)))  # type: ignore[misc]
        said = capsys.readouterr().err
        assert said.count("\n") == 1, words
        assert "this is a bug" not in said, words


def test_defect_with_nowhere_to_write(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Even then it is one line."""
    monkeypatch.setenv("GUESTLAUNCH_STATE_DIR", "/proc/nowhere")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/proc/nowhere")

    def fail() -> int:
        raise ZeroDivisionError

    assert program.guarded("prog", fail) == 1
    assert "nowhere to write" in capsys.readouterr().err


def test_closed_pipe_is_quiet() -> None:
    """A reader that goes away (| head) costs no line."""
    code = (
        "import sys\nfrom orchestrator.program import guarded\n"
        "def body():\n  while True: print('x' * 1000)\nsys.exit(guarded('prog', body))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(10) == 141
    process.stderr.close()


def test_error_statuses() -> None:
    """The class decides the status: wrong input is 2, a launch that failed is 1."""
    assert (UsageError.exit_status, LaunchError.exit_status) == (2, 1)
