"""What an installation is asked to be, as values."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.domain.model import Arch, GraphicsKind
from orchestrator.errors import UsageError
from orchestrator.images.apart import Named, check_apart
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

    def check(self, *written: Named) -> None:
        """Refuse what cannot work, whatever the host.

        :param written: what else is written to.
        :raise UsageError: says which part of it.
        """
        if bool(self.location) is (self.files is not None):
            hint = "give --location, or --kernel and --initrd"
            raise UsageError("nothing to install from", self.location, "one of the two is needed", hint)
        if not self.disks:
            raise UsageError("nothing to install on", "", "no disk", "give --disk FILE")
        if self.nvram is None and is_block_device(self.disks[0]):
            why = "beside a block device is no place for the firmware's variables"
            hint = "--nvram FILE says where they stay, as /var/lib/libvirt/qemu/nvram/NAME.fd"
            raise UsageError("nowhere to keep the NVRAM", self.disks[0], why, hint)
        check_apart(
            [*(("--disk", disk) for disk in self.disks), ("the kept NVRAM", self.kept_nvram), *written], self._read()
        )

    def _read(self) -> list[Named]:
        """Return the files that are read."""
        answers = self.answers
        named = [("--preseed", answers.preseed), ("--kickstart", answers.kickstart)]
        named += [("--autoinstall", answers.autoinstall), *(("--inject", path) for path in answers.inject)]
        named += zip(("--kernel", "--initrd"), self.files or (), strict=False)
        named += [("--keyring", path) for path in self.keyrings]
        if self.location and "://" not in self.location:
            named.append(("--location", Path(self.location)))
        return [(what, path) for what, path in named if path is not None]


def is_block_device(path: Path) -> bool:
    """Tell whether there is a block device at a path."""
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except (OSError, ValueError):
        return False
