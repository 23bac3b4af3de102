"""The options that every launching command has, and the settings they lead to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.settings import Settings, load

_F = TypeVar("_F", bound=Callable[..., Any])
_MOST = 1e9  # three decades: beyond that, clocks overflow


class Number(click.FloatRange):
    """A number within bounds; what is none, as nan, or has no end, as inf, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's signature
        """Return it."""
        number = float(super().convert(value, param, ctx))
        if not -_MOST <= number <= _MOST:
            self.fail(f"{value!r} is no number that can be used here.", param, ctx)
        return number


SECONDS = Number(min=0, min_open=True)


def _profiles(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    """Return the names of profiles for a shell."""
    from orchestrator.domain.profiles import profile_names  # here: only for completion

    return [name for name in profile_names() if name.startswith(begun)]


config_option = click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="Settings file (TOML).")
_SETTINGS = (
    click.option(
        "--profile",
        metavar="NAME",
        shell_complete=_profiles,
        help="Kind of guest: aarch64-uefi (default), aarch64-bare, x86_64-...; exec also takes auto.",
    ),
    click.option("-c", "--connect", metavar="URI", help="libvirt connection; a private qemu:///embed by default."),
    click.option("--fw-cfg-dma", type=click.Choice(["on", "off"]), help="How QEMU hands kernel and initrd over."),
    click.option(
        "--accel", type=click.Choice(["auto", "kvm", "tcg"]), help="Accelerator; auto uses KVM only if it works."
    ),
    click.option(
        "--start", type=click.Choice(["auto", "cold", "warm"]), help="Boot, or clone a template; auto clones if it can."
    ),
    click.option("--appliance", metavar="DIR", help="A fixed appliance instead of the newest one built."),
    click.option("--memory-mib", metavar="N", help="Guest memory in MiB."),
    click.option("--vcpus", metavar="N", help="Virtual CPUs."),
    click.option("--cpu", metavar="MODEL", help="CPU model."),
    click.option(
        "--image-policy",
        type=click.Choice(["trusted", "untrusted"]),
        help="What disk images may name; untrusted for jobs, trusted otherwise.",
    ),
    click.option("--image-roots", metavar="DIR[:DIR]", help="Where untrusted images, and what they name, must lie."),
    click.option("--timeline", metavar="FILE", help="Append each launch's timeline as a JSON line; - is stdout."),
    click.option("--state-dir", metavar="DIR", help="Appliances, logs and libvirt's private files."),
    config_option,
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")


def print_json(value: object) -> None:
    """Print what `--json` asks for, on standard output."""
    import json  # here: most commands print none

    click.echo(json.dumps(value, indent=2))


def examples(*lines: str) -> str:
    """Return the last part of a command's help, kept line by line."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


def collected(name: str, make: Callable[..., object], *options: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Return a decorator that adds options to a command, which receives them as one value.

    :param name: of the command's parameter for it; `make` makes it of the options, each by its own name.
    """

    def decorate(function: _F) -> _F:
        def collecting(**given: object) -> object:
            value = make(**{option.name: given.pop(option.name) for option in added})
            return function(**{name: value}, **given)

        collecting.__name__, collecting.__doc__ = function.__name__, function.__doc__
        decorated: Any = collecting
        for option in reversed(options):
            decorated = option(decorated)
        # Click keeps the options of a function in this attribute; the function may have brought some.
        added: list[click.Parameter] = decorated.__click_params__
        decorated.__click_params__ = [*getattr(function, "__click_params__", []), *added]
        return decorated  # type: ignore[no-any-return]

    return decorate


def _load(config: Path | None, **overrides: object) -> Settings:
    """Return the settings. Values are checked where all settings are: option, variable and file have the same rules."""
    return load(config=config, overrides=overrides)


# Adds the options that shape a launch to a command, which receives `settings`.
settings_options = collected("settings", _load, *_SETTINGS)


def state_options(where: str, *more: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Return a decorator that adds the options of a command that launches nothing; it receives `settings`.

    :param where: what the state directory is to it.
    """
    return collected("settings", _load, *more, click.option("--state-dir", metavar="DIR", help=where), config_option)


def describe(settings: Settings) -> str:
    """Return the settings that shape a launch, for -v."""
    dma = "on" if settings.fw_cfg_dma else "off"
    return f"profile {settings.profile}, fw_cfg DMA {dma}, accel {settings.accel}, on {settings.connect or 'embed'}"
