"""A user without privileges who launches over a session libvirtd of his own.

Both see the appliance in his home: they are in mount namespaces, as he may not read the folder that it is in.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.running import Guestlaunch

NOBODY = 65534
_ENTER = 'mount --bind "$APPLIANCE" "$HOME/appliance" && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUser:
    """The user.

    :ivar folder: his own, for logs (`events.jsonl`, `timeline.jsonl`) and disks.
    :ivar libvirtd: his daemon, which runs.
    """

    guestlaunch: Guestlaunch
    folder: Path
    environ: dict[str, str]
    libvirtd: subprocess.Popen[str]

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """Start a program as this user."""
        return _start(self.guestlaunch, self.environ, *words)

    def give(self, file: Path) -> Path:
        """Make a file this user's; return where it is then."""
        own = self.folder / file.name
        shutil.move(file, own)
        os.chown(own, NOBODY, NOBODY)
        return own


def _start(guestlaunch: Guestlaunch, environ: dict[str, str], *words: str | Path) -> subprocess.Popen[str]:
    return guestlaunch.start("unshare", "--mount", "sh", "-c", _ENTER, "sh", *words, environ=environ)


@contextlib.contextmanager
def session_user(guestlaunch: Guestlaunch, session_dir: Path, appliance: Path) -> Iterator[SessionUser]:
    """Run a session libvirtd of a user's own for the length of the context.

    :param session_dir: other users may enter it from now on.
    """
    session_dir.chmod(0o711)
    home = session_dir / "nobody"
    for name in ("run", "tmp", "appliance", "state", ".config/libvirt"):
        (home / name).mkdir(parents=True)
    # Neither a log daemon nor one that stays for two minutes.
    (home / ".config/libvirt/qemu.conf").write_text('stdio_handler = "file"\n')
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o700)
    environ = {
        "APPLIANCE": str(appliance),
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "GUESTLAUNCH_APPLIANCE": str(home / "appliance"),
        "GUESTLAUNCH_CONNECT": "qemu:///session",
        "GUESTLAUNCH_STATE_DIR": str(home / "state"),
        "GUESTLAUNCH_RUNTIME_DIR": str(home / "run/guestlaunch"),
        "GUESTLAUNCH_LOG": str(home / "events.jsonl"),
        "GUESTLAUNCH_TIMELINE": str(home / "timeline.jsonl"),
    }
    libvirtd = _start(guestlaunch, environ, "/usr/sbin/libvirtd", "--timeout", "30")
    try:
        end = time.monotonic() + 60
        while not (home / "run/libvirt/libvirt-sock").exists():
            assert libvirtd.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        yield SessionUser(guestlaunch=guestlaunch, folder=home, environ=environ, libvirtd=libvirtd)
    finally:
        libvirtd.terminate()
        libvirtd.wait(60)
        shutil.rmtree(home)
