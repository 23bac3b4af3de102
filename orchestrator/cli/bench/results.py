"""guestlaunch bench compare and regress: what is done with result files. Nothing is measured here."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.bench.session import print_json
from orchestrator.cli.options import Number, examples, json_option
from orchestrator.errors import UsageError


@click.command(epilog=examples("guestlaunch bench compare before.json after.json"))
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@json_option
def compare(first: Path, second: Path, *, as_json: bool) -> int:
    """Compare two result files. Refused when accelerator, guest arch or trap cost differ.

    A result that is not complete is compared as far as it goes, and called that.
    """
    from rich.console import Console

    from orchestrator.bench import analysis, result, text

    results = {first: result.load(first), second: result.load(second)}
    found = analysis.compare_results(results[first], results[second], f"{first} and {second}")
    found["not_complete"] = [str(path) for path, one in results.items() if not one["complete"]]
    if as_json:
        print_json(found)
        return 0
    console = Console()
    for path, one in results.items():
        if not one["complete"]:
            console.print(f"[bold yellow]{path}:[/] {text.not_complete(one)}", highlight=False)
    for line in found["conditions_that_differ"]:
        console.print(f"[yellow]The conditions differ:[/] {line}", highlight=False)
    for side, rows in found["sides"].items():
        console.print(text.comparison(rows, f"{side} in the first file", "in the second"))
    return 0


@click.command(
    epilog=examples(
        "guestlaunch bench fw-cfg --runs 20 --out baseline.json",
        "guestlaunch bench fw-cfg --runs 20 --out now.json",
        "guestlaunch bench regress now.json --baseline baseline.json --tolerance 10",
    )
)
@click.argument("current", type=click.Path(path_type=Path))
@click.option(
    "--baseline", type=click.Path(path_type=Path), required=True, help="The stored result to hold it against."
)
@click.option("--tolerance", type=Number(0), default=5.0, show_default=True, help="Allowed slowdown, percent.")
@click.option("--allow-incomplete", is_flag=True, help="Judge results of benchmarks that were ended early, too.")
@json_option
def regress(current: Path, baseline: Path, tolerance: float, *, allow_incomplete: bool, as_json: bool) -> int:
    """Exit with status 1 when a result is slower than a baseline by more than the tolerance.

    A permutation test must rule out that it is slower by the tolerance only. Fewer than six runs of a side cannot
    show that and are an error, status 2; so is a result that is not complete, unless that is allowed.
    """
    from orchestrator.bench import analysis, result, text

    results = {path: result.load(path) for path in (baseline, current)}
    unfinished = {str(path): text.not_complete(one) for path, one in results.items() if not one["complete"]}
    for path, what in unfinished.items():
        if not allow_incomplete:
            raise UsageError("cannot judge", path, what, "measure again, or use --allow-incomplete")
        click.echo(f"{path}: {what}", err=True)
    rows = analysis.regressions(
        results[baseline], results[current], tolerance=tolerance / 100, subject=f"{baseline} and {current}"
    )
    slower = [row for row in rows if row["slower"]]
    if as_json:
        print_json(
            {
                "tolerance": tolerance / 100,
                "regressions": slower,
                "metrics": rows,
                "not_complete": sorted(unfinished),
            }
        )
    else:
        for row in rows:
            low, high = row["interval"]["low"], row["interval"]["high"]
            said = "SLOWER" if row["slower"] else "ok"
            click.echo(
                f"{said}: {row['side']}: {row['metric']} takes {row['times']:.2f} times the baseline"
                f" ({low:.2f} to {high:.2f}; p {row['p_value']:.3f})"
            )
    return 1 if slower else 0
