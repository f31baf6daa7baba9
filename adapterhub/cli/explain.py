"""``explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from adapterhub.cli.console import output, print_json, silence_libraries, table
from adapterhub.cli.options import Device, Force, Json, Jsonl, Ref, check_adapters
from adapterhub.cli.predict import json_input
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text as RichText

    from adapterhub.evaluation.attribution.explain import Explanation
    from adapterhub.workflows.model import Model

#: As in ``adapterhub.evaluation.attribution.methods``, which is too slow to import for ``--help``.
Method: TypeAlias = Literal["gradients", "ablation"]
#: Words in the table, and columns of the longest bar.
_LISTED, _BAR = 20, 24


def explain(
    ref: Ref,
    text: Annotated[str, typer.Argument(help="Text or file to explain.")],
    jsonl: Jsonl = False,
    label: Annotated[
        str | None, typer.Option(help="Label to explain; the predicted label by default.")
    ] = None,
    span: Annotated[
        str | None, typer.Option(metavar="START:END", help="Predicted spans to explain.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=2, max=1000, help="Steps of the integration path.")
    ] = 50,
    method: Annotated[
        Method | None, typer.Option(help="Attribution method; by the backbone's kind.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="HTML page to write.", metavar="FILE")] = None,
    as_json: Json = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Show how much each word or part of a recording counts."""
    silence_libraries(compiler=False)
    place = None if span is None else _span(span)
    given = json_input(text, 1) if jsonl else text
    check_adapters(ref)
    from adapterhub.workflows.model import load

    model = load(ref, force=force, device=device, compute_dtype="float32")
    found = model.explain(given, label=label, span=place, steps=steps, method=method)
    if html is not None:
        _write_page(html, model, found)
    if as_json:
        print_json({"ref": str(model.version.ref), "answers": [each.document() for each in found]})
        return
    for each in found:
        _show(each)
    if html is not None:
        output().print(f"page {html}", markup=False)


def _span(text: str) -> tuple[int, int]:
    start, colon, end = text.partition(":")
    if not (colon and start.isdigit() and end.isdigit() and int(start) < int(end)):
        raise DataError(
            f"{text!r} is not a span", place="--span", hint="Write START:END, in characters from 0"
        )
    return int(start), int(end)


def _write_page(path: Path, model: Model, found: Sequence[Explanation]) -> None:
    from adapterhub.workflows.run_report.blocks import render_page
    from adapterhub.workflows.run_report.explanation_section import explanation_section

    title = f"Explanation of {model.version.ref}"
    sections = [explanation_section(each) for each in found]
    page = render_page(title, f"{model.task}; {model.version.digest}", sections)
    path.write_text(page, encoding="utf-8")


def _show(found: Explanation) -> None:
    from rich.text import Text as RichText

    from adapterhub.evaluation.attribution.explain import LARGE_GAP
    from adapterhub.workflows.run_report.explanation_section import answer_text, fidelity_note

    console = output()
    console.print(RichText(answer_text(found), style="bold"))
    for name in found.texts:
        line = RichText(f"{name}: " if len(found.texts) > 1 else "", style="dim")
        for segment, value in found.segments(name):
            share = 0.0 if value is None else value / found.max_attribution
            line.append(segment, style=_style(share))
        console.print(line)
    strongest = sorted(found.words, key=lambda word: -abs(word.attribution))[:_LISTED]
    chosen = [word for word in found.words if word in strongest and word.attribution]
    shown = table(found.unit, ">attribution", "")
    for word in chosen:
        share = word.attribution / found.max_attribution
        shown.add_row(RichText(word.word), f"{word.attribution:+.3f}", _bar(share))
    console.print(shown)
    if len(chosen) < len(found.words):
        console.print(f"{len(chosen)} of {len(found.words)} {found.unit}s; --json has all")
    console.print(RichText(fidelity_note(found), style="dim"))
    if found.gap_share > LARGE_GAP:
        console.print(
            "the attributions do not add up to the prediction; try more --steps", style="yellow"
        )
    console.print()


def _bar(share: float) -> RichText:
    from rich.text import Text as RichText

    # two characters, so that the sign shows without colours too
    sign = "█" if share >= 0 else "░"
    return RichText(sign * round(abs(share) * _BAR), style=_style(share))


def _style(share: float) -> str:
    """Return the style of a word by its share of the strongest attribution."""
    if abs(share) < 0.05:
        return ""
    colour = "blue" if share > 0 else "dark_orange"
    return f"bold {colour}" if abs(share) >= 0.5 else colour
