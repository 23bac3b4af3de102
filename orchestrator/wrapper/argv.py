"""libguestfs's QEMU command line, turned into a launch request: all of it, or an error that names the argument.

Covers what the direct back end of libguestfs 1.48 to 1.60 emits on x86_64 and aarch64. Arguments that change
nothing for us are listed in `NO_EFFECT` with the reason; nothing else is left out. Everything after `-append VALUE` is
the user's own (`orchestrator.wrapper.extra`). Whether the files exist, and which guest is launched in the end, is
decided elsewhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence

from orchestrator.domain.model import Disk, DiskBus, Network
from orchestrator.launch.request import LaunchRequest
from orchestrator.values import dataclass
from orchestrator.wrapper import drives, extra, quoting
from orchestrator.wrapper.drives import refused

_TRANSPORTS = ("pci", "device", "ccw")
_FLAGS = frozenset({"-no-user-config", "-nodefaults", "-no-reboot", "-no-hpet", "-S", "-s"})
_ONCE = frozenset({"-machine", "-cpu", "-smp", "-m", "-kernel", "-initrd", "-serial", "-append"})
_OPTIONS = _FLAGS | _ONCE | {"-global", "-display", "-rtc", "-drive", "-object", "-device", "-chardev", "-netdev"}

# (option, value) -> why it has no effect on a launch.
NO_EFFECT: dict[tuple[str, str | None], str] = {
    ("-no-user-config", None): "libvirt always starts QEMU with it",
    ("-nodefaults", None): "libvirt always starts QEMU with it",
    ("-display", "none"): "the domain has no graphics device",
    ("-no-reboot", None): "the domain's reboot and panic actions are `destroy`",
    ("-no-hpet", None): "clock and timers belong to the profile's machine",
    ("-rtc", "driftfix=slew"): "clock and timers belong to the profile's machine",
    ("-global", "kvm-pit.lost_tick_policy=discard"): "clock and timers belong to the profile's machine",
    ("-object", "rng-random,filename=/dev/urandom,id=rng0"): "the domain has an entropy device by default",
    **{("-global", f"virtio-blk-{t}.scsi=off"): "SCSI passthrough is off by default" for t in _TRANSPORTS},
    **{("-device", f"virtio-rng-{t},rng=rng0"): "the domain has an entropy device by default" for t in _TRANSPORTS},
    **{("-device", f"virtio-scsi-{t},id=scsi"): "controllers come with the disks that need one" for t in _TRANSPORTS},
    **{("-device", f"virtio-serial-{t}"): "controllers come with the channels that need one" for t in _TRANSPORTS},
}

# Machine options, likewise: any value.
MACHINE_NO_EFFECT: dict[str, str] = {
    "graphics": "only sends SeaBIOS's messages to the serial port, which libguestfs asks for when verbose",
    "gic-version": "chosen with the accelerator, which is the orchestrator's choice",
}

# `accel=` as libguestfs writes it, and the client's opinion that it states.
_ACCELERATORS = {"kvm:tcg": None, "kvm": "kvm", "tcg": "tcg"}
_BUSES = {"scsi-hd": DiskBus.SCSI, **{f"virtio-blk-{t}": DiskBus.VIRTIO for t in _TRANSPORTS}}
_APPLIANCE = "appliance"
_GUESTFSD = "org.libguestfs.channel.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arguments:
    """The arguments that libguestfs wrote, in order, and the user's own."""

    options: tuple[tuple[str, str | None], ...]
    users: tuple[str, ...]

    def values(self, option: str) -> list[str]:
        """Return the values of every occurrence of option."""
        return [value for name, value in self.options if name == option and value is not None]

    def one(self, option: str) -> str | None:
        """Return the value of an option that occurs once or not at all, commas single."""
        values = self.values(option)
        return quoting.plain(values[0]) if values else None

    def needed(self, option: str) -> str:
        """Return the value of an option without which there is no launch."""
        value = self.one(option)
        if not value:
            raise refused(option, "missing or empty")
        return value


def is_block_device(path: str) -> bool:
    """Return whether path is a block device; a missing path is not, and whoever opens it will say so."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def parse(argv: Sequence[str], cwd: str, *, block_device: Callable[[str], bool] = is_block_device) -> LaunchRequest:
    """Return the launch that libguestfs's QEMU arguments (without the program's name) ask for.

    Relative paths are taken from cwd. Not returned are the machine type and libguestfs's own `-cpu`, which it chooses
    for the client's arch, and the format of the appliance's root: the profile, and the appliance itself, say these.

    :param block_device: answers whether a path is a block device.
    :raise TranslationError: an argument is unknown, malformed or cannot be carried out; it is named.
    """
    arguments = _read(argv)
    users = extra.take_size(arguments.users)
    root, disks = _disks(arguments, cwd, block_device)
    firmware = drives.pflash([value for value in arguments.values("-drive") if drives.is_pflash(value)])
    return LaunchRequest(
        kernel=os.path.join(cwd, arguments.needed("-kernel")),
        initrd=os.path.join(cwd, arguments.needed("-initrd")),
        cmdline=arguments.needed("-append"),
        root=None if root is None else os.path.join(cwd, root),
        disks=disks,
        guestfsd_path=_guestfsd(arguments, cwd),
        memory_mib=users.memory_mib or _number(arguments, "-m"),
        vcpus=users.vcpus or _number(arguments, "-smp"),
        accel=_accelerator(arguments.one("-machine")),
        pflash=None if firmware is None else (os.path.join(cwd, firmware[0]), os.path.join(cwd, firmware[1])),
        network=_network(arguments, cwd),
        console=_console(arguments),
        extra_args=(*(("-s",) if ("-s", None) in arguments.options else ()), *users.rest),
        start_paused=("-S", None) in arguments.options,
        cwd=cwd,
    )


def _read(argv: Sequence[str]) -> _Arguments:
    """Return the arguments as options, all of them known."""
    options: list[tuple[str, str | None]] = []
    words = iter(argv)
    for word in words:
        if word not in _OPTIONS:
            raise refused(word, "unknown argument")
        value = None if word in _FLAGS else next(words, None)
        if value is None and word not in _FLAGS:
            raise refused(word, "has no value")
        if word in _ONCE and any(word == name for name, _ in options):
            raise refused(word, "given twice")
        if word in ("-global", "-display", "-rtc", "-object") and (word, value) not in NO_EFFECT:
            raise refused(f"{word} {value}", "unknown value")
        options.append((word, value))
        if word == "-append":
            break
    return _Arguments(options=tuple(options), users=extra.verbatim(tuple(words)))


def _accelerator(value: str | None) -> str | None:
    """Return the accelerator that `-machine` asks for; what else it may hold, a machine type first, has no effect."""
    accel = None
    for position, (key, text) in enumerate(quoting.pairs(value) if value else ()):
        if key == "accel" and text in _ACCELERATORS:
            accel = _ACCELERATORS[text]
        elif (text is None and position > 0) or (text is not None and key not in MACHINE_NO_EFFECT):
            raise refused(f"-machine {value}", f"unknown option '{key if text is None else f'{key}={text}'}'")
    return accel


def _number(arguments: _Arguments, option: str) -> int | None:
    """Return the number that option gives."""
    text = arguments.one(option)
    if text is not None and not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise refused(f"{option} {text}", "not a number")
    return None if text is None else int(text)


def _console(arguments: _Arguments) -> bool:
    """Return whether the serial console is on the client's standard descriptors."""
    value = arguments.one("-serial")
    if value not in (None, "stdio"):
        raise refused(f"-serial {value}", "unknown value")
    return value is not None


def _disks(arguments: _Arguments, cwd: str, block_device: Callable[[str], bool]) -> tuple[str | None, tuple[Disk, ...]]:
    """Return the file of the appliance's root, if there is one, and the disks in the order they are attached."""
    waiting: dict[str, drives.Drive] = {}
    root: str | None = None
    disks: list[Disk] = []
    for option, value in arguments.options:
        if option == "-drive" and value is not None and not drives.is_pflash(value):
            spec = drives.drive(value)
            if spec.bus is not None:
                disks.append(drives.disk(spec, spec.bus, {}, cwd, block_device))
            elif spec.id in waiting:
                raise refused(spec.subject, "a second drive of this id")
            else:
                waiting[spec.id] = spec
        elif option == "-device" and value is not None and value.partition(",")[0] in _BUSES:
            driver = value.partition(",")[0]
            device = drives.device_options(value, driver)
            attached = waiting.pop(str(device["drive"]), None)
            if attached is None:
                raise refused(f"-device {value}", "no such drive, or already attached")
            if attached.id == _APPLIANCE:
                root = _root(attached)
            else:
                disks.append(drives.disk(attached, _BUSES[driver], device, cwd, block_device))
    for spec in waiting.values():
        raise refused(spec.subject, "no -device attaches it")
    return root, tuple(disks)


def _root(spec: drives.Drive) -> str:
    """Return the file of the appliance's drive if that is what libguestfs writes: one that is never written to."""
    options = dict(spec.options)
    file = options.get("file")
    if file is None or options.get("snapshot") != "on":
        raise refused(spec.subject, "the appliance's root needs file= and snapshot=on")
    return file


def _devices(arguments: _Arguments) -> Iterator[tuple[str, str, str]]:
    """Yield value, driver and options of each device that is neither a disk nor without effect."""
    for value in arguments.values("-device"):
        driver, _, rest = value.partition(",")
        if driver not in _BUSES and ("-device", value) not in NO_EFFECT:
            if driver != "virtserialport" and driver not in {f"virtio-net-{t}" for t in _TRANSPORTS}:
                raise refused(f"-device {value}", "unknown device")
            yield value, driver, rest


def _guestfsd(arguments: _Arguments, cwd: str) -> str | None:
    """Return the path of the socket on which libguestfs awaits guestfsd."""
    sockets: dict[str, str] = {}
    for value in arguments.values("-chardev"):
        kind, *listed = quoting.pairs(value)
        options = dict(listed)
        path, name = options.get("path"), options.get("id")
        if kind != ("socket", None) or set(options) != {"path", "id"} or not path or not name:
            raise refused(f"-chardev {value}", "not a socket with path and id")
        sockets[name] = os.path.join(cwd, path)
    found = None
    for value, driver, rest in _devices(arguments):
        if driver == "virtserialport":
            port = drives.distinct(rest, f"-device {value}", frozenset({"chardev", "name"}))
            found = sockets.pop(port.get("chardev") or "", None)
            if found is None or port.get("name") != _GUESTFSD:
                raise refused(f"-device {value}", f"not the port {_GUESTFSD} on a chardev of its own")
    for name in sockets:
        raise refused(f"-chardev …,id={name}", "no -device uses it")
    return found


def _network(arguments: _Arguments, cwd: str) -> Network | None:
    """Return the network interface, None if none is asked for."""
    networks: dict[str, Network] = {}
    for value in arguments.values("-netdev"):
        kind, *listed = quoting.pairs(value)
        options = dict(listed)
        name, net, path = options.get("id"), options.get("net"), options.get("addr.path")
        if kind == ("user", None) and set(options) == {"id", "net"} and name and net:
            networks[name] = Network(net=net)
        elif (kind == ("stream", None) and set(options) == {"id", "addr.type", "addr.path"}
              and options["addr.type"] == "unix" and name and path):  # fmt: skip
            networks[name] = Network(stream_path=os.path.join(cwd, path))
        else:
            raise refused(f"-netdev {value}", "neither user with net= nor stream on a unix socket")
    found = None
    for value, driver, rest in _devices(arguments):
        if driver.startswith("virtio-net-"):
            card = drives.distinct(rest, f"-device {value}", frozenset({"netdev"}))
            if found is not None or (found := networks.pop(card.get("netdev") or "", None)) is None:
                raise refused(f"-device {value}", "not the one interface on a -netdev")
    for name in networks:
        raise refused(f"-netdev …,id={name}", "no -device uses it")
    return found
