"""Exports of annotation tools: doccano, Label Studio and Prodigy.

Spans become ``text`` and ``spans`` of start, end and label, with offsets in characters; choices
become ``text`` and ``label``; rectangles become ``image`` and ``objects``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from adapterhub.data.store import Example

#: Columns in which doccano and spaCy write spans.
_SPAN_COLUMNS = ("entities", "label", "labels")
_STARTS, _ENDS = ("start", "start_offset"), ("end", "end_offset")
_UNITS = 100.0


def span_column(example: Example) -> str | None:
    """Return the column with spans by offset of an example of doccano, if it has one."""
    if not isinstance(example.get("text"), str):
        return None
    for name in _SPAN_COLUMNS:
        value = example.get(name)
        if not isinstance(value, list) or not (value or name == "entities"):
            continue
        if all(isinstance(item, list | dict) for item in value):
            return name
    # an example without entities among others
    return next((n for n in ("labels", "label") if example.get(n) == []), None)


def doccano(example: Example, place: str) -> Iterator[Example]:
    """Yield ``text`` and spans of doccano's JSON Lines, or of spaCy's form."""
    name = span_column(example)
    if name is None:
        raise DataError("has no text with a list of spans by offset", place=place)
    yield {"text": example["text"], "spans": [_span(each, place) for each in example[name]]}


def prodigy(example: Example, place: str) -> Iterator[Example]:
    """Yield ``text`` and spans, or ``text`` and label, of an accepted answer in Prodigy."""
    if example.get("answer", "accept") != "accept":
        return
    text = example.get("text")
    if isinstance(example.get("spans"), list):
        yield {"text": text, "spans": [_span(each, place) for each in example["spans"]]}
    elif isinstance(example.get("accept"), list):
        accepted = example["accept"]
        yield {"text": text, "label": accepted[0] if len(accepted) == 1 else accepted}
    else:
        yield {"text": text, "label": example.get("label")}


def label_studio(example: Example, place: str) -> Iterator[Example]:
    """Yield what the first annotation of a task of Label Studio says; nothing without one."""
    results = next(
        (
            each.get("result") or []
            for each in example.get("annotations") or ()
            if isinstance(each, dict) and not each.get("was_cancelled")
        ),
        None,
    )
    if results is None:
        return
    data = example.get("data")
    if not isinstance(data, dict):
        raise DataError("has no data", place=place)
    kinds = {each.get("type") for each in results}
    if "rectanglelabels" in kinds:
        image = _only_text(data, place, ("image", "img"))
        yield {"image": image.rsplit("/", 1)[-1], "objects": _rectangles(results, place)}
        return
    text = _only_text(data, place, ("text",))
    if "choices" in kinds:
        chosen = [c for r in results if r.get("type") == "choices" for c in r["value"]["choices"]]
        yield {"text": text, "label": chosen[0] if len(chosen) == 1 else chosen}
        return
    spans = [
        _span({**value, "label": label}, place)
        for result in results
        if result.get("type") in ("labels", "hypertextlabels")
        for value in (result.get("value") or {},)
        for label in value.get("labels") or ()
    ]
    yield {"text": text, "spans": spans}


def _only_text(data: dict[str, Any], place: str, names: Sequence[str]) -> str:
    """Return the text of a task: under its usual name, or the only text there is."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    for name in names:
        if name in texts:
            return texts[name]
    if len(texts) == 1:
        return next(iter(texts.values()))
    raise DataError(f"data has no {names[0]!r}; keys: {', '.join(data) or '(none)'}", place=place)


def _rectangles(results: Sequence[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    """Return boxes ``[x, y, width, height]`` in pixels; Label Studio writes percent."""
    found = []
    for result in results:
        if result.get("type") != "rectanglelabels":
            continue
        value = result.get("value") or {}
        try:
            wide, high = result["original_width"] / _UNITS, result["original_height"] / _UNITS
            box = [
                value["x"] * wide,
                value["y"] * high,
                value["width"] * wide,
                value["height"] * high,
            ]
            label = value["rectanglelabels"][0]
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"a rectangle is not complete: {error}", place=place) from error
        if value.get("rotation"):
            raise DataError("a rectangle is rotated, which boxes can't be", place=place)
        found.append({"bbox": box, "label": label})
    return found


def _span(item: Any, place: str) -> list[Any]:
    """Return start, end and label of a span given as a list or an object."""
    if isinstance(item, list) and len(item) == 3:
        start, end, label = item
    elif isinstance(item, dict):
        start = next((item[key] for key in _STARTS if key in item), None)
        end = next((item[key] for key in _ENDS if key in item), None)
        label = item.get("label")
    else:
        start = end = label = None
    plain = [type(value) is int for value in (start, end)]
    if not all(plain) or not isinstance(label, str) or not label:
        raise DataError(f"a span needs start, end and label, found {item!r:.80}", place=place)
    return [start, end, label]
