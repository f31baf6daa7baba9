"""``backbones list`` and ``backbones fetch``."""

from __future__ import annotations

from typing import Annotated

import typer

from adapterhub.cli.console import hush_libraries, output, print_json, table


def add_commands(app: typer.Typer) -> None:
    """Add this file's group."""
    group = typer.Typer(help="Backbones: what there is, and fetching them.", no_args_is_help=True)
    group.command("list")(list_backbones)
    group.command()(fetch)
    app.add_typer(group, name="backbones")


def list_backbones(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List the backbones known by name."""
    from dataclasses import asdict

    from adapterhub.backbones.catalog import load_catalog

    entries = load_catalog().values()
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    rows = table("name", "kind", "Hub", "license", "description")
    for entry in entries:
        rows.add_row(entry.name, entry.kind, entry.hub_id, entry.license, entry.description)
    output().print(rows)


def fetch(
    names: Annotated[list[str], typer.Argument(help="Names of the catalog, or Hub ids.")],
    revision: Annotated[str | None, typer.Option(help="Of a Hub id.")] = None,
) -> None:
    """Fetch backbones into the cache, and convert them if need be."""
    hush_libraries()
    from adapterhub.backbones.sources import fetch_backbone

    for name in names:
        output().print(f"{name}: {fetch_backbone(name, revision=revision)}")
