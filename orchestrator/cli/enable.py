"""guestlaunch enable, disable: plain libguestfs programs launch through us from now on, or no longer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click

from orchestrator.appliance.store import resolve
from orchestrator.cli.options import examples, json_option, print_json, settings_options
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import NotFoundError, UsageError
from orchestrator.settings import Settings, default_state_dir, private_state
from orchestrator.workload import enabling
from orchestrator.workload.enabling import Places, Scope
from orchestrator.workload.environment import tool_environment
from orchestrator.workload.own_files import Deed, FileChange

_scope_option = click.option(
    "--user", "scope", flag_value=str(Scope.USER), default=str(Scope.USER), help="For this user (the default)."
)
_system_option = click.option(
    "--system", "scope", flag_value=str(Scope.SYSTEM), help="For all users, by /etc/profile.d and /etc/environment.d."
)


@click.command(
    epilog=examples(
        "guestlaunch enable",
        "guestlaunch enable --profile x86_64-ovmf",
        "sudo guestlaunch enable --system",
    )
)
@_scope_option
@_system_option
@settings_options
@json_option
def enable(*, scope: str, settings: Settings, as_json: bool) -> int:
    """Let plain guestfish, virt-df and all that uses libguestfs launch through guestlaunch from the next login on.

    Writes the variables of `guestlaunch env` where shells and systemd's user manager read them, and says what it
    changed. Files that are not guestlaunch's are never overwritten; shells' own startup files get one line. sudo takes
    variables away: use `sudo guestlaunch guestfish` there.
    """
    chosen, places = Scope(scope), _places(Scope(scope))
    # What an earlier `enable` set is no wish of the user's.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LIBGUESTFS_")}
    variables = dict(tool_environment(environ, settings, everything=False).ours)
    appliance = _lasting(Path(variables["LIBGUESTFS_PATH"]), settings)
    variables["LIBGUESTFS_PATH"] = os.fspath(appliance)
    changes: list[FileChange] = []
    if chosen is Scope.SYSTEM:
        changes += enabling.open_state(settings.state_dir, appliance)
        private_state(settings.state_dir)
        for path in (Path(variables["LIBGUESTFS_HV"]), *((appliance / name) for name in ("kernel", "initrd", "root"))):
            enabling.check_open_to_all(path.resolve())
    changes += enabling.enable(variables, places, scope=chosen)
    _say(changes, as_json=as_json)
    if not as_json:
        click.echo('from the next login on; in this shell: eval "$(guestlaunch env)"')
    return 0


@click.command(epilog=examples("guestlaunch disable", "sudo guestlaunch disable --system"))
@_scope_option
@_system_option
@json_option
def disable(*, scope: str, as_json: bool) -> int:
    """Take back what `guestlaunch enable` did: plain libguestfs programs launch as without guestlaunch."""
    chosen = Scope(scope)
    changes = list(enabling.disable(_places(chosen)))
    if chosen is Scope.SYSTEM:
        changes += enabling.close_state(default_state_dir(os.environ))
    _say(changes, as_json=as_json)
    if not as_json:
        done = any(change.deed is not Deed.SKIPPED for change in changes)
        text = 'from the next login on; in this shell: eval "$(guestlaunch env --unset)"'
        click.echo(
            text
            if done
            else f"nothing to take back: not enabled for {'all' if chosen is Scope.SYSTEM else 'this user'}"
        )
    return 0


def _places(scope: Scope) -> Places:
    if scope is Scope.USER:
        return enabling.user_places(os.environ)
    if os.geteuid() != 0:
        raise UsageError("cannot change what holds for all users", "--system", "only root can", "use sudo")
    return enabling.system_places()


def _lasting(path: Path, settings: Settings) -> Path:
    """Return a name of an appliance that still holds when a newer one is built."""
    try:
        found = resolve(settings.appliance_store, load_profile(settings.profile).arch).path
    except NotFoundError:
        return path
    current = found.parent / "current"
    return current if found == path and current.resolve() == found else path


def _say(changes: Iterable[FileChange], *, as_json: bool) -> None:
    if as_json:
        listed = [{"path": str(one.path), "done": str(one.deed), "why": one.why or None} for one in changes]
        print_json({"changes": listed})
        return
    for one in changes:
        click.echo(f"{one.path}: {one.deed}" + (f" ({one.why})" if one.why else ""))
