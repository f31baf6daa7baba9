"""``data check``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from adapterhub.cli.console import output, plain, print_json, silence_libraries, table
from adapterhub.cli.options import Json, Overrides

if TYPE_CHECKING:
    from rich.console import Console

    from adapterhub.workflows.data_check import DataCheck, RenderedExample

_RECIPE_SUFFIXES = (".yaml", ".yml")
#: Labels that are listed, and characters of an example that are shown.
SHOWN_LABELS, SHOWN_CHARACTERS = 20, 1500


def check(
    source: Annotated[
        str, typer.Argument(metavar="FILE|RECIPE", help="Data file or folder, or recipe (YAML).")
    ],
    overrides: Overrides = None,
    task: Annotated[str, typer.Option(help="Task of a data file; found by its fields.")] = "",
    measured: Annotated[int, typer.Option(min=1, help="Examples measured in each split.")] = 2000,
    shown: Annotated[int, typer.Option(min=0, help="Examples to render.")] = 5,
    as_json: Json = False,
) -> None:
    """Show what training would read from data."""
    silence_libraries()
    from adapterhub.training.recipe_file import load_recipe
    from adapterhub.workflows.data_check import check_data, recipe_of_file

    if source.endswith(_RECIPE_SUFFIXES):
        recipe = load_recipe(Path(source), overrides or [])
    else:
        recipe = recipe_of_file(source, overrides or [], task)
    found = check_data(recipe, measured=measured, shown=shown)
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)


def _show(found: DataCheck) -> None:
    console = output()
    console.print(f"task: {found.task}", markup=False)
    for note in found.notes:
        console.print(note, markup=False)
    _show_splits(console, found)
    _show_labels(console, found)
    for leak in found.leaks:
        if leak.same or leak.near:
            console.print(
                f"warning: {leak.same:,} {leak.split} examples are also in training, and "
                f"{leak.near:,} of {leak.looked_at:,} compared others nearly so",
                markup=False,
            )
    if not found.lengths:
        console.print("lengths in tokens are not shown: the backbone is not on this machine, or")
        console.print("the examples are files; fetch one with: adapterhub backbones fetch NAME")
    for example in found.examples:
        _show_example(console, example)


def _show_splits(console: Console, found: DataCheck) -> None:
    columns = ["split", ">examples", ">duplicates", ">contradictions"]
    if found.lengths:
        console.print(f"\nlengths in tokens of {found.backbone}", markup=False)
        columns += [">median", ">95 %", ">longest", f">over {found.max_length}", ">unlearned"]
    rows = table(*columns)
    for each in found.splits:
        cells = [each.name, f"{each.examples:,}", f"{each.repeated:,}", f"{each.contradicting:,}"]
        sizes = found.lengths.get(each.name)
        if sizes is not None:
            counts = (sizes.median, sizes.high, sizes.longest, sizes.cut, sizes.unlearned)
            cells += [f"{count:,}" for count in counts]
        rows.add_row(*cells)
    console.print(rows)
    train = found.lengths.get("train")
    if train is not None and train.cut:
        console.print(
            f"warning: {train.cut:,} of {train.measured:,} training examples are longer than "
            f"task.max_length ({found.max_length} tokens) and will be cut",
            markup=False,
        )


def _show_labels(console: Console, found: DataCheck) -> None:
    if not found.labels:
        return
    rows = table("label", ">training")
    ordered = sorted(found.labels.items(), key=lambda item: -item[1])
    for label, count in ordered[:SHOWN_LABELS]:
        rows.add_row(Text(plain(label)), f"{count:,}")
    console.print()
    console.print(rows)
    if len(ordered) > SHOWN_LABELS:
        console.print(f"and {len(ordered) - SHOWN_LABELS:,} labels with fewer examples")


def _show_example(console: Console, example: RenderedExample) -> None:
    """Print an example; what is learned is between the signs ⟦ and ⟧."""
    text = Text()
    for piece in example.pieces:
        shown = plain(piece.text)
        if len(shown) > SHOWN_CHARACTERS:
            half = SHOWN_CHARACTERS // 2
            shown = f"{shown[:half]} … {shown[-half:]}"
        text.append(f"⟦{shown}⟧" if piece.learned else shown, "bold green" if piece.learned else "")
    console.print(f"\n{example.place} (learned: ⟦ ⟧)", markup=False)
    console.print(text)
