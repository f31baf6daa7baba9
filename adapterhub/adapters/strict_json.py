"""Readers of stored JSON that accept exactly what is expected and name the key otherwise.

A reader maps a parsed value and its place, such as ``manifest.json: data.train``, to the value
to keep, or raises ``ArtifactError`` with that place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from adapterhub.errors import ArtifactError, did_you_mean

if TYPE_CHECKING:
    import re

T = TypeVar("T")
Reader = Callable[[Any, str], Any]


def parse_object(content: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object; repeated keys and ``NaN`` are refused.

    Raises:
        ArtifactError: when ``content`` is anything else.
    """
    try:
        document = json.loads(
            content.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"is not valid JSON: {error}", place=place) from error
    return mapping(document, place)


def record(build: Callable[..., T], readers: Mapping[str, Reader]) -> Callable[[Any, str], T]:
    """Return a reader of objects that have exactly the keys of ``readers``.

    Args:
        build: called with one keyword argument a key.
        readers: key to the reader of its value.
    """

    def read(value: Any, place: str) -> T:
        found = mapping(value, place)
        for key in sorted(found.keys() - readers.keys()):
            raise ArtifactError(
                "is an unknown key", place=at(place, key), hint=did_you_mean(key, readers)
            )
        for key in sorted(readers.keys() - found.keys()):
            raise ArtifactError("is missing", place=at(place, key))
        return build(**{key: read(found[key], at(place, key)) for key, read in readers.items()})

    return read


def map_of(reader: Reader) -> Callable[[Any, str], dict[str, Any]]:
    """Return a reader of objects with any keys, whose values ``reader`` reads."""

    def read(value: Any, place: str) -> dict[str, Any]:
        items = mapping(value, place).items()
        return {key: reader(item, at(place, key)) for key, item in items}

    return read


def optional(reader: Reader) -> Reader:
    """Return a reader that also accepts null."""
    return lambda value, place: None if value is None else reader(value, place)


def one_of(known: tuple[str, ...]) -> Reader:
    """Return a reader of the given words."""

    def read(value: Any, place: str) -> str:
        if value not in known:
            raise ArtifactError(
                f"is {_shown(value)}, which is unknown",
                place=place,
                hint=did_you_mean(str(value), known),
            )
        return str(value)

    return read


def matching(pattern: re.Pattern[str], what: str) -> Reader:
    """Return a reader of text that ``pattern`` matches as a whole; ``what`` describes it."""

    def read(value: Any, place: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise must(what, value, place)
        return value

    return read


def mapping(value: Any, place: str) -> dict[str, Any]:
    """Read an object, its values as they are."""
    if not isinstance(value, dict):
        raise must("an object", value, place)
    return value


def text(value: Any, place: str) -> str:
    """Read a string."""
    if not isinstance(value, str):
        raise must("text", value, place)
    return value


def texts(value: Any, place: str) -> tuple[str, ...]:
    """Read a list of strings."""
    if not isinstance(value, list):
        raise must("a list", value, place)
    return tuple(text(item, f"{place}[{index}]") for index, item in enumerate(value))


def flag(value: Any, place: str) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise must("true or false", value, place)
    return value


def integer(value: Any, place: str) -> int:
    """Read a whole number."""
    if type(value) is not int:
        raise must("a whole number", value, place)
    return value


def count(value: Any, place: str) -> int:
    """Read a whole number of 0 or more."""
    if integer(value, place) < 0:
        raise must("0 or more", value, place)
    return int(value)


def number(value: Any, place: str) -> float:
    """Read a finite number as a float."""
    # 1e999 is valid JSON and reads as infinity
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise must("a finite number", value, place)
    return float(value)


def at(place: str, key: str) -> str:
    """Return the place of ``key`` inside ``place``, e.g. ``manifest.json: data.train``."""
    return f"{place}.{key}" if ": " in place else f"{place}: {key}"


def must(what: str, value: Any, place: str) -> ArtifactError:
    """Return the error that says what a value had to be, and what it is."""
    return ArtifactError(f"must be {what}, found {_shown(value)}", place=place)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key occurs twice in the object with the keys {sorted(found)[:5]}")
    return found
