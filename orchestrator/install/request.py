"""What an installation is asked to be, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.domain.model import Arch, GraphicsKind
from orchestrator.errors import UsageError
from orchestrator.install.answers import Answers


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """One installation. Paths are absolute.

    :ivar location: the tree's: a folder, an ISO image, an address, deb:PACKAGE; empty where `files` are named.
    :ivar files: kernel and initrd, where the user names them.
    :ivar arch: of a tree that is for several.
    :ivar disks: the first is the one that boots; `size_bytes` is that of those which are not there yet.
    :ivar nvram: where the firmware's variables are kept; beside the first disk if None.
    :ivar cmdline: what the user wants on the installer's command line.
    :ivar verify: refuse what no checksum, package or signature speaks for.
    :ivar keyrings: keys that may sign for a tree; the distributions' own if empty.
    :ivar graphics: installer and system have a display as well.
    :ivar network: the installer and the system have a network, by user-mode networking.
    :ivar timeout_s: how long the installer may take, and `boot_timeout_s` the first boot.
    :ivar keep: leave what was made if the installation fails.
    """

    location: str = ""
    files: tuple[Path, Path] | None = None
    arch: Arch | None = None
    disks: tuple[Path, ...] = ()
    size_bytes: int | None = None
    nvram: Path | None = None
    cmdline: str = ""
    answers: Answers = field(default_factory=Answers)
    verify: bool = True
    keyrings: tuple[Path, ...] = ()
    graphics: GraphicsKind | None = None
    network: bool = True
    timeout_s: float = 7200.0
    boot_timeout_s: float = 600.0
    keep: bool = False

    @property
    def kept_nvram(self) -> Path:
        """Where the firmware's variables are kept."""
        return self.nvram or self.disks[0].with_name(f"{self.disks[0].name}.nvram.fd")

    @property
    def seed(self) -> Path:
        """Where the disk for the installer's cloud-init is, as long as it runs."""
        return self.kept_nvram.with_name(f"{self.kept_nvram.name}.cidata")

    def check(self) -> None:
        """Refuse what cannot work, whatever the host.

        :raise UsageError: says which part of it.
        """
        if bool(self.location) is (self.files is not None):
            hint = "give --location, or --kernel and --initrd"
            raise UsageError("nothing to install from", self.location, "one of the two is needed", hint)
        if not self.disks:
            raise UsageError("nothing to install on", "", "no disk", "give --disk FILE")
