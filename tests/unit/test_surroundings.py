"""The state in which our programs start, whatever was inherited: each is tried as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]
SHOW = """
import json, os, signal, sys
from orchestrator import surroundings
{settle}
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)
print(json.dumps({{
    'ignored': int(status['SigIgn'], 16), 'blocked': int(status['SigBlk'], 16), 'umask': int(status['Umask'], 8),
    'encoding': sys.getfilesystemencoding(), 'argv': sys.argv[1:], 'cwd': os.getcwd(),
    'streams': [s is not None and s.fileno() for s in (sys.stdin, sys.stdout, sys.stderr)],
    'descriptors': [os.readlink(f'/proc/self/fd/{{n}}') for n in range(3)],
    'lc_ctype': os.environ.get('LC_CTYPE'),
}}), file=os.fdopen(int(sys.argv[1]), 'w'))
"""
SERVER = "surroundings.settle_server(); surroundings.leave_directory()"
COMMAND = "surroundings.settle(keep=surroundings.LEFT_TO_THE_USER)"
# Python's own, in every process of it.
PYTHONS = (signal.SIGPIPE, signal.SIGXFSZ)


def mask(*numbers: int) -> int:
    """Return signals as a mask of /proc."""
    return sum(1 << (number - 1) for number in numbers)


def started(
    settle: str, *words: str, spoil: Callable[[], object] = lambda: None, cwd: Path = TOP, **variables: str
) -> dict[str, Any]:
    """Return what a program sees of itself once it has settled; `spoil` runs before it is executed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as answer:
        process = subprocess.Popen(
            [sys.executable, "-c", SHOW.format(settle=settle), str(write_end), *words], pass_fds=(write_end,),
            preexec_fn=spoil,  # noqa: PLW1509 - this process has one thread
            restore_signals=False, cwd=cwd, env=kept | {"PYTHONPATH": str(TOP)} | variables,
        )  # fmt: skip
        os.close(write_end)
        text = answer.read()
    assert process.wait(60) == 0
    return dict(json.loads(text))


def spoilt() -> None:
    """Ignore and block whatever can be, close the standard descriptors, and let everybody write."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.umask(0)
    os.closerange(0, 3)


def test_a_server_starts_from_a_known_state() -> None:
    """Nothing of what it inherited is left: signals, mask, descriptors, umask, directory."""
    seen = started(SERVER, spoil=spoilt)
    assert seen["ignored"] & ~mask(*PYTHONS) == 0
    assert (seen["blocked"], seen["umask"], seen["cwd"]) == (0, 0o077, "/")
    assert seen["streams"] == [0, 1, 2]
    assert seen["descriptors"] == ["/dev/null"] * 3


def test_a_command_keeps_what_its_user_meant() -> None:
    """nohup, a shell's `&` and `trap ''` hold; an ignored SIGCHLD, a mask and others' right to write do not."""
    seen = started(COMMAND, spoil=spoilt)
    meant = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
             signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)  # fmt: skip
    assert seen["ignored"] & ~mask(*PYTHONS) == mask(*meant)
    assert (seen["blocked"], seen["umask"], seen["cwd"]) == (0, 0o022, str(TOP))


@pytest.mark.parametrize(("given", "own"), [(0o027, 0o027), (0o777, 0o077), (0o002, 0o022)])
def test_a_commands_umask(given: int, own: int) -> None:
    """A command's files are its user's to read and never others' to write."""
    assert started(COMMAND, spoil=lambda: os.umask(given))["umask"] == own


NAMES = ("ä€", os.fsdecode(b"a\xff\xe4"))


@pytest.fixture(scope="module")
def latin1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose locale is in ISO-8859-1."""
    folder = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / "de_DE.ISO-8859-1")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no localedef with de_DE and ISO-8859-1 here")
    return {"LOCPATH": str(folder), "LC_ALL": "de_DE.ISO-8859-1"}


@pytest.mark.parametrize("locale", ["C", "ascii", "latin1"])
def test_names_are_utf8_in_every_locale(request: pytest.FixtureRequest, locale: str) -> None:
    """A program names files in UTF-8, and gets its arguments' bytes unchanged, whatever the locale."""
    variables = {"C": {"LC_ALL": "C"}, "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0"}}
    seen = started(SERVER, *NAMES, **(variables.get(locale) or request.getfixturevalue("latin1")))
    assert seen["encoding"] == "utf-8"
    assert tuple(seen["argv"][1:]) == NAMES


def test_pythons_own_locale_is_not_passed_on() -> None:
    """Without a locale Python sets LC_CTYPE; a tool is to have the locale that its user gave it."""
    assert started(COMMAND)["lc_ctype"] is None
    assert started(COMMAND, LC_CTYPE="C.UTF-8")["lc_ctype"] == "C.UTF-8"


def test_the_users_programs_find_what_the_user_left(tmp_path: Path) -> None:
    """A tool has the mask, the umask and the ignored signals of our caller; SIGCHLD alone is never ignored."""
    code = (
        "import os, sys\nfrom orchestrator import surroundings\nfrom orchestrator.workload import tools\n"
        f"{COMMAND}\nsys.exit(tools.run(sys.argv[1:], os.environ))"
    )
    kept = [signal.SIGHUP, signal.SIGALRM]

    def spoil() -> None:
        for number in {*kept, signal.SIGCHLD}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, (signal.SIGUSR1,))
        os.umask(0o002)

    done = subprocess.run(
        [sys.executable, "-c", code, "grep", "-E", "^(SigBlk|SigIgn|Umask)", "/proc/self/status"],
        cwd=TOP, preexec_fn=spoil, restore_signals=False, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    seen = dict(line.split(":\t") for line in done.stdout.splitlines())
    assert (done.returncode, int(seen["Umask"], 8)) == (0, 0o002), done.stderr
    assert int(seen["SigIgn"], 16) & ~mask(*PYTHONS) == mask(*kept)
    assert int(seen["SigBlk"], 16) == mask(signal.SIGUSR1)


def test_a_status_is_true_with_sigchld_ignored() -> None:
    """Under a caller that ignores SIGCHLD a tool's status is still told; once it was 0 for all of them."""
    code = (
        "import os, sys\nfrom orchestrator import surroundings\nfrom orchestrator.workload import tools\n"
        f"{COMMAND}\nsys.exit(tools.run(sys.argv[1:], os.environ))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "sh", "-c", "exit 7"], cwd=TOP, check=False, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )  # fmt: skip
    assert done.returncode == 7


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    """A removed working directory is named as the kernel knows it: nothing else is found by names below it."""
    code = (
        "import os\nfrom orchestrator import surroundings\nos.rmdir(os.getcwd())\nd = surroundings.working_directory()"
    )
    code += "\nprint(d == f'/proc/{os.getpid()}/cwd', os.listdir(d))"
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "gone", env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "True []\n"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The folder of our programs as installed: beside the interpreter that runs them."""
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for path in ("cli/guestlaunch", "daemon/guestlaunchd"):
        (tmp_path / Path(path).name).write_bytes((TOP / "orchestrator" / path).read_bytes())
        (tmp_path / Path(path).name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", ["guestlaunch", "guestlaunchd"])
def test_programs_start(programs: Path, name: str) -> None:
    """Each program starts, by a link as well, with all of its site."""
    (programs / "links").mkdir()
    (programs / "links" / name).symlink_to(programs / name)
    for path in (programs / name, programs / "links" / name):
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout.split()[0].rstrip(",")) == (0, name), done.stderr


@pytest.mark.parametrize(("name", "needed"), [("guestlaunch", "click"), ("guestlaunchd", "argparse")])
def test_an_interrupted_import_is_silent(programs: Path, name: str, needed: str) -> None:
    """SIGINT while modules are loaded: status 130 and not a word, wherever it comes."""
    (programs / "slow").mkdir()
    for module in (needed, "sitecustomize"):
        (programs / "slow" / f"{module}.py").write_text(
            "import os, time\nos.write(1, b'importing')\nwhile True: time.sleep(0.01)\n"
        )
        process = subprocess.Popen(
            [programs / name, "--help"], env={**os.environ, "PYTHONPATH": str(programs / "slow")},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.read(9)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (130, b"", b"")
        (programs / "slow" / f"{module}.py").unlink()
