"""The label names of a data set."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from adapterhub.data.dataset import Dataset


def collect_labels(
    train: Dataset,
    others: Mapping[str, Dataset],
    *,
    field: str,
    sequence: bool = False,
    repair: Callable[[list[str]], list[str]] | None = None,
) -> tuple[str, ...]:
    """Return the label names of the training examples: numbers by value, then names by alphabet.

    Args:
        train: decides the labels.
        others: split name to examples; they must not have labels of their own.
        field: that holds the label.
        sequence: whether the field holds a list of labels.
        repair: applied to the labels of an example before they count, such as a BIO repair.

    Raises:
        DataError: naming split, example and label, when a label is not in training; or the example
            whose label is none.
    """
    known = {
        name
        for index in range(len(train))
        for name in _labels(train, index, field, sequence, repair)
    }
    for split, examples in others.items():
        for index in range(len(examples)):
            for name in _labels(examples, index, field, sequence, repair):
                if name not in known:
                    raise DataError(
                        f"the label {name!r} occurs in the {split} split only",
                        place=examples.place(index),
                        hint=_unknown_hint(name, known),
                    )
    return tuple(sorted_labels(known))


def label_name(value: Any, place: str) -> str:
    """Return a label as text: ``1`` and ``1.0`` give ``"1"``, ``True`` gives ``"true"``.

    Raises:
        DataError: when the value is neither text nor a whole number.
    """
    if isinstance(value, str) and value:
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, numbers.Real) and float(value).is_integer():
        return str(int(float(value)))
    raise DataError(f"a label must be a name or a whole number, not {value!r}", place=place)


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """Return labels in a fixed order: whole numbers by value, then names by alphabet."""
    return sorted(
        labels, key=lambda name: (0, int(name), "") if is_whole_number(name) else (1, 0, name)
    )


def is_whole_number(name: str) -> bool:
    """Tell whether a label is written as a whole number."""
    return name.isascii() and name.removeprefix("-").isdigit()


def _labels(
    examples: Dataset,
    index: int,
    field: str,
    sequence: bool,
    repair: Callable[[list[str]], list[str]] | None,
) -> list[str]:
    place = f"{examples.place(index)}, field {field!r}"
    value = examples.examples[index].get(field)
    if value is None:
        raise DataError("the label is missing", place=place)
    if sequence and not isinstance(value, list | tuple):
        raise DataError(f"must be a list of labels, not {type(value).__name__}", place=place)
    names = [label_name(each, place) for each in (value if sequence else [value])]
    return repair(names) if repair else names


def _unknown_hint(name: str, known: set[str]) -> str:
    guess = did_you_mean(name, known)
    learned = "No training example has it, so it can't be learned"
    return f"{guess} {learned}" if guess.startswith("Did you mean") else learned
