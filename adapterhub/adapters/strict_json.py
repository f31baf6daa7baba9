"""Strict reading of JSON documents into typed values.

Every door reads JSON here: documents over a limit of bytes, duplicate keys, numbers that no float
or 64-bit integer holds, lone surrogates, control characters, deep nesting, unknown keys and values
of another type are an ``ArtifactError`` that names the key, such as
``manifest.json: data.train.rows``.
"""

from __future__ import annotations

import json
import math
import re
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from adapterhub.errors import ArtifactError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")
#: Default limit on the size of a JSON document in bytes: parsing takes up to 30 times as much
#: memory, and 0.3 s for each megabyte.
MAX_JSON = 4 * 1024 * 1024
#: Deepest nesting of a document.
MAX_DEPTH = 32
#: Types of fields, for the annotations of stored dataclasses.
Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Digest = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]

#: Configuration of documents that this project writes.
STRICT: ConfigDict = {
    "extra": "forbid",
    "strict": True,
    "allow_inf_nan": False,
    "defer_build": True,
}
#: Configuration of documents that other programs write, which hold more than is read here.
FOREIGN: ConfigDict = {**STRICT, "extra": "ignore"}

#: pydantic's error type to what the value must be.
_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "an object",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_type": "a finite number",
    "greater_than_equal": "{ge:g} or more",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "string_pattern_mismatch": "{form}",
    "string_type": "text",
    "tuple_type": "a list",
}
_FORMS = {
    "^[0-9a-f]{64}$": "64 hex digits",
    "^sha256:[0-9a-f]{64}$": "'sha256:' and 64 hex digits",
}
#: Characters that break terminals or that UTF-8 does not have.
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
#: Matches JSON text that may hold them, or numbers out of range, after escaping.
_SUSPECT = re.compile(r"\\u[0dD]|[0-9]{19}|[eE]\+?[0-9]{3}|NaN|Infinity|[\x7f-\x9f]")
_INT_LIMIT = 2**63
_INT_DIGITS = 20
_UNKNOWN_KEY = "unexpected_keyword_argument"


def parse_object(content: bytes, place: str, *, limit: int = MAX_JSON) -> dict[str, Any]:
    """Parse a JSON object of plain values, see ``check_plain``; no key may be repeated.

    Args:
        content: Document in UTF-8; read at most ``limit + 1`` bytes of an untrusted source.
        place: Name of the document in error messages.
        limit: Largest size of the document in bytes.

    Raises:
        ArtifactError: Naming the key of the first value that is refused.
    """
    if len(content) > limit:
        raise ArtifactError(f"is larger than the limit of {limit} bytes", place=place)
    try:
        document = json.loads(
            content.decode("utf-8"),
            parse_constant=_no_constant,
            parse_int=_integer,
            object_pairs_hook=_unique,
        )
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"is not valid JSON: {error}", place=place) from error
    if not isinstance(document, dict):
        raise ArtifactError(f"must be an object, found {_shown(document)}", place=place)
    check_plain(document, place)
    return document


def read_object(path: Path, place: str = "", *, limit: int = MAX_JSON) -> dict[str, Any]:
    """Read and parse a JSON file without reading more than its limit; see ``parse_object``."""
    place = place or str(path)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", place=place) from error
    return parse_object(content, place, limit=limit)


def read_stored(text: str) -> Any:
    """Parse JSON that this project stored; what ``check_plain`` refuses today is replaced."""
    value = json.loads(text)
    return replace_unreadable(value) if _SUSPECT.search(text) else value


def check_plain(value: Any, place: str) -> None:
    """Require that any program can read a value again from JSON.

    Refused are lone surrogates and control characters other than tab and line breaks, in keys too,
    numbers beyond 64-bit integers and floats, and nesting deeper than ``MAX_DEPTH``.

    Raises:
        ArtifactError: Naming the key of the first value that is refused.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if any(map(_fault, level)):
            raise _located_fault(value, place)
        inner = [each for each in level if isinstance(each, dict | list | tuple)]
        if not inner:
            return
        level = [value for each in inner for _, value in _inside(each)]
    raise ArtifactError(f"is nested deeper than {MAX_DEPTH} levels", place=place)


def replace_unreadable(value: Any) -> Any:
    """Return JSON data with what ``check_plain`` refuses replaced, for data stored before it.

    Characters become U+FFFD, and numbers are left out of objects and ``None`` in lists.
    """
    if isinstance(value, str):
        return _UNREADABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        kept = ((key, each) for key, each in value.items() if not _is_unreadable_number(each))
        return {replace_unreadable(key): replace_unreadable(each) for key, each in kept}
    if isinstance(value, list | tuple):
        return [replace_unreadable(each) for each in value]
    return None if _is_unreadable_number(value) else value


def canonical_json(document: Any, place: str) -> bytes:
    """Serialize a document with sorted keys, two spaces and one newline at the end."""
    try:
        text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"cannot be written: {error}", place=place) from error


def finite(value: Any) -> Any:
    """Return plain data with ``None`` for numbers that JSON can't hold."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Schema(Generic[T]):
    """Reads and writes one type of document."""

    def __init__(self, kind: type[T], *, complete: bool = True) -> None:
        """Create the schema of a dataclass.

        Args:
            kind: Dataclass with ``__pydantic_config__`` set to ``STRICT`` or ``FOREIGN``.
            complete: Require every key, also those of fields with a default.
        """
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        self._complete = complete

    def read(self, document: Mapping[str, Any], place: str) -> T:
        """Validate a parsed document."""
        try:
            # JSON mode accepts lists for tuples and nothing else that strict mode would not
            value = self._adapter.validate_json(json.dumps(document))
        except ValidationError as error:
            raise self._translate(error, document, place) from error
        if self._complete:
            _require_keys(self.dump(value), document, place)
        return value

    def dump(self, value: T) -> Any:
        """Return a value as plain JSON data."""
        return self._adapter.dump_python(value, mode="json", by_alias=True, warnings=False)

    def _translate(
        self, error: ValidationError, document: Mapping[str, Any], place: str
    ) -> ArtifactError:
        order = {_UNKNOWN_KEY: 0, "missing": 1}
        found = min(
            error.errors(include_url=False),
            key=lambda each: (order.get(each["type"], 2), str(each["loc"])),
        )
        kind, context, loc = found["type"], found.get("ctx", {}), found["loc"]
        for part in _document_path(loc, document, absent=kind in (_UNKNOWN_KEY, "missing")):
            place = f"{place}[{part}]" if isinstance(part, int) else at(place, part)
        if kind == _UNKNOWN_KEY:
            hint = did_you_mean(str(loc[-1]), self._known_keys(loc[:-1]))
            return ArtifactError("is an unknown key", place=place, hint=hint)
        if kind in ("missing", "union_tag_not_found"):
            key = context.get("discriminator", "").strip("'")
            return ArtifactError("is missing", place=at(place, key) if key else place)
        if kind == "union_tag_invalid":
            place = at(place, context["discriminator"].strip("'"))
            return _not_known(context["tag"], context["expected_tags"], place)
        if kind == "literal_error":
            return _not_known(found["input"], context["expected"], place)
        problem = found["msg"].lower()
        if kind in _EXPECTED:
            form = _FORMS.get(context.get("pattern", ""), "text of another form")
            problem = f"must be {_EXPECTED[kind].format(**context, form=form)}"
        return ArtifactError(f"{problem}, found {_shown(found['input'])}", place=place)

    def _known_keys(self, loc: Sequence[int | str]) -> list[str]:
        """Return the keys of the object at a location of pydantic's."""
        node = self._resolved(self._json_schema)
        for part in loc:
            if "discriminator" in node:
                node = {"$ref": node["discriminator"]["mapping"][part]}
            else:
                node = node.get("properties", {}).get(part) or node.get(
                    "items" if isinstance(part, int) else "additionalProperties", {}
                )
            node = self._resolved(node)
        return list(node.get("properties", {}))

    @cached_property
    def _json_schema(self) -> dict[str, Any]:
        return self._adapter.json_schema()

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        name = node.get("$ref", "").rpartition("/")[2]
        resolved: dict[str, Any] = self._json_schema["$defs"][name] if name else node
        return resolved


def at(place: str, key: str) -> str:
    """Return the place of ``key`` inside ``place``, e.g. ``manifest.json: data.train``."""
    return f"{place}.{key}" if ": " in place else f"{place}: {key}"


def _document_path(loc: Sequence[int | str], document: Any, *, absent: bool) -> list[int | str]:
    """Return a location of pydantic's without the names of union members.

    Args:
        absent: Whether the last key is not in the document.
    """
    path: list[int | str] = []
    for part in loc:
        inside = isinstance(part, int) or (isinstance(document, dict) and part in document)
        if inside:
            document = document[part]
            path.append(part)
    return [*path, *loc[-1:]] if absent and path[-1:] != [*loc[-1:]] else path


def _require_keys(written: Any, given: Any, place: str) -> None:
    if isinstance(written, dict):
        for key, value in written.items():
            if key not in given:
                raise ArtifactError("is missing", place=at(place, key))
            _require_keys(value, given[key], at(place, key))
    elif isinstance(written, list):
        for index, (value, other) in enumerate(zip(written, given, strict=True)):
            _require_keys(value, other, f"{place}[{index}]")


def _not_known(value: Any, expected: str, place: str) -> ArtifactError:
    known = re.findall(r"'([^']*)'", expected)
    return ArtifactError(
        f"is {_shown(value)}, which is unknown", place=place, hint=did_you_mean(str(value), known)
    )


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def _fault(value: Any) -> str:
    """Return what is wrong with one value, without those inside; empty if it is plain."""
    if value is None or isinstance(value, list):
        return ""
    if isinstance(value, str):
        return text_fault(value)
    if isinstance(value, dict):
        return next(filter(None, map(text_fault, filter(_is_text, value))), "")
    if _is_unreadable_number(value):
        return "must be a finite number of at most 64 bits"
    return ""


def text_fault(text: str) -> str:
    """Return what is wrong with a text, as ``check_plain`` says; empty if it is plain."""
    found = _UNREADABLE.search(text)
    if found is None:
        return ""
    kind = "a lone surrogate" if found[0] >= "\ud800" else "a control character"
    return f"has {kind} at character {found.start() + 1}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_unreadable_number(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and not -_INT_LIMIT <= value < _INT_LIMIT


def _located_fault(value: Any, place: str) -> ArtifactError:
    """Return the error of the first value that is not plain, with its place."""
    level: list[tuple[str, Any]] = [(place, value)]
    while True:
        for where, each in level:
            if problem := _fault(each):
                return ArtifactError(f"{problem}, found {_shown(each)}", place=where)
        level = [
            (f"{where}[{key}]" if isinstance(key, int) else at(where, key), inner)
            for where, each in level
            for key, inner in _inside(each)
        ]


def _inside(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple) else ()


def _integer(digits: str) -> int | float:
    # int() is quadratic in the number of digits, and refuses more than 4300 with its own words
    return int(digits) if len(digits) <= _INT_DIGITS else math.inf


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key occurs twice in the object with the keys {sorted(found)[:5]}")
    return found
