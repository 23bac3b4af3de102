"""Which of libguestfs's tools' command lines are served by clones: counted over tests/data/tool_lines.txt.

    .venv/bin/python -m tests.tool_lines            # what each line's launches ask for; nothing is launched
    .venv/bin/python -m tests.tool_lines --run      # each line with real guests, by --start warm

Without --run the real tools write QEMU command lines that are only looked at, by the same functions that decide at a
launch. With it, what the log says of each launch counts, and a failing tool is shown; launches that take clones of
a daemon's count as standby. --from N goes on where an earlier run was ended.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.launch.context import LaunchSpec
from orchestrator.launch.eligibility import template_facts, why_not_warm
from orchestrator.launch.plan import make_plan
from orchestrator.settings import Settings, load
from orchestrator.template.model import key_of
from orchestrator.workload.environment import tool_environment
from orchestrator.wrapper import argv
from tests.disks import DiskFactory, host

LINES = Path(__file__).parent / "data" / "tool_lines.txt"
RECORDER = """#!/bin/sh
case " $* " in *" -kernel "*) printf '%s\\0' "$@" >"$ARGUMENTS/$$"; exit 1 ;; esac
exec "$WRAPPER" "$@"
"""
SYSTEM = {
    "/etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12"\n',
    "/etc/debian_version": "12.5\n",
    "/etc/fstab": "/dev/sda1 / ext4 defaults 0 1\n",
    "/etc/hostname": "debian\n",
    "/etc/motd": "welcome\n",
    "/usr/share/zoneinfo/Europe/London": "TZif2",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "/etc/shadow": "root:*:19000:0:99999:7:::\n",
    "/etc/group": "root:x:0:\n",
    "/root/.profile": "umask 022\n",
    "/srv/empty": "",
    "/boot/vmlinuz-6.1.0-1-arm64": "kernel\n",
    "/bin/sh": "#!\n",
    "/var/log/dpkg.log": "installed\n",
    "/var/lib/dpkg/status": "Package: base-files\nStatus: install ok installed\nVersion: 12.4\nArchitecture: arm64\n\n",
}
TOOL_SECONDS = 240
RECORD_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """One launch of a command line: how it starts, the template's key or why there is none, and how its tool ended.

    :ivar said: the tool's last line on standard error, where it failed.
    """

    start: str
    why: str
    status: int
    said: str = ""


def families() -> dict[str, list[str]]:
    """Return the command lines of each family of tools."""
    found: dict[str, list[str]] = {}
    for line in LINES.read_text().splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            found[next(reversed(found))].append(line)
    return found


def prepare(folder: Path) -> None:
    """Make the files that the command lines name."""
    disks = DiskFactory(folder)
    disks("disk.img", partitioned=True, files=SYSTEM)
    host("qemu-img", "convert", "-O", "qcow2", folder / "disk.img", folder / "disk.qcow2")
    disks("data.img", files={"/hello": "hello\n"})
    disks("blank.img", size_mib=32, filesystem=False)
    disks("big.img", size_mib=128, filesystem=False)
    for name in ("mnt", "tree"):
        (folder / name).mkdir()
    (folder / "tree" / "file").write_text("file\n")
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    (folder / "key.pub").write_text("ssh-ed25519 AAAA somebody\n")
    (folder / "script.sh").write_text("#!/bin/sh\nuname -m >/machine\n")
    host("tar", "-C", folder / "tree", "-cf", folder / "archive.tar", "file")


def asked(line: str, cwd: Path, settings: Settings, scratch: Path) -> list[Launched]:
    """Return what the launches of a command line ask for; each of them fails, so that later ones may be missing."""
    recorder, arguments = scratch / "recorder", scratch / "arguments"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    shutil.rmtree(arguments, ignore_errors=True)
    arguments.mkdir()
    environ = dict(tool_environment(os.environ, settings).variables)
    environ |= {"WRAPPER": environ["LIBGUESTFS_HV"], "LIBGUESTFS_HV": str(recorder), "ARGUMENTS": str(arguments)}
    status, _said = run(line, cwd, environ)
    found = []
    for said in sorted(arguments.iterdir(), key=lambda one: one.stat().st_mtime_ns):
        request = argv.parse(said.read_bytes().decode().split("\0")[:-1], str(cwd))
        # The tool's overlays are gone with it; what they are is in the request.
        plan = make_plan(replace(request, disks=()), settings)
        spec = LaunchSpec(request=request, settings=settings, plan=replace(plan, disks=request.disks))
        why = why_not_warm(spec)
        found.append(
            Launched(start="warm" if why is None else "cold", why=why or key_of(template_facts(spec)), status=status)
        )
    return found


def launched(line: str, cwd: Path, settings: Settings, scratch: Path) -> list[Launched]:
    """Carry a command line out, and return how its launches started."""
    log = scratch / "timeline.jsonl"
    log.unlink(missing_ok=True)
    environ = dict(tool_environment(os.environ, replace(settings, start="warm", timeline=str(log))).variables)
    status, said = run(line, cwd, environ)
    # guestmount, or a tool that was ended, is gone before its guest is.
    ends = time.monotonic() + RECORD_SECONDS
    while not log.exists() and time.monotonic() < ends:
        time.sleep(0.1)
    records = [json.loads(one) for one in log.read_text().splitlines()] if log.exists() else []
    return [
        Launched(
            start=one["start"], why=one["start_reason"] or one["template"] or one["error"], status=status, said=said
        )
        for one in records
    ]


def run(line: str, cwd: Path, environ: dict[str, str]) -> tuple[int, str]:
    """Run a command line in a shell, and return its exit status and its last line on standard error."""
    command = ["timeout", str(TOOL_SECONDS), "bash", "-o", "pipefail", "-c", line]
    done = subprocess.run(command, cwd=cwd, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    told = [one for one in said if "error: " in one] or said[-1:]
    return done.returncode, told[0] if told and done.returncode else ""


def outcomes(*, really: bool, every: int = 1, first: int = 1) -> Iterator[tuple[str, str, list[Launched]]]:
    """Yield each command line with its family and its launches."""
    settings = load()
    with tempfile.TemporaryDirectory(prefix="lines-") as name:
        base, scratch = Path(name) / "base", Path(name) / "scratch"
        base.mkdir()
        scratch.mkdir()
        prepare(base)
        number = 0
        for family, lines in families().items():
            for line in lines[::every]:
                number += 1
                if number < first:
                    continue
                cwd = Path(name) / "here"
                subprocess.run(["cp", "-a", "--sparse=always", base, cwd], check=True)
                yield family, line, (launched if really else asked)(line, cwd, settings, scratch)
                # A mount that its server left, which would be in the way of removing the folder.
                subprocess.run(["fusermount", "-quz", cwd / "mnt"], check=False, capture_output=True)
                shutil.rmtree(cwd)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Print a line for each that is not warm, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="launch real guests")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take each Nth line of a family only")
    parser.add_argument("--from", dest="first", type=int, default=1, metavar="N", help="begin with the Nth of them")
    given = parser.parse_args()
    really: bool = given.run
    counts: dict[str, Counter[str]] = {}
    templates: Counter[str] = Counter()
    for family, line, launches in outcomes(really=really, every=given.every, first=given.first):
        count = counts.setdefault(family, Counter())
        starts = {one.start for one in launches}
        if really:
            sys.stderr.write(f"{', '.join(sorted(starts)) or 'none'}: {line}\n")
        kind = "none" if not launches else next(one for one in ("cold", "warm", "standby") if one in starts)
        count[kind] += 1
        templates.update(one.why for one in launches if one.start != "cold")
        notes = [one.why for one in launches if one.start == "cold"] if kind == "cold" else []
        failed = really and launches and launches[0].status != 0
        if kind in {"cold", "none"} or failed:
            notes += [f"status {launches[0].status}: {launches[0].said}"] if failed else []
            say(f"{kind}: {line}: {'; '.join(notes) or 'it launched nothing'}")
    say(f"\n{'':<70}  lines standby   warm   cold   launched nothing")
    for family, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        columns = [f"{count[kind]:>{width}}" for kind, width in (("standby", 7), ("warm", 6), ("cold", 6), ("none", 6))]
        say(f"{family:<70} {count.total():>6} {' '.join(columns)}")
    say(f"\nlaunches by template: {', '.join(f'{key} {number}' for key, number in templates.most_common())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
