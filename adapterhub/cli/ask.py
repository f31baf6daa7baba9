"""``predict``, ``chat`` and ``eval``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import hush_libraries, output, print_json, table
from adapterhub.cli.options import Device, Fields, Force, Json, Limit, columns_of
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.engine.session import LoadedAdapter, Session
    from adapterhub.registry.version import Version


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(predict)
    app.command()(chat)
    app.command("eval")(evaluate)


def predict(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@3, NAME@latest or NAME@sha256:…")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts, or files of pictures; lines of standard input if none."),
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Each text is a JSON object with the task's fields.")
    ] = False,
    as_json: Json = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Label texts or pictures: a class with scores, spans with character offsets, or an answer."""
    hush_libraries()
    given = texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not given:
        raise DataError("there is nothing to label", hint="Give texts, or lines on standard input")
    parsed = [row_of(text, at) for at, text in enumerate(given, start=1)] if rows else None
    session, loaded, _ = _open(ref, force=force, device=device)
    asked = _asked(loaded.manifest.task, given, parsed)
    answers = session.predict(loaded.name, asked)
    if as_json:
        shown = [{key: _named(value) for key, value in row.items()} for row in asked]
        print_json([{**row, **answer} for row, answer in zip(shown, answers, strict=True)])
        return
    for text, answer in zip(given, answers, strict=True):
        typer.echo(f"{_short(answer)}\t{text}")


def chat(
    ref: Annotated[str, typer.Argument(help="A dialogue adapter.")],
    message: Annotated[
        list[str] | None, typer.Option("--message", "-m", help="Ask this and stop.")
    ] = None,
    base: Annotated[bool, typer.Option(help="Show the bare backbone's answer too.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    force: Force = False,
    device: Device = None,
) -> None:
    """Talk with a dialogue adapter; each line of standard input is a turn."""
    hush_libraries()
    session, loaded, _ = _open(ref, force=force, device=device)
    if loaded.task.head != "causal_lm":
        raise DataError("does not generate text", place=ref, hint="Use adapterhub predict")
    history: list[dict[str, str]] = []
    for turn in message or _turns():
        history.append({"role": "user", "content": turn})
        if base:
            plain = session.generate(
                None, [history], max_new_tokens=max_new_tokens, like=loaded.name
            )
            typer.echo(f"base     {plain[0]}")
        (answer,) = session.generate(loaded.name, [history], max_new_tokens=max_new_tokens)
        typer.echo(f"adapter  {answer}" if base else answer)
        history.append({"role": "assistant", "content": answer})


def evaluate(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@3, NAME@latest or NAME@sha256:…")],
    data: Annotated[Path, typer.Option(help="File of rows with their answers.")],
    fields: Fields = None,
    limit: Limit = None,
    generate: Annotated[
        int, typer.Option(min=0, help="Generate so many answers and score the texts.")
    ] = 0,
    as_json: Json = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Score an adapter on a file, with the bare backbone beside it."""
    hush_libraries()
    from adapterhub.workflows.score import examples_for, score_with_base

    session, loaded, version = _open(ref, force=force, device=device)
    rows = examples_for(loaded, data, fields=columns_of(fields), limit=limit)
    scores = score_with_base(session, loaded, rows, generate=generate)
    if as_json:
        document = {"ref": str(version.ref), "data": data.name, "rows": len(rows)}
        print_json({**document, **asdict(scores)})
        return
    shown = table(f"{data.name}, {len(rows)} rows", ">backbone alone", f">{version.ref}")
    for name, value in scores.adapter.items():
        shown.add_row(name, f"{scores.base[name]:.4f}", f"{value:.4f}")
    output().print(shown)
    for name, signature in scores.signatures.items():
        typer.echo(f"{name}: {signature}")


def _open(ref: str, *, force: bool, device: str | None) -> tuple[Session, LoadedAdapter, Version]:
    from adapterhub.registry.registry import Registry
    from adapterhub.workflows.open_adapter import open_adapter

    return open_adapter(Registry(), ref, force=force, device=device)


def row_of(text: str, number: int) -> dict[str, Any]:
    """Read a JSON object with a task's fields.

    Raises:
        DataError: when it is none.
    """
    from adapterhub.data.json_lines import parse_json_lines

    return parse_json_lines(text, f"text {number}").examples[0]


def _asked(
    task: str, given: list[str], parsed: list[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """Return the rows to ask, with pictures read from the files that are named."""
    from adapterhub.data.images import read_image
    from adapterhub.tasks.table import entry_of

    picture = entry_of(task).image_field
    rows = parsed or [{picture or "text": text} for text in given]
    if not picture:
        return rows
    return [
        {**row, picture: read_image(Path(row[picture]))}
        if isinstance(row.get(picture), str)
        else row
        for row in rows
    ]


def _named(value: Any) -> Any:
    """Return a picture's name; any other value as it is."""
    from adapterhub.data.images import ImageFile

    return value.name if isinstance(value, ImageFile) else value


def _turns() -> Any:
    """Yield the user's turns: typed at a prompt, or lines of standard input."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    output().print("an empty line ends the conversation")
    while turn := input("you      ").strip():
        yield turn


def _short(answer: Mapping[str, Any]) -> str:
    if "answer" in answer:
        return answer["answer"] or "(none)"
    if "labels" in answer:
        return ", ".join(f"{n} {answer['scores'][n]:.3f}" for n in answer["labels"]) or "(none)"
    if "label" in answer:
        return f"{answer['label']} {answer['score']:.3f}"
    if "spans" not in answer:
        return f"{answer['score']:.3f}"
    found = [f"{s['label']}[{s['start']}:{s['end']}] {s['text']}" for s in answer["spans"]]
    return "; ".join(found) or "(none)"
