"""guestlaunch completion: the shell's code for completing our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from orchestrator.cli.main import PROGRAM, cli
from orchestrator.cli.options import examples


@click.command(
    epilog=examples(
        'eval "$(guestlaunch completion bash)"',
        "guestlaunch completion zsh > ~/.zfunc/_guestlaunch",
        "guestlaunch completion fish > ~/.config/fish/completions/guestlaunch.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> int:
    """Print what makes SHELL complete guestlaunch's commands and options."""
    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    # The variable by which click knows, in any command line of ours, that it is asked to complete.
    click.echo(kind(cli, {}, PROGRAM, "_GUESTLAUNCH_COMPLETE").source())
    return 0
