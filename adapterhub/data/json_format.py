"""JSON Lines, and JSON documents with a list of examples."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from adapterhub.data.dataset import Dataset
from adapterhub.data.files import check_size
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: An example with the line on which it starts.
Numbered: TypeAlias = "Iterable[tuple[int, dict[str, Any]]]"


def parse_json_lines(text: str, origin: str) -> Dataset:
    """Return one example for each line that is not blank; see ``json_examples``."""
    return Dataset.read(origin, _lines(text.split("\n"), origin))


def json_examples(lines: Iterable[str], origin: str) -> Numbered:
    """Yield the examples of JSON Lines, or of a document that is a list of objects.

    Args:
        lines: Lines of the file; only line feeds end a line, because a JSON string may hold U+2028
            and others unescaped.
        origin: Name in messages.

    Raises:
        DataError: naming the line that is not a plain JSON object, or where the list is at fault.
    """
    before: list[str] = []
    remaining = iter(lines)
    for line in remaining:
        before.append(line)
        if line.strip():
            break
    everything = chain(before, remaining)
    if before and before[-1].lstrip().startswith("["):
        return _items(_joined(everything, origin), origin)
    return _lines(everything, origin)


def json_document(lines: Iterable[str], origin: str) -> tuple[Numbered, dict[str, Any] | None]:
    """Return the examples of a ``.json`` file, or the object that it is.

    The file may be a list of objects, JSON Lines, or one object; a list of objects that is the only
    one in an object is the list of examples.

    Raises:
        DataError: naming the line at fault.
    """
    text = _joined(lines, origin)
    if text.lstrip().startswith("["):
        return _items(text, origin), None
    if not text.lstrip().startswith("{"):
        return _lines(text.split("\n"), origin), None
    try:
        whole, end = _DECODER.raw_decode(text, _start(text, 0))
    except (ValueError, RecursionError) as error:
        raise _syntax(error, text, origin, 0) from error
    if text[end:].strip():
        return _lines(text.split("\n"), origin), None
    _check_characters(text, whole, origin)
    lists = [key for key, value in whole.items() if _is_list_of_objects(value)]
    if len(lists) == 1:
        return ((0, example) for example in whole[lists[0]]), None
    return (), whole


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _joined(lines: Iterable[str], origin: str) -> str:
    parts: list[str] = []
    size = 0
    for line in lines:
        size += len(line)
        check_size(size, origin)
        parts.append(line)
    return "".join(parts)


def _lines(lines: Iterable[str], origin: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _parse_object(line, f"{origin} line {number}")


def _items(text: str, origin: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON list one by one, so that only one is decoded at a time."""
    at, line, counted = _start(text, 0) + 1, 1, 0
    at = _start(text, at)
    first = True
    while text[at : at + 1] != "]":
        if not first:
            at = _start(text, _expect(",", text, at, origin) + 1)
        first = False
        line, counted = line + text.count("\n", counted, at), at
        place = f"{origin} line {line}"
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _syntax(error, text, origin, at) from error
        yield line, _checked(text[at:end], value, place)
        at = _start(text, end)
    if rest := text[at + 1 :].strip():
        raise DataError(
            f"text follows the end of the list: {rest!r:.40}",
            place=f"{origin} line {text.count(chr(10), 0, at) + 1}",
        )


def _expect(character: str, text: str, at: int, origin: str) -> int:
    if text[at : at + 1] == character:
        return at
    found = repr(text[at]) if at < len(text) else "the end of the file"
    raise DataError(
        f"is not valid JSON: expecting {character!r} or ']' after an item, found {found}",
        place=f"{origin} line {text.count(chr(10), 0, at) + 1}",
        hint="Was the file written to its end?" if at >= len(text) else "",
    )


def _start(text: str, at: int) -> int:
    """Return the position of the next character that is not white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _syntax(error: Exception, text: str, origin: str, at: int) -> DataError:
    position = error.pos if isinstance(error, json.JSONDecodeError) else at
    message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return DataError(
        f"is not valid JSON: {message} at column {column}", place=f"{origin} line {line}"
    )


def _parse_object(line: str, place: str) -> dict[str, Any]:
    try:
        example = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"is not valid JSON: {error.msg} at column {error.colno}",
            place=place,
            hint=_document_hint(line),
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not valid JSON: {error}", place=place) from error
    return _checked(line, example, place)


def _checked(text: str, example: Any, place: str) -> dict[str, Any]:
    if not isinstance(example, dict):
        raise DataError(
            f"must be a JSON object, not {type(example).__name__}",
            place=place,
            hint=_document_hint(text),
        )
    _check_characters(text, example, place)
    return example


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    example = dict(pairs)
    if len(example) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is repeated")
    return example


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_reject_constant)


def _check_characters(line: str, example: dict[str, Any], place: str) -> None:
    """Reject half a surrogate pair: ``json`` accepts it, tokenizers and files do not."""
    if "\\ud" not in line.lower():
        return
    try:
        json.dumps(example, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError("holds one half of a character, such as \\ud83d", place=place) from error


def _document_hint(line: str) -> str:
    if line.strip() in ("{", "[") or line.lstrip().startswith("["):
        return (
            "JSON Lines has one whole object a line; this looks like one JSON document, "
            "which is read as a list of objects (data.format: json)"
        )
    return ""
