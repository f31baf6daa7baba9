"""JSON Lines: one JSON object a line."""

from __future__ import annotations

import json
from typing import Any

from adapterhub.data.source import Rows, numbered
from adapterhub.errors import DataError


def parse_json_lines(text: str, origin: str) -> Rows:
    """Return one row for each line that is not blank.

    Args:
        text: of the file.
        origin: how errors name the file.

    Raises:
        DataError: naming the line that is not an object in plain JSON.
    """
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    # only line feeds end a line: a JSON string may hold U+2028 and others as they are
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(_parse(line, f"{origin} line {number}"))
            lines.append(number)
    return numbered(origin, rows, lines)


def _parse(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise DataError(
            f"is not valid JSON: {error.msg} at column {error.colno}",
            place=place,
            hint=_document_hint(line),
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not valid JSON: {error}", place=place) from error
    if not isinstance(row, dict):
        raise DataError(
            f"must be a JSON object, not {type(row).__name__}",
            place=place,
            hint=_document_hint(line),
        )
    _check_characters(line, row, place)
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return row


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check_characters(line: str, row: dict[str, Any], place: str) -> None:
    """Refuse half a surrogate pair: ``json`` lets it pass, tokenizers and files do not."""
    if "\\ud" not in line.lower():
        return
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError("holds one half of a character, such as \\ud83d", place=place) from error


def _document_hint(line: str) -> str:
    if line.strip() in ("{", "[") or line.lstrip().startswith("["):
        return "JSON Lines has one whole object a line; this looks like one JSON document"
    return ""
