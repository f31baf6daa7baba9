"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.registry.registry import Registry


#: Stands for standard output or input in place of a file.
PIPE = Path("-")


def open_registry() -> Registry:
    """Return the local registry; its modules are imported now, not for ``--help``."""
    from adapterhub.registry.registry import Registry

    return Registry()


def check_adapters(
    *refs: str,
    data: Path | None = None,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> None:
    """Check stored adapters and a file of examples for them, before heavy libraries are imported.

    Raises:
        AdapterHubError: as the workflow that uses them would raise it.
    """
    from adapterhub.workflows.stored_examples import check_stored

    check_stored(open_registry(), refs, data, fields=fields, limit=limit)


def _device(name: str | None) -> str | None:
    """Check a device before heavy libraries are imported."""
    from adapterhub.backbones.device import check_device

    return check_device(name)


def complete_ref(incomplete: str) -> list[str]:
    """Return the names and aliases of stored adapters that begin as typed, for shells."""
    versions = open_registry().list()
    names = {v.name for v in versions} | {f"{v.name}@{a}" for v in versions for a in v.aliases}
    return sorted(name for name in names if name.startswith(incomplete))


Ref = Annotated[
    str,
    typer.Argument(
        metavar="ADAPTER",
        help="NAME, NAME@3, NAME@prod or NAME@sha256:…",
        autocompletion=complete_ref,
    ),
]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Recipe keys to change, e.g. train.epochs=5"),
]
Output = Annotated[
    Path | None, typer.Option("--output", help="Output folder; a folder in runs/ by default.")
]
DataFile = Annotated[Path, typer.Option("--data", help="File of labelled examples.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", help="Column of a task field, FIELD=COLUMN; as in the recipe."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Number of examples to read.")]
Jsonl = Annotated[bool, typer.Option("--jsonl", help="Read each input as a JSON object.")]
ConfidenceLevel = Annotated[
    float, typer.Option(min=0.5, max=0.999, help="Confidence level of the intervals.")
]
Why = Annotated[str, typer.Option("--why", help="Reason, kept in the log.")]
Force = Annotated[bool, typer.Option("--force", help="Accept another backbone fingerprint.")]
Device = Annotated[
    str | None, typer.Option(callback=_device, help="Torch device: cpu, cuda, cuda:1, …")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def field_columns(pairs: Sequence[str] | None) -> dict[str, str]:
    """Parse ``--field`` options into task field to column of the file."""
    columns: dict[str, str] = {}
    for pair in pairs or ():
        name, _, column = pair.partition("=")
        if not (name and column):
            raise RecipeError(f"{pair!r} is not FIELD=COLUMN", place="--field")
        columns[name] = column
    return columns
