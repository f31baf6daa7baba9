"""Table of the shapes that examples have elsewhere, recognized by their columns."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from adapterhub.data.shapes import annotation_tools, boxes, chat, texts
from adapterhub.data.store import store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from adapterhub.data.dataset import Dataset
    from adapterhub.data.store import Example

ShapeName = Literal[
    "openai",
    "sharegpt",
    "alpaca",
    "kto",
    "completion",
    "preference",
    "pairs",
    "triplets",
    "squad",
    "label-studio",
    "prodigy",
    "doccano",
    "coco",
]
_PROMPTS = ("prompt", "completion")


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape of examples.

    Args:
        name: Its name in ``data.format``.
        title: Its name in messages, in the plural.
        matches: Whether an example has this shape.
        convert: Yields an example under the field names of tasks, given also its place; none where
            annotation left it out.
    """

    name: ShapeName
    title: str
    matches: Callable[[Example], bool]
    convert: Callable[[Example, str], Iterator[Example]]


def _has(*names: str) -> Callable[[Example], bool]:
    return lambda example: all(name in example for name in names)


def _is_alpaca(example: Example) -> bool:
    return "instruction" in example and ("output" in example or "response" in example)


def _is_sharegpt(example: Example) -> bool:
    turns = example.get("turns")
    is_turns = isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)
    return "conversations" in example or is_turns


def _is_kto(example: Example) -> bool:
    return _has(*_PROMPTS)(example) and isinstance(example.get("label"), bool)


def _is_prodigy(example: Example) -> bool:
    return isinstance(example.get("text"), str) and (
        "spans" in example or ("answer" in example and "_task_hash" in example)
    )


#: The first that matches counts.
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("openai", "OpenAI's messages", _has("messages"), chat.openai),
        Shape("sharegpt", "ShareGPT conversations", _is_sharegpt, chat.sharegpt),
        Shape("preference", "preference pairs", _has("chosen", "rejected"), chat.preference),
        Shape("kto", "answers rated good or bad (KTO)", _is_kto, chat.kto),
        Shape("alpaca", "Alpaca instructions", _is_alpaca, chat.alpaca),
        Shape("completion", "prompts and completions", _has(*_PROMPTS), chat.completion),
        Shape(
            "triplets",
            "anchors with similar texts (pairs or triplets)",
            lambda each: "positive" in each and ("anchor" in each or "query" in each),
            texts.triplets,
        ),
        Shape(
            "pairs",
            "pairs of texts",
            lambda each: texts.pair_columns(each) is not None,
            texts.pairs,
        ),
        Shape("squad", "documents with questions (SQuAD)", _has("paragraphs"), texts.squad),
        Shape("coco", "boxes of COCO", boxes.is_coco, boxes.coco),
        Shape(
            "label-studio",
            "tasks of Label Studio",
            _has("data", "annotations"),
            annotation_tools.label_studio,
        ),
        Shape("prodigy", "annotations of Prodigy", _is_prodigy, annotation_tools.prodigy),
        Shape(
            "doccano",
            "texts with spans (doccano)",
            lambda each: annotation_tools.span_column(each) is not None,
            annotation_tools.doccano,
        ),
    )
}


def recognized(dataset: Dataset) -> Shape | None:
    """Return the shape of the first example, if it is one of the table."""
    first = dataset.examples[0]
    return next((shape for shape in SHAPES.values() if shape.matches(first)), None)


def converted(dataset: Dataset, shape: Shape) -> Dataset:
    """Return the examples of a shape under the field names of tasks, with a note on the shape.

    Raises:
        DataError: naming the example that does not have the shape.
    """
    origins = array("q")

    def examples() -> Iterator[Example]:
        for index, example in enumerate(dataset.examples):
            for found in shape.convert(example, dataset.place(index)):
                origins.append(index)
                yield found

    kept = store(examples())
    left_out = len(dataset) - len(set(origins))
    notes = [f"{dataset.name}: read as {shape.title} (data.format: {shape.name})"]
    if left_out:
        notes.append(f"{dataset.name}: {left_out} examples without an accepted annotation left out")
    placed = dataset.select(origins)
    return replace(placed, examples=kept, untyped=dataset.untyped).noting(*notes)
