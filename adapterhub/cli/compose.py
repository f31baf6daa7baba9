"""``compose``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import hush_libraries, output, print_json, table
from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from adapterhub.composition import MergeMethod
    from adapterhub.registry.version import Version
    from adapterhub.workflows.compose import Parent, Search

#: Method that searches for weights and then blends by another one.
FEW_SHOT = "few-shot"


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(compose)


def compose(
    name: Annotated[str, typer.Argument(help="Of the result, whose next version it becomes.")],
    refs: Annotated[
        list[str], typer.Argument(metavar="REF[*WEIGHT]", help="topics@3 or 'topics@3*0.5'")
    ],
    method: Annotated[
        str, typer.Option(help="concat, linear, svd, ties, dare_linear, …, or few-shot.")
    ] = "concat",
    density: Annotated[
        float | None, typer.Option(help="Share of values that pruning keeps; 0.5 if not given.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Of the result of an svd method; the largest if not given.")
    ] = None,
    majority_sign: Annotated[
        str | None, typer.Option(help="Of a ties method: total or frequency.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of DARE, and of few-shot.")] = 0,
    head_from: Annotated[
        str | None, typer.Option(metavar="REF", help="Take the head of this adapter.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="few-shot: examples with their answers.")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="few-shot: task_field=column of the examples.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="few-shot: only the first rows.")] = None,
    budget: Annotated[int, typer.Option(min=1, help="few-shot: how many weights to try.")] = 40,
    blend: Annotated[
        str | None,
        typer.Option(help="few-shot: the method that the weights are for; concat if not given."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Make one adapter of several and store it with its lineage."""
    hush_libraries()
    from adapterhub.composition import MergeMethod
    from adapterhub.refs import check_name, parse_weighted
    from adapterhub.registry.registry import Registry
    from adapterhub.workflows.compose import index_of, open_parents, store_composition

    check_name(name)
    searched = method == FEW_SHOT
    sign: Any = majority_sign
    _check_few_shot(data, blend, refs, searched=searched)
    how = MergeMethod((blend or "concat") if searched else method, density, rank, sign, seed)
    registry = Registry()
    parents = open_parents(registry, [parse_weighted(text) for text in refs])
    head = None if head_from is None else index_of(registry, parents, head_from)
    search = None
    if data is not None:
        from adapterhub.workflows.merge_search import search_weights

        with registry.staging() as workspace:
            parents, search = search_weights(
                parents,
                how,
                data,
                workspace=workspace,
                head_from=head,
                fields=dict(map(_pair, field or ())),
                limit=limit,
                budget=budget,
                seed=seed,
                device=device,
            )
    version = store_composition(registry, name, parents, how, head_from=head, search=search)
    _tell(version, parents, how, search, as_json=as_json)


def _check_few_shot(
    data: Path | None, blend: str | None, refs: list[str], *, searched: bool
) -> None:
    if searched and data is None:
        raise DataError("few-shot needs examples", place="--data", hint="Add --data FILE")
    for option, given in (("--data", data), ("--blend", blend)):
        if given is not None and not searched:
            raise RecipeError("is for few-shot", place=option, hint="Add --method few-shot")
    if searched and any("*" in ref for ref in refs):
        raise RecipeError("few-shot finds the weights itself", place="REF*WEIGHT")


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not equals:
        raise RecipeError(f"{text!r} is not task_field=column", place="--field")
    return name, column


def _tell(
    version: Version,
    parents: tuple[Parent, ...],
    how: MergeMethod,
    search: Search | None,
    *,
    as_json: bool,
) -> None:
    if as_json:
        adapters = [
            {"ref": parent.ref, "digest": parent.artifact.digest, "weight": parent.weight}
            for parent in parents
        ]
        print_json(
            {
                **asdict(version),
                "ref": str(version.ref),
                "composition": {"method": how.name, "adapters": adapters, **how.settings()},
                "search": None if search is None else asdict(search),
            }
        )
        return
    rows = table("adapter", ">weight")
    for parent in parents:
        rows.add_row(parent.ref, f"{parent.weight:.4g}")
    output().print(rows)
    if search is not None:
        output().print(f"loss {search.loss:.4f} on {search.data.rows} rows of {search.data.origin}")
    output().print(f"stored {version.ref} by {how.name}  {version.digest}")
