"""JSON Lines: one JSON object a line."""

from __future__ import annotations

import json
from typing import Any

from adapterhub.data.dataset import Dataset, numbered
from adapterhub.errors import DataError


def parse_json_lines(text: str, origin: str) -> Dataset:
    """Return one example for each line that is not blank.

    Args:
        text: of the file.
        origin: how errors name the file.

    Raises:
        DataError: naming the line that is not an object in plain JSON.
    """
    examples: list[dict[str, Any]] = []
    lines: list[int] = []
    # only line feeds end a line: a JSON string may hold U+2028 and others as they are
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            examples.append(_parse(line, f"{origin} line {number}"))
            lines.append(number)
    return numbered(origin, examples, lines)


def _parse(line: str, place: str) -> dict[str, Any]:
    try:
        example = json.loads(line, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise DataError(
            f"is not valid JSON: {error.msg} at column {error.colno}",
            place=place,
            hint=_document_hint(line),
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not valid JSON: {error}", place=place) from error
    if not isinstance(example, dict):
        raise DataError(
            f"must be a JSON object, not {type(example).__name__}",
            place=place,
            hint=_document_hint(line),
        )
    _check_characters(line, example, place)
    return example


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    example = dict(pairs)
    if len(example) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return example


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check_characters(line: str, example: dict[str, Any], place: str) -> None:
    """Refuse half a surrogate pair: ``json`` lets it pass, tokenizers and files do not."""
    if "\\ud" not in line.lower():
        return
    try:
        json.dumps(example, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError("holds one half of a character, such as \\ud83d", place=place) from error


def _document_hint(line: str) -> str:
    if line.strip() in ("{", "[") or line.lstrip().startswith("["):
        return "JSON Lines has one whole object a line; this looks like one JSON document"
    return ""
