"""Which of libguestfs's tools' command lines are served by clones: counted over tests/data/tool_lines.txt.

    .venv/bin/python -m tests.tool_lines                      # what each line's launches ask for; nothing is launched
    .venv/bin/python -m tests.tool_lines --run warm.jsonl     # each line with real guests, by --start warm
    .venv/bin/python -m tests.tool_lines --run cold.jsonl --start cold
    .venv/bin/python -m tests.tool_lines --compare cold.jsonl warm.jsonl

Without --run the real tools write QEMU command lines that are only looked at, by the same functions that decide at a
launch. With it, what the log says of each launch counts, launches that take clones of a daemon's as standby, and a line
that does not end as the list says is shown and makes the status 1. What came of each line goes to the file at once; a
line that the file has is not run again, so that a run that was ended goes on. --compare shows the lines that ended in
another way, printed something else, or left other files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from orchestrator.launch.context import LaunchSpec
from orchestrator.launch.eligibility import template_facts, why_not_warm
from orchestrator.launch.plan import make_plan
from orchestrator.settings import Settings, load
from orchestrator.template.model import key_of
from orchestrator.workload.environment import tool_environment
from orchestrator.workload.foreign import preload
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
    **{f"/{name}/.keep": "" for name in ("dev", "proc", "sys")},
    "/boot/vmlinuz-6.1.0-1-arm64": "kernel\n",
    "/bin/sh": "",
    "/usr/bin/apt-get": '#!/bin/sh\necho "$@" >>/var/log/apt\n',
    "/var/log/dpkg.log": "installed\n",
    "/var/lib/dpkg/status": "Package: base-files\nStatus: install ok installed\nVersion: 12.4\nArchitecture: arm64\n\n",
}
SHELL = """run
mount /dev/sda1 /
debug sh "cp /usr/bin/busybox /sysroot/bin/sh"
chmod 0755 /bin/sh
chmod 0755 /usr/bin/apt-get
ln-s /bin/sh /bin/cat
ln-s /bin/sh /bin/uname
"""
TOOL_SECONDS = 240
RECORD_SECONDS = 30


FAILS = "  # fails: "
# Progress, and how long it took; what is random; how full an image of a file system is that was just made.
VOLATILE = re.compile(r"\[ *\d+\.\d+\]|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\r[^\n]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """One launch of a command line: how it started, and the template's key or why there is none."""

    start: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a command line.

    :ivar said: the tool's first error, or last line on standard error, where it failed.
    :ivar output: what it printed, but for what is never the same twice; `files` what is in its folder then, with sizes.
    """

    family: str
    line: str
    status: int = 0
    said: str = ""
    output: str = ""
    files: Mapping[str, int] = field(default_factory=dict)
    launches: tuple[Launched, ...] = ()

    @property
    def kind(self) -> str:
        """How its launches started: cold if any did."""
        starts = {one.start for one in self.launches}
        return next((one for one in ("cold", "warm", "standby") if one in starts), "none")

    @property
    def as_listed(self) -> bool:
        """Whether it failed just if the list says so."""
        return (self.status != 0) is (FAILS in self.line)


def families() -> dict[str, list[str]]:
    """Return the command lines of each family of tools."""
    found: dict[str, list[str]] = {}
    for line in LINES.read_text().splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            found[next(reversed(found))].append(line)
    return found


def prepare(folder: Path, environ: Mapping[str, str] | None = None) -> None:
    """Make the files that the command lines name.

    :param environ: by which a guest is launched that gives the system a shell: the appliance's busybox.
    """
    disks = DiskFactory(folder)
    disks("disk.img", partitioned=True, files=SYSTEM)
    if environ is not None:
        subprocess.run(["guestfish", "-a", folder / "disk.img"], input=SHELL, text=True, env=environ, check=True)
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


def asked(line: str, cwd: Path, settings: Settings, scratch: Path) -> Outcome:
    """Return what the launches of a command line ask for; each of them fails, so that later ones may be missing."""
    recorder, arguments = scratch / "recorder", scratch / "arguments"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    shutil.rmtree(arguments, ignore_errors=True)
    arguments.mkdir()
    environ = dict(tool_environment(os.environ, settings).variables)
    environ |= {"WRAPPER": environ["LIBGUESTFS_HV"], "LIBGUESTFS_HV": str(recorder), "ARGUMENTS": str(arguments)}
    run(line, cwd, environ)
    found = []
    for said in sorted(arguments.iterdir(), key=lambda one: one.stat().st_mtime_ns):
        request = argv.parse(said.read_bytes().decode().split("\0")[:-1], str(cwd))
        # The tool's overlays are gone with it; what they are is in the request.
        plan = make_plan(replace(request, disks=()), settings)
        spec = LaunchSpec(request=request, settings=settings, plan=replace(plan, disks=request.disks))
        why = why_not_warm(spec)
        found.append(Launched(start="warm" if why is None else "cold", why=why or key_of(template_facts(spec))))
    return Outcome(family="", line=line, launches=tuple(found))


def launched(line: str, cwd: Path, settings: Settings, scratch: Path) -> Outcome:
    """Carry a command line out, and return what came of it, and how its launches started."""
    log = scratch / "timeline.jsonl"
    log.unlink(missing_ok=True)
    environ = dict(tool_environment(os.environ, replace(settings, timeline=str(log))).variables)
    environ |= preload(environ, settings)  # as `guestlaunch exec` gives it to the tools that run commands in a guest
    done = run(line, cwd, environ)
    # guestmount, or a tool that was ended, is gone before its guest is.
    ends = time.monotonic() + RECORD_SECONDS
    while not log.exists() and time.monotonic() < ends:
        time.sleep(0.1)
    records = [json.loads(one) for one in log.read_text().splitlines()] if log.exists() else []
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    told = [one for one in said if "error: " in one] or said[-1:]
    return Outcome(
        family="",
        line=line,
        status=done.returncode,
        said=VOLATILE.sub("-", told[0]) if told and done.returncode else "",
        output=VOLATILE.sub("-", done.stdout.decode("utf-8", "replace")),
        files=sizes(cwd),
        launches=tuple(
            Launched(start=one["start"], why=one["start_reason"] or one["template"] or one["error"] or "")
            for one in records
        ),
    )


def sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of the files in a folder, but for what is mounted there."""
    found = {}
    for where, folders, names in os.walk(folder):
        folders[:] = [one for one in folders if one != "mnt"]
        found.update({f"{path.relative_to(folder)}": path.lstat().st_size for path in map(Path(where).joinpath, names)})
    return dict(sorted(found.items()))


def run(line: str, cwd: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command line in a shell."""
    command = ["timeout", str(TOOL_SECONDS), "bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, cwd=cwd, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def outcomes(settings: Settings, *, really: bool, every: int, known: Mapping[str, Outcome]) -> Iterator[Outcome]:
    """Yield what comes of each command line, or what is known of it already."""
    with tempfile.TemporaryDirectory(prefix="lines-") as name:
        base, scratch = Path(name) / "base", Path(name) / "scratch"
        base.mkdir()
        scratch.mkdir()
        prepare(base, tool_environment(os.environ, settings).variables if really else None)
        for family, line in ((family, line) for family, lines in families().items() for line in lines[::every]):
            if line in known:
                yield known[line]
                continue
            cwd = Path(name) / "here"
            subprocess.run(["cp", "-a", "--sparse=always", base, cwd], check=True)
            yield replace((launched if really else asked)(line, cwd, settings, scratch), family=family)
            # A mount that its server left, which would be in the way of removing the folder.
            subprocess.run(["fusermount", "-quz", cwd / "mnt"], check=False, capture_output=True)
            shutil.rmtree(cwd)


def keep(outcome: Outcome, file: Path) -> None:
    """Write what came of a command line to the end of a file."""
    with file.open("a") as results:
        results.write(json.dumps(asdict(outcome)) + "\n")


def read(file: Path) -> dict[str, Outcome]:
    """Return what a file of an earlier run says of each command line."""
    found = {}
    for text in file.read_text().splitlines() if file.exists() else ():
        record = json.loads(text)
        launches = tuple(Launched(**one) for one in record.pop("launches"))
        found[record["line"]] = Outcome(**record, launches=launches)
    return found


def differing(one: Mapping[str, Outcome], other: Mapping[str, Outcome]) -> Iterator[str]:
    """Yield what differs between two runs, for each command line that both have."""
    for line in [line for line in one if line in other]:
        for what in ("status", "said", "output", "files"):
            values = [getattr(outcomes[line], what) for outcomes in (one, other)]
            if values[0] != values[1]:
                yield f"{line}: {what}: {values[0]!r}, {values[1]!r}"


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def table(found: list[Outcome]) -> Iterator[str]:
    """Yield the lines of a table of how many of each family started how."""
    counts: dict[str, Counter[str]] = {}
    for outcome in found:
        counts.setdefault(outcome.family, Counter())[outcome.kind] += 1
    yield f"{'':<70}  lines standby   warm   cold   launched nothing"
    for family, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        columns = [f"{count[kind]:>{width}}" for kind, width in (("standby", 7), ("warm", 6), ("cold", 6), ("none", 6))]
        yield f"{family:<70} {count.total():>6} {' '.join(columns)}"


def main() -> int:
    """Print a line for each that is not warm or did not end as listed, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, metavar="FILE", help="launch real guests; what came of each line is kept there"
    )
    parser.add_argument("--start", default="warm", choices=("warm", "cold", "auto"), help="how the guests start")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take each Nth line of a family only")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="FILE", help="show what differs between two runs")
    given = parser.parse_args()
    file: Path | None = given.run
    if given.compare:
        differences = list(differing(*map(read, given.compare)))
        say("\n".join(differences) or "no difference")
        return 1 if differences else 0
    known = read(file) if file else {}
    found = []
    settings = replace(load(), start=given.start)
    for outcome in outcomes(settings, really=file is not None, every=given.every, known=known):
        found.append(outcome)
        if file and outcome.line not in known:
            keep(outcome, file)
        notes = [one.why for one in outcome.launches if one.start == "cold"] if given.start != "cold" else []
        if not outcome.launches:
            notes.append("it launched nothing")
        if file and not outcome.as_listed:
            notes.append(f"status {outcome.status}: {outcome.said}")
        if notes:
            say(f"{outcome.kind}: {outcome.line}: {'; '.join(notes)}")
    say("\n" + "\n".join(table(found)))
    templates = Counter(one.why for outcome in found for one in outcome.launches if one.start != "cold")
    say(f"\nlaunches by template: {', '.join(f'{key} {number}' for key, number in templates.most_common())}")
    if file:
        say(f"ended as listed: {sum(outcome.as_listed for outcome in found)} of {len(found)}")
    return 0 if file is None or all(outcome.as_listed for outcome in found) else 1


if __name__ == "__main__":
    sys.exit(main())
