"""``explain``: which words an answer comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from adapterhub.cli.ask import row_of
from adapterhub.cli.console import hush_libraries, output, print_json, table
from adapterhub.cli.options import Device, Force, Json
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text as RichText

    from adapterhub.engine.session import LoadedAdapter, Session
    from adapterhub.evaluation.attribution.results import Explanation

#: See ``adapterhub.evaluation.attribution.methods``, which is not loaded for ``--help``.
Method: TypeAlias = Literal["gradients", "ablation"]
#: Words that are listed with their numbers, and columns of the longest bar.
_LISTED, _BAR = 20, 24


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(explain)


def explain(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@3, NAME@latest or NAME@sha256:…")],
    text: Annotated[str, typer.Argument(help="What the adapter is asked.")],
    rows: Annotated[
        bool, typer.Option("--rows", help="The text is a JSON object with the task's fields.")
    ] = False,
    label: Annotated[
        str | None,
        typer.Option("--class", help="Explain this label instead; of spans, those of this type."),
    ] = None,
    span: Annotated[
        str | None, typer.Option(help="START:END: explain the spans found there alone.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=2, max=1000, help="More of them close the gap that is printed.")
    ] = 50,
    method: Annotated[
        Method | None,
        typer.Option(
            help="gradients along a path, or ablation of one word at a time; what fits the "
            "backbone where not given."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page that stands alone.", metavar="FILE")
    ] = None,
    as_json: Json = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Show which words of a text an answer comes from.

    By integrated gradients with an encoder, word by word with a decoder. The backbone is held as
    the adapter was trained on it, and computes in float32.
    """
    hush_libraries()
    from adapterhub.registry.registry import Registry
    from adapterhub.workflows.open_adapter import open_adapter

    place = None if span is None else _span(span)
    row = row_of(text, 1) if rows else {"text": text}
    session, loaded, version = open_adapter(
        Registry(), ref, force=force, device=device, compute_dtype="float32"
    )
    found = _explanations(session, loaded, row, label=label, span=place, steps=steps, method=method)
    if html is not None:
        _write_page(html, str(version.ref), loaded, found)
    if as_json:
        print_json({"ref": str(version.ref), "answers": [each.document() for each in found]})
        return
    for each in found:
        _show(each)
    if html is not None:
        output().print(f"page {html}", markup=False)


def _explanations(
    session: Session,
    loaded: LoadedAdapter,
    row: dict[str, Any],
    *,
    label: str | None,
    span: tuple[int, int] | None,
    steps: int,
    method: Method | None,
) -> Sequence[Explanation]:
    from adapterhub.evaluation.attribution.explain import explain as explain_row
    from adapterhub.evaluation.attribution.explain import explain_text

    task: Any = loaded.task
    model = session.model(loaded.name)
    if task.head != "causal_lm":
        return explain_row(model, task, row, label=label, span=span, steps=steps, method=method)
    if label is not None or span is not None:
        raise DataError(
            "answers in text, it has no labels and spans to choose from",
            place=loaded.name,
            hint="Ask without --class and --span",
        )
    messages = _messages(task, row)
    (answer,) = session.generate(loaded.name, [messages])
    return [explain_text(model, task, messages, answer, steps=steps, method=method)]


def _messages(task: Any, row: dict[str, Any]) -> list[dict[str, str]]:
    """Return what a row asks an adapter that generates."""
    from adapterhub.tasks.instructed import Instructed

    if isinstance(task, Instructed):
        return task.question(row, 1)
    if "messages" in row:
        return list(row["messages"])
    return [{"role": "user", "content": str(row.get("text") or row.get("prompt") or "")}]


def _span(text: str) -> tuple[int, int]:
    start, colon, end = text.partition(":")
    if not (colon and start.isdigit() and end.isdigit() and int(start) < int(end)):
        raise DataError(
            f"{text!r} is no span", place="--span", hint="Write START:END, characters from 0"
        )
    return int(start), int(end)


def _write_page(path: Path, ref: str, loaded: LoadedAdapter, found: Sequence[Explanation]) -> None:
    from adapterhub.workflows.run_report.explanation_section import explanation_section
    from adapterhub.workflows.run_report.page import render_page

    subtitle = f"{loaded.task.name}; {loaded.digest}"
    page = render_page(f"Why {ref} answers so", subtitle, [explanation_section(e) for e in found])
    path.write_text(page, encoding="utf-8")


def _show(found: Explanation) -> None:
    from rich.text import Text as RichText

    from adapterhub.evaluation.attribution.results import LARGE_GAP
    from adapterhub.workflows.run_report.explanation_section import answer_text, fidelity_note

    console = output()
    console.print(RichText(answer_text(found), style="bold"))
    for name in found.texts:
        line = RichText(f"{name}: " if len(found.texts) > 1 else "", style="dim")
        for piece, value in found.pieces(name):
            line.append(piece, style=_style(0.0 if value is None else value / found.strongest))
        console.print(line)
    strongest = sorted(found.words, key=lambda word: -abs(word.attribution))[:_LISTED]
    chosen = [word for word in found.words if word in strongest and word.attribution]
    shown = table("word", ">attribution", "")
    for word in chosen:
        share = word.attribution / found.strongest
        shown.add_row(RichText(word.word), f"{word.attribution:+.3f}", _bar(share))
    console.print(shown)
    if len(chosen) < len(found.words):
        console.print(f"{len(chosen)} of {len(found.words)} words; all are in --json")
    console.print(RichText(fidelity_note(found), style="dim"))
    if found.gap_share > LARGE_GAP:
        console.print(
            "the words do not add up, do not trust them; more --steps may help", style="yellow"
        )
    console.print()


def _bar(share: float) -> RichText:
    from rich.text import Text as RichText

    # two signs, so that the bars can be told apart without colours too
    sign = "█" if share >= 0 else "░"
    return RichText(sign * round(abs(share) * _BAR), style=_style(share))


def _style(share: float) -> str:
    """Return the colour of a word: stronger for more, none for next to nothing."""
    if abs(share) < 0.05:
        return ""
    colour = "blue" if share > 0 else "dark_orange"
    return f"bold {colour}" if abs(share) >= 0.5 else colour
