"""``probe``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.cli.console import hush_libraries, output, print_json, table
from adapterhub.cli.options import Device, Fields, Force, Json, Level, Limit, columns_of

if TYPE_CHECKING:
    from adapterhub.workflows.bias_audit import AdapterAudit


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(probe)


def probe(
    ref: Annotated[str, typer.Argument(metavar="ADAPTER", help="NAME, NAME@3 or NAME@prod")],
    data: Annotated[
        Path | None, typer.Option(help="File of rows in which names and pronouns are exchanged.")
    ] = None,
    fields: Fields = None,
    limit: Limit = None,
    seconds: Annotated[float, typer.Option(min=1, help="After which no more is started.")] = 300,
    level: Level = 0.95,
    as_json: Json = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Measure bias and harm of an adapter beside its backbone."""
    hush_libraries()
    from adapterhub.registry.registry import Registry
    from adapterhub.workflows.bias_audit import audit_adapter

    found = audit_adapter(
        Registry(),
        ref,
        path=data,
        fields=columns_of(fields),
        limit=limit,
        seconds=seconds,
        level=level,
        force=force,
        device=device,
    )
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)


def _show(probed: AdapterAudit) -> None:
    from adapterhub.evaluation.bias_audit.report import notes, table_columns, table_rows

    found = probed.found
    shown = table(*table_columns(found))
    for row in table_rows(found):
        shown.add_row(*row)
    console = output()
    console.print(shown)
    for note in notes(found):
        console.print(f"\n{note.text}", markup=False)
