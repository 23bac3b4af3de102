"""guestlaunch appliance: build, list, show, verify, export, import and remove fixed appliances."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from orchestrator.appliance.fixed import check_making, check_version, open_appliance
from orchestrator.appliance.fixed import verify as verify_files
from orchestrator.appliance.manifest import Init
from orchestrator.appliance.model import FILES, Appliance
from orchestrator.appliance.store import appliances, resolve
from orchestrator.appliance.store import remove as remove_all
from orchestrator.appliance.version import host_version
from orchestrator.cli.options import Number, examples, json_option, print_json, state_options
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError
from orchestrator.settings import Settings, private_state

_BUILD_SECONDS = 1800.0
_SHOWN_OF_DIGEST = 40  # --json has them whole

_ARCH = click.Choice([str(arch) for arch in Arch])
_arch_option = click.option(
    "--arch", type=_ARCH, default=str(Arch.AARCH64), show_default=True, help="Arch of the guests."
)
_init_option = click.option(
    "--init",
    type=click.Choice([str(init) for init in Init]),
    default=str(Init.LEAN),
    show_default=True,
    help="Whose /init it has: guestlaunch's, or libguestfs's own (for comparison).",
)


@click.group(
    epilog=examples(
        "guestlaunch appliance build",
        "guestlaunch appliance build --arch x86_64",
        "guestlaunch appliance list",
        "guestlaunch appliance verify --arch aarch64",
        "guestlaunch appliance export appliance.tar.zst     # and import it where none can be built",
    )
)
@state_options("Where appliances are kept.")
@click.pass_context
def appliance(context: click.Context, *, settings: Settings) -> None:
    """Build, list, check, move and remove fixed appliances (kernel, initrd, root)."""
    context.obj = settings


@appliance.command(
    short_help="Build the appliance for an arch from packages.",
    epilog=examples(
        "guestlaunch appliance build",
        "guestlaunch appliance build --arch x86_64 --json",
        "guestlaunch appliance build --init stock     # used where it is named",
    ),
)
@_arch_option
@_init_option
@click.option(
    "--deadline",
    metavar="SECONDS",
    type=Number(min=1),
    default=_BUILD_SECONDS,
    show_default=True,
    help="Give up after that time.",
)
@json_option
@click.pass_obj
def build(settings: Settings, *, arch: str, init: str, deadline: float, as_json: bool) -> int:
    """Build the appliance for an arch from the distribution's packages, running none of their code."""
    from orchestrator.appliance.build import build as build_appliance  # here: only building needs all of it
    from orchestrator.appliance.command import Deadline
    from orchestrator.cli.progress import shown

    private_state(settings.state_dir)
    with shown(f"appliance for {arch}") as progress:
        built = build_appliance(
            Arch(arch),
            settings.appliance_store,
            init=Init(init),
            progress=progress,
            deadline=Deadline.after(deadline),
        )
    if as_json:
        print_json(_facts(built))
    else:
        click.echo(_line(built))
    return 0


@appliance.command("list", epilog=examples("guestlaunch appliance list", "guestlaunch appliance list --json"))
@json_option
@click.pass_obj
def list_(settings: Settings, *, as_json: bool) -> int:
    """List the appliances that launches use, one an arch, and those with libguestfs's own init."""
    found = appliances(settings.appliance_store)
    if as_json:
        print_json([_facts(one) for one in found])
        return 0
    for one in found:
        click.echo(_line(one))
    if not found:
        click.echo(f"none in {settings.appliance_store} (guestlaunch appliance build makes one)", err=True)
    return 0


@appliance.command(
    short_help="Show what an appliance is made of.",
    epilog=examples("guestlaunch appliance show", "guestlaunch appliance show --json /srv/appliance"),
)
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@_arch_option
@_init_option
@json_option
@click.pass_obj
def show(settings: Settings, *, directory: Path | None, arch: str, init: str, as_json: bool) -> int:
    """Show what an appliance is made of: the current one of an arch, or the one in DIRECTORY."""
    found = _named(settings, directory, arch, init)
    facts = _facts(found)
    if as_json:
        print_json(facts)
        return 0
    packages = facts.pop("packages")
    facts["digests"] = {name: f"{digest[:_SHOWN_OF_DIGEST]}…" for name, digest in facts["digests"].items()}
    for key, value in facts.items():
        lines = [f"{name} {one}" for name, one in value.items()] if isinstance(value, dict) else value
        lines = (lines or ["none"]) if isinstance(lines, list) else ["unknown" if lines is None else lines]
        for label, line in zip([key, *[""] * len(lines)], lines, strict=False):
            click.echo(f"{label:<12} {line}")
    click.echo(f"{'packages':<12} {len(packages)} (--json names them)")
    return 0


@appliance.command(
    short_help="Compare an appliance with its manifest.",
    epilog=examples("guestlaunch appliance verify", "guestlaunch appliance verify /srv/appliance"),
)
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@_arch_option
@_init_option
@json_option
@click.pass_obj
def verify(settings: Settings, *, directory: Path | None, arch: str, init: str, as_json: bool) -> int:
    """Compare an appliance's files with their digests, its version with the host's libguestfs, its making with ours.

    One that an older guestlaunch built from other guest scripts, or otherwise, still launches, but is not up to date.
    """
    found = _named(settings, directory, arch, init)
    verify_files(found, deep=True)
    library = host_version()
    if library is not None:
        check_version(found, library)
    check_making(found)
    if as_json:
        facts = {"path": str(found.path), "manifest": found.manifest is not None, "host_libguestfs": library}
        print_json(facts)
    elif found.manifest is None:
        click.echo(f"{found.path}: usable; it has no manifest, so there is nothing to compare its files with")
    else:
        click.echo(f"{found.path}: as built, and fits libguestfs {library or '(none on this host)'}")
    return 0


@appliance.command(
    short_help="Write an appliance into one file, for another host.",
    epilog=examples(
        "guestlaunch appliance export appliance.tar.zst",
        "guestlaunch appliance export --arch x86_64 - | ssh HOST guestlaunch appliance import -",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--directory", metavar="DIR", type=click.Path(path_type=Path), help="One that is not in the store.")
@_arch_option
@_init_option
@json_option
@click.pass_obj
def export(settings: Settings, *, file: Path, directory: Path | None, arch: str, init: str, as_json: bool) -> int:
    """Write an appliance into FILE (- is standard output), for hosts that cannot build one.

    The digest that is printed is that of the manifest, which has those of all files: `import --digest` compares it.
    """
    from orchestrator.appliance.archive import export_appliance  # here: few commands need it

    to_stdout = os.fspath(file) == "-"
    done = export_appliance(_named(settings, directory, arch, init), None if to_stdout else file)
    facts = {"arch": str(done.manifest.arch), "libguestfs": done.manifest.libguestfs, "digest": done.digest}
    if as_json:
        click.echo(json.dumps({"file": None if to_stdout else str(file), **facts}, indent=2), err=to_stdout)
    else:
        size = "" if to_stdout else f", {file.stat().st_size / 2**20:.0f} MiB"
        about = f"{facts['arch']}, libguestfs {facts['libguestfs']}{size}"
        click.echo(f"{'exported' if to_stdout else file}: {about}\n{done.digest}", err=to_stdout)
    return 0


@appliance.command(
    "import",
    short_help="Unpack an appliance that another host exported.",
    epilog=examples(
        "guestlaunch appliance import appliance.tar.zst",
        "guestlaunch appliance import appliance.tar.zst --digest sha256:c1d0...",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--digest", metavar="DIGEST", help="What export printed: refuse any other appliance.")
@json_option
@click.pass_obj
def import_(settings: Settings, *, file: Path, digest: str | None, as_json: bool) -> int:
    """Unpack FILE (- is standard input) and make it the appliance for launches of its arch.

    All of it is compared with its digests. They tell damage, not who made it: import what you trust, or give --digest.
    """
    from orchestrator.appliance.archive import import_appliance  # here: few commands need it

    private_state(settings.state_dir)
    source = None if os.fspath(file) == "-" else file
    made = import_appliance(source, settings.appliance_store, host=host_version(), digest=digest)
    if as_json:
        print_json(_facts(made))
    else:
        click.echo(_line(made))
    try:
        check_making(made)
    except ApplianceError as error:
        click.echo(f"note: {error}", err=True)
    return 0


@appliance.command(epilog=examples("guestlaunch appliance remove --arch x86_64"))
@click.option("--arch", type=_ARCH, required=True, help="Arch of the guests.")
@_init_option
@json_option
@click.pass_obj
def remove(settings: Settings, *, arch: str, init: str, as_json: bool) -> int:
    """Remove all appliances of an arch and init that no launch is using."""
    removed = remove_all(settings.appliance_store, Arch(arch), Init(init))
    if as_json:
        print_json({"removed": list(map(str, removed))})
    for path in [] if as_json else removed:
        click.echo(f"removed {path}")
    return 0


def _named(settings: Settings, directory: Path | None, arch: str, init: str) -> Appliance:
    if directory is not None:
        return open_appliance(directory)
    return resolve(settings.appliance_store, Arch(arch), Init(init))


def _files(one: Appliance) -> tuple[str, ...]:
    return FILES if one.vmlinux is None else (*FILES, one.vmlinux.name)


def _line(one: Appliance) -> str:
    size = sum((one.path / name).stat().st_blocks * 512 for name in _files(one)) / 2**20
    if one.manifest is None:
        what = "not built by guestlaunch"
    else:
        stock = ", its own init" if one.init is Init.STOCK else ""
        what = f"libguestfs {one.manifest.libguestfs}{stock}, Linux {one.manifest.kernel}"
    # The path has a line of its own, to stay whole on 80 columns.
    return f"{one.arch:<8} {what}, {size:.0f} MiB\n         {one.path}"


def _facts(one: Appliance) -> dict[str, Any]:
    """Return an appliance as it is printed with --json."""
    manifest = one.manifest
    return {
        "arch": str(one.arch),
        "path": str(one.path),
        "root_uuid": one.root_uuid,
        "init": str(manifest.init) if manifest else None,
        "libguestfs": manifest.libguestfs if manifest else None,
        "kernel": manifest.kernel if manifest else None,
        "built": manifest.built if manifest else None,
        "bytes": {name: (one.path / name).stat().st_size for name in _files(one)},
        "digests": {name: manifest.files[name].digest for name in _files(one)} if manifest else {},
        "unavailable": list(manifest.unavailable) if manifest else None,
        "packages": dict(manifest.packages) if manifest else {},
    }
