"""Options that several commands have, in the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

Force = Annotated[
    bool, typer.Option("--force", help="Accept an adapter made for another backbone.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", help="task_field=column; the recipe's where not given."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first rows.")]
Level = Annotated[float, typer.Option(min=0.5, max=0.999, help="Confidence of the intervals.")]


def columns_of(fields: Sequence[str] | None) -> dict[str, str]:
    """Read ``--field`` options: the task's field to the file's column.

    Raises:
        RecipeError: when one is nothing of the kind.
    """
    return dict(field_pair(field) for field in fields or ())


def field_pair(field: str) -> tuple[str, str]:
    """Read ``task_field=column``.

    Raises:
        RecipeError: when it is nothing of the kind.
    """
    name, equals, column = field.partition("=")
    if not (name and equals and column):
        raise RecipeError(f"{field!r} is not task_field=column", place="--field")
    return name, column
