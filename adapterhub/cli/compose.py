"""``compose``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import output, print_json, silence_libraries, table, version_document
from adapterhub.cli.options import Device, Fields, Json, Limit, field_columns, open_registry
from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from adapterhub.composition import MergeMethod
    from adapterhub.registry.version import Version
    from adapterhub.workflows.compose import Parent, WeightSearch

#: Combination type that searches the weights for another one.
FEW_SHOT = "few-shot"


def compose(
    name: Annotated[str, typer.Argument(help="Name of the new adapter.")],
    refs: Annotated[
        list[str], typer.Argument(metavar="ADAPTER[*WEIGHT]", help="Parents, e.g. 'topics@3*0.5'")
    ],
    combination_type: Annotated[
        str, typer.Option(help="concat, linear, svd, ties, dare_linear, … or few-shot.")
    ] = "concat",
    density: Annotated[
        float | None, typer.Option(help="Share of values kept by pruning; 0.5 by default.")
    ] = None,
    svd_rank: Annotated[
        int | None, typer.Option(help="Rank of an svd result; the largest rank by default.")
    ] = None,
    majority_sign_method: Annotated[
        str | None, typer.Option(help="Sign election of ties: total or frequency.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of DARE and few-shot.")] = 0,
    head_from: Annotated[
        str | None, typer.Option(metavar="ADAPTER", help="Parent that gives the head.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="File of labelled examples for few-shot.")
    ] = None,
    fields: Fields = None,
    limit: Limit = None,
    budget: Annotated[int, typer.Option(min=1, help="Number of weights few-shot tries.")] = 40,
    blend: Annotated[
        str | None, typer.Option(help="Combination type of few-shot; concat by default.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Merge several adapters into a new one."""
    silence_libraries()
    from adapterhub.composition import MergeMethod
    from adapterhub.refs import check_name, parse_weighted
    from adapterhub.workflows.compose import open_parents, parent_index, store_composition

    check_name(name)
    searched = combination_type == FEW_SHOT
    sign: Any = majority_sign_method
    _check_few_shot(data, blend, refs, searched=searched)
    kind = (blend or "concat") if searched else combination_type
    how = MergeMethod(kind, density, svd_rank, sign, seed)
    registry = open_registry()
    parents = open_parents(registry, [parse_weighted(text) for text in refs])
    head = None if head_from is None else parent_index(registry, parents, head_from)
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
                fields=field_columns(fields),
                limit=limit,
                budget=budget,
                seed=seed,
                device=device,
            )
    version = store_composition(registry, name, parents, how, head_from=head, search=search)
    _show(version, parents, how, search, as_json=as_json)


def _check_few_shot(
    data: Path | None, blend: str | None, refs: list[str], *, searched: bool
) -> None:
    if searched and data is None:
        raise DataError("few-shot needs labelled examples", place="--data", hint="Add --data FILE")
    for option, given in (("--data", data), ("--blend", blend)):
        if given is not None and not searched:
            raise RecipeError(
                "is an option of few-shot", place=option, hint="Add --combination-type few-shot"
            )
    if searched and any("*" in ref for ref in refs):
        raise RecipeError("few-shot searches the weights; leave them out", place="ADAPTER*WEIGHT")


def _show(
    version: Version,
    parents: tuple[Parent, ...],
    how: MergeMethod,
    search: WeightSearch | None,
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
                **version_document(version),
                "composition": {"method": how.name, "adapters": adapters, **how.settings()},
                "search": None if search is None else asdict(search),
            }
        )
        return
    shown = table("adapter", ">weight")
    for parent in parents:
        shown.add_row(parent.ref, f"{parent.weight:.4g}")
    output().print(shown)
    if search is not None:
        output().print(
            f"loss {search.loss:.4f} on {search.data.num_examples} examples of {search.data.origin}"
        )
    output().print(f"stored {version.ref} by {how.name}  {version.digest}")
