"""Gets packages of any arch from the distribution, with a private apt that never touches the host's.

apt itself does it (sources, proxies, keys and pins are those of the host), with its own lists, status
and archives under the store's cache, so it needs no privileges and runs nothing from the packages.
What is in the packages is not looked at here.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.appliance.command import Deadline, require, run
from orchestrator.appliance.vendors import DEBIAN_ARCH, VENDORS, Source, Vendor, for_arch, vendor_of
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError, CapabilityError

_TARGET = "$(ORIGIN)|$(TARGET_OF)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ARCHITECTURE)"
_ELSEWHERE = "where there are none, guestlaunch appliance import takes one that another host exported"
_NOT_INHERITED = ("Acquire::IndexTargets", "Acquire::Languages", "Acquire::Changelogs", "Acquire::cdrom")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One version of one package, as apt knows it."""

    name: str
    version: str
    depends: tuple[str, ...]

    @property
    def upstream(self) -> str:
        """Return the version without epoch and Debian revision: `1.48.6`."""
        return upstream_version(self.version)


def upstream_version(version: str) -> str:
    """Return a Debian version without its epoch and revision."""
    return version.split(":", 1)[-1].rsplit("-", 1)[0]


def _sources(targets: str) -> list[Source]:
    """Return what apt says of its lists, a line each, without sources of code and discs that would be asked for."""
    found = []
    for line in targets.splitlines():
        origin, kind, uri, suite, component, arch = line.split("|")
        if kind == "deb" and not uri.startswith("cdrom:"):
            found.append(Source(origin=origin, arch=arch, uri=uri, suite=suite, component=component))
    return found


def _host_sources(deadline: Deadline) -> tuple[Vendor, list[Source]]:
    """Return whose packages the host has, and its repositories, as apt itself understands them.

    Other vendors' sources have nothing to give, and often not for the guest's arch.

    :raise CapabilityError: it has no apt, or none of a vendor that is known.
    """
    if shutil.which("apt-get") is None:
        raise CapabilityError("cannot build an appliance", "apt-get", "not installed", _ELSEWHERE)
    sources = _sources(run(["apt-get", "indextargets", "--format", _TARGET, "Created-By: Packages"], deadline))
    vendor = vendor_of(sources)
    if vendor is None:
        known = " or ".join(vendor.origin for vendor in VENDORS)
        why = f"the host has no package lists of {known}"
        raise CapabilityError("cannot build an appliance", "apt", why, f"run apt-get update; {_ELSEWHERE}")
    return vendor, sources


def _inherited_options(deadline: Deadline) -> list[str]:
    """Return what the host's apt says about fetching: proxies, certificates, retries, time-outs."""
    dump = run([require("apt-config", "apt"), "dump", "Acquire"], deadline)
    kept = [line for line in dump.splitlines() if not line.startswith(_NOT_INHERITED) and '""' not in line]
    return [line for line in kept if line.startswith("Acquire::")]


class Repository:
    """The distribution's packages for one arch.

    :ivar archives: directory that the downloaded packages are in.
    :ivar vendor: whose packages they are.
    """

    def __init__(self, arch: Arch, cache: Path, scratch: Path, deadline: Deadline) -> None:
        """Use `cache` for what the next build can use again, `scratch` for what it can not.

        :raise CapabilityError: the host has no package lists of a vendor that is known.
        """
        self.vendor, sources = _host_sources(deadline)
        self._lines = for_arch(self.vendor, sources, arch)
        self._arch = DEBIAN_ARCH[arch]
        self._lists = cache / f"lists-{self._arch}"
        self._scratch = scratch / "apt"
        self.archives = cache / f"archives-{self._arch}"

    def update(self, deadline: Deadline) -> bool:
        """Write the private configuration and fetch the package lists; False where those of an earlier build must do.

        :raise ApplianceError: they could not be fetched, and there are no earlier ones.
        """
        for directory in (self._lists, self.archives):
            (directory / "partial").mkdir(parents=True, exist_ok=True)
        keys = self._scratch / "keys"
        keys.mkdir(parents=True)
        for pattern in self.vendor.keyrings:
            for key in Path("/").glob(pattern.lstrip("/")):
                if key.suffix in {".gpg", ".asc"} and key.stat().st_size:
                    (keys / f"{key.parent.name}-{key.name}").symlink_to(key)
        lines = "".join(f"deb [arch={self._arch}] {line}\n" for line in self._lines)
        (self._scratch / "sources.list").write_text(lines)
        (self._scratch / "status").touch()
        (self._scratch / "apt.conf").write_text("\n".join([*_inherited_options(deadline), *self._options()]) + "\n")
        try:
            # By itself apt calls an update that fetched nothing a success.
            self._apt("apt-get", ["-qq", "-o", "APT::Update::Error-Mode=any", "update"], deadline)
        except ApplianceError as error:
            if any(self._lists.glob("*_Packages*")) and deadline.left():
                return False
            hint = (
                "check the network, the proxy and the sources of the host's apt; where a mirror of yours has "
                f"{self._arch}, make that a source for it, and dpkg --add-architecture {self._arch}"
            )
            raise ApplianceError("cannot fetch the package lists", error.subject, error.why, hint) from error
        return True

    def _options(self) -> list[str]:
        settings = {
            "APT::Architecture": self._arch,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",  # apt's own user cannot reach a private state directory
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::Languages": "none",
            "Acquire::Queue-Mode": "access",
            "Debug::NoLocking": "true",  # two builds may share the cache: apt renames what is complete
            "Dir::Cache": str(self._scratch),
            "Dir::Cache::archives": f"{self.archives}/",
            "Dir::Etc::sourcelist": str(self._scratch / "sources.list"),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::trusted": "/dev/null",
            "Dir::Etc::trustedparts": f"{self._scratch}/keys/",
            "Dir::State": str(self._scratch),
            "Dir::State::lists": f"{self._lists}/",
            "Dir::State::status": str(self._scratch / "status"),
        }
        cleared = ["APT::Architectures", "APT::Update", "APT::NeverAutoRemove", "DPkg::Post-Invoke", "DPkg::Pre-Invoke"]
        return [
            *(f"#clear {name};" for name in cleared),
            f'APT::Architectures {{ "{self._arch}"; }};',
            *(f'{name} "{value}";' for name, value in settings.items()),
        ]

    def _apt(
        self,
        program: str,
        arguments: list[str],
        deadline: Deadline,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> str:
        argv = [require(program, "apt"), "--config-file", str(self._scratch / "apt.conf"), *arguments]
        return run(argv, deadline, cwd=cwd or self._scratch, on_line=on_line)

    def candidates(self, names: Iterable[str], deadline: Deadline) -> dict[str, list[Package]]:
        """Return every version of the named packages, the one that apt would install first."""
        text = self._apt("apt-cache", ["show", *dict.fromkeys(names), "apt"], deadline)
        found: dict[str, list[Package]] = {}
        for paragraph in text.split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
            if fields:
                package = Package(
                    name=fields["Package"], version=fields["Version"], depends=tuple(_dependencies(fields))
                )
                found.setdefault(package.name, []).append(package)
        return found

    def download(
        self, names: Iterable[str], deadline: Deadline, *, dependencies: bool, progress: Callable[[float], None]
    ) -> list[Path]:
        """Download packages (`name` or `name=version`), from the cache where it has them, and return their files.

        :param progress: called with the fraction done.
        :raise ApplianceError: one of them cannot be had.
        """

        def relay(line: str) -> None:
            if line.startswith("dlstatus:"):
                progress(float(line.split(":")[2]) / 100)

        wanted = list(names)
        argv = ["install", "--no-install-recommends", "-y"] if dependencies else ["download"]
        nothing = self._scratch / "nothing"  # apt names only the files that it does not find
        (nothing / "partial").mkdir(parents=True, exist_ok=True)
        uris = self._apt(
            "apt-get", ["-o", f"Dir::Cache::archives={nothing}/", "--print-uris", *argv, *wanted], deadline, nothing
        )
        if dependencies:
            argv.append("--download-only")
        self._apt("apt-get", ["-qq", "-o", "APT::Status-Fd=1", *argv, *wanted], deadline, self.archives, relay)
        return [self.archives / file for file in re.findall(r"^'[^']+' (\S+\.deb) ", uris, re.MULTILINE)]


def _dependencies(fields: dict[str, str]) -> list[str]:
    """Return the names in a paragraph's dependencies, alternatives joined by `|`, version limits left out."""
    text = ", ".join(fields[key] for key in ("Pre-Depends", "Depends", "Recommends", "Suggests") if key in fields)
    groups = (group.split("|") for group in text.split(","))
    return ["|".join(re.sub(r"[\s(:].*", "", name.strip()) for name in group) for group in groups if group != [""]]
