"""``predict`` and ``chat``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import output, print_json, say, silence_libraries
from adapterhub.cli.lean_start import lean_start
from adapterhub.cli.options import Device, Force, Json, Jsonl, Ref, check_adapters
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator


def predict(
    ref: Ref,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Texts or files; standard input by default."),
    ] = None,
    jsonl: Jsonl = False,
    as_json: Json = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Predict labels, spans or answers for texts or files."""
    silence_libraries(compiler=False)
    check_adapters(ref)
    given = inputs or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not given:
        raise DataError("no input", hint="Give texts as arguments, or lines on standard input")
    parsed = [json_input(text, at) for at, text in enumerate(given, start=1)] if jsonl else None
    with lean_start():
        from adapterhub.workflows.model import load

        model = load(ref, force=force, device=device)
    predictions = model.predict(parsed or given)
    if as_json:
        fields = parsed or [{model.input_field: text} for text in given]
        print_json([{**each, **found} for each, found in zip(fields, predictions, strict=True)])
        return
    for text, found in zip(given, predictions, strict=True):
        say(f"{model.summary(found)}\t{text}")


def chat(
    ref: Ref,
    message: Annotated[
        list[str] | None, typer.Option("--message", "-m", help="User message; exit afterwards.")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Show the base model's answer too.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer in tokens; as in the recipe.")
    ] = None,
    force: Force = False,
    device: Device = None,
) -> None:
    """Chat with a dialogue adapter."""
    silence_libraries(compiler=False)
    check_adapters(ref)
    with lean_start():
        from adapterhub.workflows.model import load

        model = load(ref, force=force, device=device)
    history: list[dict[str, str]] = []
    for turn in message or _turns():
        history.append({"role": "user", "content": turn})
        conversation = [{"messages": history}]
        if base:
            plain = model.generate(conversation, max_new_tokens=max_new_tokens, base=True)
            say(f"base     {plain[0]}")
        (answer,) = model.generate(conversation, max_new_tokens=max_new_tokens)
        say(f"adapter  {answer}" if base else answer)
        history.append({"role": "assistant", "content": answer})


def json_input(text: str, number: int) -> dict[str, Any]:
    """Parse an input given as a JSON object of the task's fields."""
    from adapterhub.data.json_format import parse_json_lines

    return parse_json_lines(text, f"input {number}").examples[0]


def _turns() -> Iterator[str]:
    """Yield the user's turns, typed at a prompt or lines of standard input."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    output().print("an empty line ends the conversation")
    while turn := input("you      ").strip():
        yield turn
