"""Another user of the host cannot have us remove anything, listen where he can, or keep us from launching.

Each attack is tried for real: by a second user, in a mount namespace whose /run, /tmp and /var/tmp are the test's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="two users and a mount namespace take root")

# What a stranger (uid 4321) makes at sys.argv[1]: a root that looks abandoned, with claims of both kinds that there
# have been, on everything that the victim's owner would not want to lose.
PLANT = """
import os, sys
base, victims = sys.argv[1], sys.argv[2:]
root = f"{base}/1-abcd"
os.makedirs(f"{root}/claims")
os.symlink("/run/made", f"{root}/owner.lock")
open(f"{base}/.lock", "w").close()
for number, victim in enumerate(victims):
    os.symlink(victim, f"{root}/claims/a{number}")
    with open(f"{root}/claims/b{number}", "w") as file:
        file.write(victim)
"""

# What the victim runs.
SWEEP = """
import os, sys
from pathlib import Path
from orchestrator.hypervisor import embed
for line in embed.sweep(Path(sys.argv[1])):
    print(line)
"""

SET_UP = """
umask 022
mount -t tmpfs -o mode=755 none /run
mount -t tmpfs -o mode=1777 none /tmp
mount -t tmpfs -o mode=1777 none /var/tmp
mkdir /run/package && cp -r "$TOP/orchestrator" /run/package/
mkdir -m 700 /run/user-4321 /run/user-4322 && chown 4321:4321 /run/user-4321 && chown 4322:4322 /run/user-4322
mkdir -m 700 /run/state /run/state/libvirt /run/canary /run/canary/gl-0123456789ab /run/state-4322
chown 4322:4322 /run/state-4322
touch /run/canary/file /run/canary/gl-0123456789ab/disk
stranger() { setpriv --reuid 4321 --regid 4321 --clear-groups "$@"; }
other() { setpriv --reuid 4322 --regid 4322 --clear-groups "$@"; }
plant() { stranger $PYTHON $PLANT "$@"; }
"""


def tried(script: str, *, environ: dict[str, str] | None = None) -> str:
    """Run a script in the namespace and return what it printed. The programs of this module are at hand by name."""
    paths = {"PLANT": PLANT, "SWEEP": SWEEP, "LISTEN": LISTEN, "SWAP": SWAP, "RACE": RACE}
    programs = {name: f"/run/{name.lower()}.py" for name in paths}
    write = "".join(f"cat >{programs[name]} <<'END'\n{text}\nEND\n" for name, text in paths.items())
    # The second user may not be able to read the checkout, nor a Python that is in it.
    python = str(Path(sys.executable).resolve())
    variables = {
        "PYTHON": python,
        "PYTHONPATH": "/run/package",
        "TOP": str(TOP),
        "PATH": os.environ["PATH"],
        **programs,
    }
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-euc", SET_UP + write + script],
        env=variables | (environ or {}),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


VICTIMS = "/run/canary/file /run/canary/gl-0123456789ab /run/state"
COUNT = "ls -A /run/canary/gl-0123456789ab /run/canary; ls -d /run/state; ls -A /run/user-4321 /run/made 2>&1 || true"
INTACT = """\
/run/canary:
file
gl-0123456789ab

/run/canary/gl-0123456789ab:
disk
/run/state
ls: cannot access '/run/made': No such file or directory
/run/user-4321:
guestlaunch
"""


@pytest.mark.parametrize("planted", ["plant $B $V", "plant /var/tmp $V; stranger ln -s /var/tmp $B"])
@pytest.mark.parametrize("base", ["/run/user-4321/guestlaunch", "/tmp/guestlaunch-0"])
def test_name_taken_by_another(base: str, planted: str) -> None:
    """Root removes and makes nothing of what another user names, by a folder of his or a link to one of root's.

    It gets there by an XDG_RUNTIME_DIR that su or sudo -E has kept, and by a name below /tmp that was made first.
    """
    out = tried(
        f"{planted}; stranger mkdir -p /run/user-4321/guestlaunch; $PYTHON $SWEEP /run/state; {COUNT}",
        environ={"XDG_RUNTIME_DIR": "/run/user-4321", "B": base, "V": VICTIMS},
    )
    assert out == INTACT


def test_user_against_user() -> None:
    """A user who is not root is as safe from another's names, below /tmp and in a runtime directory that was kept."""
    out = tried(
        """
        other mkdir /run/state-4322/kept
        plant /tmp/guestlaunch-4322 /run/state-4322/kept
        chmod 711 /run/user-4321
        plant /run/user-4321/guestlaunch /run/state-4322/kept
        other $PYTHON $SWEEP /run/state-4322
        ls -A /run/state-4322
        """,
        environ={"XDG_RUNTIME_DIR": "/run/user-4321"},
    )
    assert out == "kept\n"


def test_state_directory_of_another() -> None:
    """A state directory that is another user's, or lies in one that all may write to, is not cleared up by root."""
    out = tried(
        f"""
        plant /run/user-4321/guestlaunch/libvirt/roots {VICTIMS}
        mkdir -m 777 /run/open
        plant /run/open/state/libvirt/roots {VICTIMS}
        $PYTHON $SWEEP /run/user-4321/guestlaunch
        $PYTHON $SWEEP /run/open/state
        {COUNT}
        """,
    )
    assert out == INTACT


def test_own_claim_on_what_is_not_ours() -> None:
    """Even a claim of root's own removes only what root itself made, under the names that we give, where it is safe."""
    out = tried(
        """
        mkdir -p -m 700 /run/state/libvirt/roots && touch /run/state/libvirt/roots/.lock
        $PYTHON $PLANT /run/state/libvirt/roots /run/canary/file /run/canary/gl-0123456789ab /run/canary \
            /run/user-4321/gl-0123456789ab /tmp/gl-0123456789ab
        rm /run/state/libvirt/roots/1-abcd/owner.lock
        mkdir /run/user-4321/gl-0123456789ab; stranger mkdir /tmp/gl-0123456789ab
        $PYTHON $SWEEP /run/state
        ls -d /tmp/gl-* /run/user-4321/gl-*|sort -r; ls -A /run/canary /run/state/libvirt/roots
        """,
    )
    assert out == (
        "removed /run/canary/gl-0123456789ab\nremoved /run/state/libvirt/roots/1-abcd\n"
        "/tmp/gl-0123456789ab\n/run/user-4321/gl-0123456789ab\n"
        "/run/canary:\nfile\n\n/run/state/libvirt/roots:\n.lock\n"
    )


# What every program of ours does with sockets: where it looks for a daemon, where it listens, where a launch's lie.
LISTEN = """
import os, re
from pathlib import Path
from orchestrator.channel.port import listening
from orchestrator.daemon import listen
from orchestrator.errors import GuestlaunchError
from orchestrator.launch.staging import directory
from orchestrator.settings import load
from orchestrator.wrapper import connect

settings = load()
print("daemon", *connect.default_sockets(os.environ))
try:
    with listen.private(settings.runtime_dir) as (_, path):
        with directory(settings.runtime_dir, "gl-0123456789ab") as folder, listening(folder / "control"):
            for one in (path.parents[1], folder):
                status = one.stat()
                assert status.st_uid == os.geteuid()
                name = re.sub("(guestlaunch-[0-9]+-).{8}", "\\\\1XXXXXXXX", str(one))
                print("listens in", name, oct(status.st_mode & 0o777))
        listen.remove_private(path)
except GuestlaunchError as error:
    print(error)
"""


def test_taken_name_gives_way() -> None:
    """Who makes a user's /tmp/guestlaunch-UID first gets no socket of his, and does not keep him from launching."""
    out = tried(
        """
        stranger mkdir -m 777 /tmp/guestlaunch-4322
        other env HOME=/tmp $PYTHON $LISTEN
        ls -A /tmp/guestlaunch-4322 /tmp
        """
    )
    own = "/tmp/guestlaunch-4322-XXXXXXXX"
    assert out == (
        "daemon /tmp/guestlaunch-4322/guestlaunchd.sock\n"
        f"listens in {own} 0o700\nlistens in {own}/gl-0123456789ab 0o700\n"
        "/tmp:\nguestlaunch-4322\n\n/tmp/guestlaunch-4322:\n"
    )


def test_runtime_directory_of_another_is_passed_over() -> None:
    """Root with a user's XDG_RUNTIME_DIR leaves nothing in it; a user with root's, or another's, launches as well."""
    out = tried(
        """
        $PYTHON $LISTEN
        ls -A $XDG_RUNTIME_DIR
        mkdir -m 700 /run/root && chmod 711 $XDG_RUNTIME_DIR
        for kept in /run/root $XDG_RUNTIME_DIR; do
            other env HOME=/tmp XDG_RUNTIME_DIR=$kept $PYTHON $LISTEN
        done
        ls -A $XDG_RUNTIME_DIR
        """,
        environ={"XDG_RUNTIME_DIR": "/run/user-4321"},
    )
    others = "daemon /tmp/guestlaunch-4322/guestlaunchd.sock\nlistens in /tmp/guestlaunch-4322 0o700\n"
    assert out == (
        "daemon /run/guestlaunch/guestlaunchd.sock\n"
        "listens in /run/guestlaunch 0o700\nlistens in /run/guestlaunch/gl-0123456789ab 0o700\n"
        + (others + "listens in /tmp/guestlaunch-4322/gl-0123456789ab 0o700\n")
        * 2
    )


def test_named_folder_that_others_can_change_is_refused() -> None:
    """A runtime directory that was named is used or refused by name, never silently another one."""
    out = tried(
        """
        export GUESTLAUNCH_RUNTIME_DIR
        for GUESTLAUNCH_RUNTIME_DIR in /run/user-4321/x /run/open /run/open/x; do
            mkdir -p -m 777 /run/open
            $PYTHON $LISTEN | grep -v ^daemon
        done
        ls -A /run/user-4321 /run/open
        """
    )
    assert out == (
        "unsafe directory: /run/user-4321: it belongs to uid 4321 (set GUESTLAUNCH_RUNTIME_DIR)\n"
        + "unsafe directory: /run/open: others can write to it (chmod go-w /run/open)\n" * 2
        + "/run/open:\n\n/run/user-4321:\n"
    )


# Exchanges two names, at once each time (RENAME_EXCHANGE), until its standard input ends; then says how often.
SWAP = """
import ctypes, os, select, sys
libc = ctypes.CDLL(None, use_errno=True)
a, b = (os.fsencode(name) for name in sys.argv[1:3])
done = 0
print(flush=True)
while not select.select([0], [], [], 0)[0]:
    done += sum(libc.renameat2(-100, a, -100, b, 2) == 0 for _ in range(50))
print(done)
"""

RACE = """
import os, subprocess, sys
from pathlib import Path
from orchestrator import files
from orchestrator.hypervisor import embed

def swapping(a, b):
    command = ["setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups", sys.executable, "/run/swap.py", a, b]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process

rounds, tree = int(sys.argv[1]), "/run/state/gl-fedcba987654"
swappers = [
    swapping("/run/user-4321/guestlaunch", "/run/user-4321/link"),
    swapping("/tmp/guestlaunch-0", "/tmp/link"),
    swapping(f"{tree}/a", f"{tree}/b"),
]
folder = files.open_folder("/run/state")
for number in range(rounds):
    embed.sweep(Path("/run/state"))
    if not os.path.lexists(tree):
        os.mkdir(tree)
        os.mkdir(f"{tree}/a")
        for name in range(5):
            os.mkdir(f"{tree}/a/{name}")
        os.symlink("/run/canary", f"{tree}/b")
        os.chown(tree, 4321, 4321)
    files.remove_tree("gl-fedcba987654", folder)
for process in swappers:
    swaps = int(process.communicate(b"")[0])
    print("swapped" if swaps > 0 else "nothing was swapped")
"""


def test_names_swapped_meanwhile() -> None:
    """A thousand times over, with names that a stranger exchanges for links all the while: a canary loses nothing."""
    out = tried(
        f"""
        chmod 711 /run/state
        plant /run/user-4321/guestlaunch {VICTIMS}
        plant /tmp/guestlaunch-0 {VICTIMS}
        plant /var/tmp {VICTIMS}
        stranger ln -s /var/tmp /run/user-4321/link
        stranger ln -s /var/tmp /tmp/link
        find /run/canary | sort >/run/before
        $PYTHON $RACE 1000
        find /run/canary | sort | diff /run/before - && ls -d /run/state; ls /run/made 2>&1 || true
        """,
        environ={"XDG_RUNTIME_DIR": "/run/user-4321"},
    )
    assert out == "swapped\n" * 3 + "/run/state\n" + "ls: cannot access '/run/made': No such file or directory\n"
