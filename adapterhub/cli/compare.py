"""``compare``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import hush_libraries, output, print_json, table
from adapterhub.cli.options import Device, Fields, Json, Level, Limit, columns_of

if TYPE_CHECKING:
    from adapterhub.workflows.compare import Comparison


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(compare)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="NAME, NAME@3 or NAME@prod")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one, for the same task.")],
    data: Annotated[Path, typer.Option(help="File of rows with their answers.")],
    metric: Annotated[
        str | None, typer.Option(help="That decides; the task's own where not given.")
    ] = None,
    fields: Fields = None,
    limit: Limit = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 2000,
    level: Level = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare two adapters on the same rows, and say whether it could be chance."""
    hush_libraries()
    from adapterhub.registry.registry import Registry
    from adapterhub.workflows.compare import compare as run_comparison

    found = run_comparison(
        Registry(),
        first,
        second,
        data,
        metric=metric,
        fields=columns_of(fields),
        limit=limit,
        resamples=resamples,
        level=level,
        seed=seed,
        device=device,
    )
    if as_json:
        print_json(_document(found))
    else:
        _show(found)


def _document(found: Comparison) -> dict[str, Any]:
    document = asdict(found)
    for each, record in zip(found.differences, document["differences"], strict=True):
        record["difference"] = each.value
    return {**document, "significant": found.significant, "better": found.better}


def _show(found: Comparison) -> None:
    console = output()
    rows = table(
        f"{found.rows} rows",
        f">{found.first}",
        f">{found.second}",
        ">difference",
        f">{found.level:.0%} interval",
        ">p",
        "test",
    )
    for each in found.differences:
        rows.add_row(
            each.metric,
            f"{each.first:.4f}",
            f"{each.second:.4f}",
            f"{each.value:+.4f}",
            f"{each.interval.low:+.4f} … {each.interval.high:+.4f}",
            f"{each.p_value:.4f}",
            each.test,
        )
    console.print(rows)
    if found.mcnemar is not None:
        counts = found.mcnemar
        console.print(
            f"\nright: both {counts.both}, only {found.first} {counts.first_only}, "
            f"only {found.second} {counts.second_only}, neither {counts.neither}; "
            f"exact McNemar test p = {counts.p_value:.3g}"
        )
    if found.better is None:
        console.print(f"\nno difference in {found.metric} is shown; more rows may show one")
    else:
        console.print(f"\n{found.better} is better by {found.metric}")
