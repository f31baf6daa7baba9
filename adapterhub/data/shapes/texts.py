"""Pairs and triplets of texts, and questions nested in documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adapterhub.data.store import Example

#: Names that data sets give to the two texts of a pair.
PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)


def pair_columns(example: Example) -> tuple[str, str] | None:
    """Return the names of the two texts of an example, if it has such."""
    return next((names for names in PAIR_COLUMNS if all(name in example for name in names)), None)


def pairs(example: Example, place: str) -> Iterator[Example]:
    """Yield two texts and their label as ``text``, ``text_pair`` and ``label``."""
    names = pair_columns(example)
    if names is None:
        raise DataError("has no two texts", place=place)
    first, second = names
    label = example.get("label", example.get("score"))
    yield {"text": example[first], "text_pair": example[second], "label": label}


def triplets(example: Example, place: str) -> Iterator[Example]:
    """Yield ``anchor`` (or ``query``), ``positive`` and, where there is one, ``negative``."""
    anchor = example.get("anchor", example.get("query"))
    found = {"anchor": anchor, "positive": example.get("positive")}
    if example.get("negative") is not None:
        found["negative"] = example["negative"]
    yield found


def squad(example: Example, place: str) -> Iterator[Example]:
    """Yield each question of a document of SQuAD's own files, with its paragraph and answers."""
    for paragraph in _objects(example, "paragraphs", place):
        for question in _objects(paragraph, "qas", place):
            answers = [each for each in question.get("answers") or () if isinstance(each, dict)]
            yield {
                "context": paragraph.get("context"),
                "question": question.get("question"),
                "answers": {
                    "text": [each.get("text") for each in answers],
                    "answer_start": [each.get("answer_start") for each in answers],
                },
            }


def _objects(parent: dict[str, Any], key: str, place: str) -> list[dict[str, Any]]:
    items = parent.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{key} must be a list of objects", place=place)
    return items
