"""guestlaunch timeline: draws one recorded launch again."""

from __future__ import annotations

import json

import click

from orchestrator.cli.options import examples, json_option, state_options
from orchestrator.cli.render import show_comparison, show_timeline
from orchestrator.errors import NotFoundError
from orchestrator.records.store import open_store
from orchestrator.settings import Settings


@click.command(
    epilog=examples(
        "guestlaunch timeline",
        "guestlaunch timeline gl-5c5bf8 --against last",
        "guestlaunch timeline last --json | jq .transfer_ns",
    )
)
@click.argument("launch", default="last")
@click.option("--against", metavar="LAUNCH", help="Another launch to draw beside it.")
@state_options("Where launches are recorded.")
@json_option
def timeline(*, launch: str, against: str | None, settings: Settings, as_json: bool) -> int:
    """Draw a recorded LAUNCH: an id, the beginning of one, or "last", which ended last."""
    events = []
    with open_store(settings.state_dir) as store:
        for wanted in (launch, against):
            event = store.find(wanted) if wanted is not None else None
            if event is None and wanted is not None:
                raise NotFoundError("no such launch", wanted, "it is not in the store", "see guestlaunch history")
            events.append(event)
    first, second = events
    assert first is not None  # an argument without a default would not be there
    if as_json:
        click.echo(json.dumps(first if second is None else [first, second], indent=1))
    elif second is not None:
        show_comparison(first, second, (first["launch_id"][:12], second["launch_id"][:12]))
    else:
        show_timeline(first)
    return 0
