"""How a template's domain and its clones differ from a domain that boots for one tool. Pure, no I/O.

A template boots up to the gate in its init and is saved there; a clone starts from what was saved. Both must have the
same devices in the same places, or QEMU refuses the state. What depends on the tool's disks is plugged in afterwards;
its first disk is put behind a disk that the template has already, the slot, where that will do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.domain.arguments import SLOT, WITHOUT_WRITE_CACHE
from orchestrator.domain.cmdline import split_words
from orchestrator.domain.layout import DiskPlace, lay_out_beside, takes_slots
from orchestrator.domain.model import Arch, Channel, Disk, DiskBus, Domain, FirmwareKind, Handed, Incoming, Network, Ram
from orchestrator.domain.passthrough import (
    device_properties,
    drive_option,
    native,
    secret_objects,
    snapshot_error,
)
from orchestrator.domain.policy import GUESTFSD_CHANNEL
from orchestrator.domain.xml import disk_xml
from orchestrator.errors import DiskError
from orchestrator.values import dataclass

GATE_WORD = "guestlaunch.gate=1"
# Words of libguestfs's command line that only /init reads: a clone gets them at the gate.
_LATE_WORDS = (
    "TERM",
    "guestfs_verbose",
    "guestfs_network",
    "guestfs_rescue",
    "guestfs_noreboot",
    "guestfs_boot_analysis",
    "guestfs_channel",
)
# Of the kernel's own words, those that can also be applied later: how much it says on the console.
_LATE_KERNEL_WORDS = ("quiet", "debug", "loglevel", "ignore_loglevel")
# The option ROM that QEMU adds to x86 machines which it hands a kernel, with fw_cfg DMA.
_KERNEL_ROM = "linuxboot_dma.bin"
# libguestfs's one user network, and what QEMU's DHCP server says in it: address, mask, gateway, name server.
_USER_NET = "169.254.0.0/16"
_USER_ADDRESS = "169.254.2.15,255.255.0.0,169.254.2.2,169.254.2.3"
# QEMU's options that say nothing to the guest, without a value and with one; and those of which some kinds do not.
_UNSEEN_FLAGS = frozenset({"-s"})
_UNSEEN = frozenset(
    {
        "-name", "-D", "-d", "-dfilter", "-trace", "-pidfile", "-msg", "-monitor", "-qmp", "-qmp-pretty", "-mon",
        "-chardev", "-gdb", "-netdev", "-fsdev", "-plugin",
    }
)  # fmt: skip
_UNSEEN_KINDS = {
    "-object": frozenset({"secret", "iothread", "throttle-group", "tls-creds-x509", "tls-creds-psk", "filter-dump"}),
    # Not seen before the guest looks for them, by drivers that need nothing else.
    "-device": frozenset(
        f"{name}-pci{kind}"
        for name in ("virtio-net", "virtio-rng", "virtio-balloon", "virtio-9p")
        for kind in ("", "-non-transitional")
    ),
}

Command = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plug:
    """One step of attaching a disk to a running guest: libvirt XML, or QMP commands in order."""

    xml: str | None = None
    commands: tuple[Command, ...] = ()


def split_cmdline(cmdline: str) -> tuple[str, tuple[str, ...]]:
    """Return the part of a kernel command line that a template must boot with, and the words that clones get later."""
    kept: list[str] = []
    late: list[str] = []
    for word in split_words(cmdline):
        said = _late(word, for_kernel="--" not in kept)
        if said is None:
            kept.append(word)
        else:
            late.append(said)
    return " ".join(kept), tuple(late)


def stranger(arguments: Sequence[str]) -> str | None:
    """Return the first of the user's own QEMU arguments that cannot be added to a saved guest; None when all can.

    What the guest sees of its machine is in the state, and must be the same. What only the host sees is not; nor are
    devices on the bus where it can be told to look for more.
    """
    words = iter(arguments)
    for word in words:
        option = word[1:] if word.startswith("--") else word
        if option in _UNSEEN_FLAGS:
            continue
        value = next(words, "")
        kind = value.partition(",")[0]
        if option not in _UNSEEN and not (option in _UNSEEN_KINDS and kind in _UNSEEN_KINDS[option]):
            return f"{word} {value}".strip()
    return None


def to_look_for(network: Network | None, arguments: Sequence[str], disks: tuple[Disk, ...]) -> bool:
    """Tell whether a clone has devices that its template had not, for which its guest must look."""
    return network is not None or takes_slots(disks) or any(word in {"-device", "--device"} for word in arguments)


def disk_words(disks: tuple[Disk, ...], arch: Arch) -> tuple[str, ...]:
    """Return what a guest at its gate is told of the disks: how many there are on which controller, and on none."""
    layout = lay_out_beside(disks, arch)
    counts = Counter(place.controller if place.bus is DiskBus.SCSI else -1 for place in layout.places)
    words = [f"guestlaunch.disks={counts[0]}", f"guestlaunch.slot={fits_slot(disks):d}"]
    words += [f"guestlaunch.more={one.pci.slot:02x}:{counts[one.index]}" for one in layout.controllers[1:]]
    words += [f"guestlaunch.virtio={counts[-1]}"] if counts[-1] else []
    return tuple(words)


def network_words(network: Network | None) -> tuple[str, ...]:
    """Return what a guest is told of its network beside that it has one: its address, where no server has to be asked.

    QEMU's own network has these addresses for any guest (net/slirp.c). Those of a stream socket are whatever its
    server says.
    """
    if network is None or network.net != _USER_NET:
        return ()
    return (f"guestlaunch.address={_USER_ADDRESS}",)


def _late(word: str, *, for_kernel: bool) -> str | None:
    """Return how a clone is told of a word, None if it cannot be: the kernel strips quotes, and takes - for _."""
    key, equals, value = word.replace('"', "").partition("=")
    if for_kernel and key.replace("-", "_") in _LATE_KERNEL_WORDS:
        return key.replace("-", "_") + equals + value
    return key + equals + value if key in _LATE_WORDS else None


def as_template(domain: Domain, ram: str, *, slots: bool = False) -> Domain:
    """Return the domain that is saved at its gate, with its memory in the file `ram`.

    :param domain: as it would boot for a tool without disks; its guestfsd channel is joined to nothing.
    :param slots: its clones are to have PCI slots for disks (`takes_slots`): no virtio disk may be there before them,
        or their kernel's names would begin with vdb, and guestfsd takes names as they are for numbers.
    """
    bus = DiskBus.SCSI if slots else DiskBus.VIRTIO
    return replace(
        domain,
        cmdline=f"{domain.cmdline} {GATE_WORD}",
        channels=(Channel(name=GUESTFSD_CHANNEL, path=None), *_others(domain)),
        # Not SCSI if it can be helped (2026-11-24): the kernel is to call the disks sda, sdb ... as in a cold launch.
        # Not libvirt's either (2026-11-26): it would have a clone open its image anew when the state is there, which
        # a QEMU without privileges cannot do.
        disks=tuple(replace(disk, bus=bus, alias=None, described=False) for disk in domain.disks[-1:]),
        ram=Ram(path=ram, private=False),
        slot=True,
        root_apart=slots,
        network=None,
    )


def as_clone(
    template: Domain,
    *,
    ram: str,
    firmware: str,
    network: Network | None = None,
    disks: tuple[Disk, ...] = (),
    extra_args: tuple[str, ...] = (),
) -> Domain:
    """Return a domain that continues where the template was saved.

    It has no kernel, and no UEFI flash where that can be left out: what was in them is in the state. On aarch64 that is
    128 MiB of flash and 33 MB of kernel less memory for each clone (2026-11-24).

    :param template: `as_template`'s, but with the name, the root and the sockets of the clone.
    :param firmware: any small file; QEMU wants one in place of UEFI firmware.
    :param network: the tool's. Of its card the state knows nothing, so that it is as it was made; the guest finds it
        when it is told to look. So one template serves tools with a network and without, and only those that asked
        for one have a card (2026-11-26).
    :param disks: the tool's, for which PCI devices are made where they need any.
    :param extra_args: the user's own, which `stranger` has nothing against.
    """
    arm = template.profile.arch is Arch.AARCH64
    uefi = template.profile.firmware is FirmwareKind.UEFI
    incoming = Incoming(
        firmware=firmware if arm and uefi else None,
        flash=None if arm else template.loader,
        option_roms=() if arm else (_KERNEL_ROM,),
    )
    return replace(
        template,
        loader=None,
        kernel=None,
        initrd=None,
        cmdline="",
        ram=Ram(path=ram, private=True),
        incoming=incoming,
        network=network,
        later=disks if takes_slots(disks) else (),
        extra_args=extra_args,
    )


def _others(domain: Domain) -> tuple[Channel, ...]:
    return tuple(channel for channel in domain.channels if channel.name != GUESTFSD_CHANNEL)


def misfit(disks: tuple[Disk, ...], arch: Arch) -> str | None:
    """Return why disks cannot be added to a clone, None when they can."""
    for disk in disks:
        if disk.bus is DiskBus.SATA:
            return f"a disk on the {disk.bus} bus cannot be added later"
    try:
        lay_out_beside(disks, arch)
    except DiskError as error:
        return f"{error.what}: {error.why}"
    return None


def fits_slot(disks: tuple[Disk, ...]) -> bool:
    """Tell whether the first disk can be put into the slot: it may differ only in its contents.

    A device keeps what it tells the guest about itself, and whether its write cache is on.
    """
    if not disks:
        return False
    first = disks[0]
    own = (first.bus, first.readonly, first.serial, first.logical_block_size, first.physical_block_size)
    return own == (DiskBus.SCSI, False, None, None, None) and first.cache not in WITHOUT_WRITE_CACHE


def empty_slot() -> Plug:
    """Return how to take the slot away, once the guest has let go of it."""
    return Plug(commands=(("device_del", {"id": SLOT}),))


def plugs(
    disks: tuple[Disk, ...],
    arch: Arch,
    secret_paths: tuple[tuple[str, str], ...],
    handed: Mapping[int, tuple[Handed, ...]] | None = None,
) -> tuple[Plug, ...]:
    """Return how to attach disks in their order, the first to the slot where it fits.

    :param handed: by number of the disk: its files, where QEMU was given them.
    :raise DiskError: one still asks for throw-away writes, or has no file for its secret.
    """
    paths, places, handed = dict(secret_paths), lay_out_beside(disks, arch).places, handed or {}
    steps = []
    for i, (disk, place) in enumerate(zip(disks, places, strict=True)):
        given = handed.get(i, ())
        if i == 0 and fits_slot(disks):
            steps.append(_fill(SLOT, disk, i, paths, given))
        elif place.pci is not None:
            steps.append(_fill(f"disk{i}", disk, i, paths, given))
        else:
            steps.append(_plug(disk, i, place, paths, given))
    return tuple(steps)


def _fill(device: str, disk: Disk, index: int, secret_paths: dict[str, str], handed: tuple[Handed, ...]) -> Plug:
    """Return how to put a disk behind a device that is there: QEMU changes what is behind it by this property."""
    if disk.snapshot:
        raise snapshot_error(disk, index)
    node = f"{device}-disk"
    value = {"path": f"/machine/peripheral/{device}", "property": "drive", "value": node}
    drive = _drive(disk, index, secret_paths, handed, f",node-name={node}")
    return Plug(commands=(*drive, ("qom-set", value)))


def _plug(disk: Disk, index: int, place: DiskPlace, secret_paths: dict[str, str], handed: tuple[Handed, ...]) -> Plug:
    if native(disk) and not handed and place.controller == 0:  # libvirt knows of no other controller
        return Plug(xml=disk_xml(disk, index, place))
    device = ("device_add", device_properties(disk, index, place))
    return Plug(commands=(*_drive(disk, index, secret_paths, handed), device))


def _drive(
    disk: Disk, index: int, secret_paths: dict[str, str], handed: tuple[Handed, ...], more: str = ""
) -> tuple[Command, ...]:
    """Return the commands that open an image."""
    secrets = tuple(("object-add", dict(options)) for options in secret_objects(disk, index, secret_paths))
    # QMP's blockdev-add cannot leave the format to QEMU, as the tool may have asked for.
    line = f"drive_add 0 {_quoted(drive_option(disk, index, handed) + more)}"
    return (*secrets, ("human-monitor-command", {"command-line": line}))


def _quoted(text: str) -> str:
    r"""Return text as one word for QEMU's human monitor, which knows \", \\ and \n within quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
