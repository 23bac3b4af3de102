"""The options of `guestlaunch vm`: those of a VM, and those of all its commands."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.install import size_option
from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import SECONDS, collected
from orchestrator.cli.progress import shown
from orchestrator.domain.model import Arch, GraphicsKind
from orchestrator.errors import UsageError
from orchestrator.program import complain
from orchestrator.settings import Settings
from orchestrator.vm.customization import Customization
from orchestrator.vm.request import PoolVolume, ReadySign, VmRequest, image_of

if TYPE_CHECKING:  # libvirt comes with it
    from orchestrator.hypervisor.connection import Connection
    from orchestrator.launch.stop import Stop
    from orchestrator.vm.create import VmPlace
    from orchestrator.vm.known import KnownVm

_FILE = click.Path(path_type=Path)

folder_option = click.option(
    "--folder", metavar="DIR", type=_FILE,
    help="Where the files of VMs are: /var/lib/libvirt/images/guestlaunch for root's, else in the state directory.",
)  # fmt: skip
ready_option = click.option(
    "--ready", type=click.Choice([str(sign) for sign in ReadySign]), default=str(ReadySign.ANY), show_default=True,
    help="By what it is known to be ready: its record, its guest agent, a login prompt, ssh; none does not wait.",
)  # fmt: skip
timeout_option = click.option(
    "--timeout", "timeout_s", metavar="SECONDS", type=SECONDS, default=600.0, show_default=True,
    help="How long it may take to be ready, once it boots.",
)  # fmt: skip


def _request(**given: Any) -> dict[str, Any]:  # noqa: ANN401 - the options below
    """Return what of a VM the options say; its name, memory and CPUs come from elsewhere."""
    image, nvram = given["image"], given["nvram"]
    wanted = Customization(
        hostname=given.pop("hostname"),
        user=given.pop("user"),
        ssh_keys=tuple(path.absolute() for path in given.pop("ssh_keys")),
        run=given.pop("run"),
        install=tuple(name for names in given.pop("install") for name in names.split(",") if name),
        copy_in=tuple(_copied(text) for text in given.pop("copy_in")),
        cloud_init=_absolute(given.pop("cloud_init")),
    )
    return {
        **given,
        "customization": wanted,
        "image": None if image is None else _image(image),
        "graphics": None if given["graphics"] == "none" else GraphicsKind(given["graphics"]),
        "arch": Arch(given["arch"]) if given["arch"] else None,
        "nvram": _absolute(nvram),
        "ready": ReadySign(given["ready"]),
    }


def _image(text: str) -> Path | PoolVolume:
    """Return the image that is named.

    :raise UsageError: it is no name of a volume.
    """
    try:
        return image_of(text, Path.cwd())
    except ValueError as error:
        raise UsageError("cannot understand", f"--image {text}", f"not {error}") from error


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _copied(text: str) -> tuple[Path, str]:
    """Return what is copied, and where to.

    :raise UsageError: it does not say both.
    """
    source, colon, target = text.rpartition(":")
    if not colon or not source or not target.startswith("/"):
        raise UsageError("cannot understand", f"--copy-in {text}", "FILE:/FOLDER is wanted")
    return Path(source).absolute(), target


request_options: Callable[[Any], Any] = collected(
    "said",
    _request,
    click.option(
        "--image", metavar="FILE|vol=POOL/VOLUME",
        help="What its disk is made of, which stays so: a file, or a volume of a storage pool of libvirt's.",
    ),
    click.option("--image-format", metavar="FORMAT", help="The image's; what its header says, if that is certain."),
    click.option(
        "--arch", type=click.Choice([str(arch) for arch in Arch]),
        help="Which architecture it is for, where no appliance can look into it, or where it is for several.",
    ),
    click.option("--copy", is_flag=True, help="Its disk is a copy of the image, not an overlay over it."),
    size_option("How large its disk is; as large as the image by default."),
    click.option(
        "--network", metavar="KIND", default="user", show_default=True, help="user, none, network=NAME, bridge=NAME."
    ),
    click.option(
        "--graphics", type=click.Choice([*map(str, GraphicsKind), "none"]), default="none", show_default=True,
        help="It has a display: virt-viewer shows it, by a socket that libvirt's clients alone get at.",
    ),
    click.option(
        "--nvram", metavar="FILE", type=_FILE,
        help="The firmware's variables to begin with, as an installation left them.",
    ),
    click.option("--hostname", metavar="NAME", help="The system's own name."),
    click.option("--user", metavar="NAME", help="A user who is made if not there, and whom the keys are for."),
    click.option(
        "--ssh-key", "ssh_keys", metavar="FILE", type=_FILE, multiple=True,
        help="Public key that may log in, as --user or else as root; can be repeated.",
    ),
    click.option("--run", metavar="COMMAND", multiple=True, help="A command that is run on its disk; can be repeated."),
    click.option(
        "--install", metavar="PACKAGE[,PACKAGE]", multiple=True, help="Packages that are installed on its disk."
    ),
    click.option(
        "--copy-in", metavar="FILE:/FOLDER", multiple=True, help="What is copied into a folder of its disk."
    ),
    click.option("--cloud-init", metavar="FILE", type=_FILE, help="User data for the image's own cloud-init."),
    ready_option,
    timeout_option,
)  # fmt: skip


def request_of(name: str, said: dict[str, Any], settings: Settings) -> VmRequest:
    """Return the request that a command line makes."""
    return VmRequest(name=name, memory_mib=settings.memory_mib, vcpus=settings.vcpus, **said)


@contextlib.contextmanager
def on_libvirt(settings: Settings) -> Iterator[Connection]:
    """Open the connection that VMs are on."""
    from orchestrator.vm.create import connected, default_uri

    with connected(settings, default_uri(settings)) as connection:
        yield connection


@contextlib.contextmanager
def found(settings: Settings, name: str) -> Iterator[tuple[Connection, KnownVm]]:
    """Yield a VM of ours, with the connection that it is on.

    :raise GuestlaunchError: there is none of that name.
    """
    from orchestrator.vm.known import find

    with on_libvirt(settings) as connection:
        yield connection, find(connection, name)


@contextlib.contextmanager
def placed(settings: Settings, folder: Path | None, stop: Stop, title: str, *, keep: bool = False) -> Iterator[VmPlace]:
    """Yield where a VM is made, with its progress on standard error."""
    from orchestrator.vm.create import VmPlace, default_uri
    from orchestrator.vm.folder import default_folder

    origin_ns, uri = time.monotonic_ns(), default_uri(settings)
    with shown(title) as progress:
        yield VmPlace(
            settings=settings, uri=uri, parent=(folder or default_folder(settings, uri)).absolute(), stop=stop,
            step=lambda text: progress(text, None), tell=lambda text: complain(PROGRAM, text), keep=keep,
            origin_ns=origin_ns,
        )  # fmt: skip
