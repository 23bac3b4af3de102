"""guestlaunch bench compare and regress: what is done with result files. Nothing is measured here."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.bench_session import print_json
from orchestrator.cli.options import examples, json_option


@click.command(epilog=examples("guestlaunch bench compare before.json after.json"))
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@json_option
def compare(first: Path, second: Path, *, as_json: bool) -> int:
    """Compare two result files. Refused when accelerator, guest arch or trap cost differ."""
    from rich.console import Console

    from orchestrator.report import bench_analysis, bench_text, result

    found = bench_analysis.compare_results(result.load(first), result.load(second), f"{first} and {second}")
    if as_json:
        print_json(found)
        return 0
    console = Console()
    for line in found["conditions_that_differ"]:
        console.print(f"[yellow]The conditions differ:[/] {line}", highlight=False)
    for side, rows in found["sides"].items():
        console.print(bench_text.comparison(rows, f"{side} in the first file", "in the second"))
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
@click.option(
    "--tolerance", type=click.FloatRange(0), default=5.0, show_default=True, help="Allowed slowdown, percent."
)
@json_option
def regress(current: Path, baseline: Path, tolerance: float, *, as_json: bool) -> int:
    """Exit with status 1 when a result is slower than a baseline by more than the tolerance.

    A permutation test must rule out that it is slower by the tolerance only. Fewer than six runs of a side cannot
    show that and are an error, status 2.
    """
    from orchestrator.report import bench_analysis, result

    rows = bench_analysis.regressions(
        result.load(baseline), result.load(current), tolerance=tolerance / 100, subject=f"{baseline} and {current}"
    )
    slower = [row for row in rows if row["slower"]]
    if as_json:
        print_json({"tolerance": tolerance / 100, "regressions": slower, "metrics": rows})
    else:
        for row in rows:
            low, high = row["interval"]["low"], row["interval"]["high"]
            said = "SLOWER" if row["slower"] else "ok"
            click.echo(
                f"{said}: {row['side']}: {row['metric']} takes {row['times']:.2f} times the baseline"
                f" ({low:.2f} to {high:.2f}; p {row['p_value']:.3f})"
            )
    return 1 if slower else 0
