"""Label names of a data set."""

from __future__ import annotations

import numbers
from collections import Counter
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.strict_json import text_fault
from adapterhub.errors import DataError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from adapterhub.data.dataset import Dataset


def count_labels(
    train: Dataset,
    others: Mapping[str, Dataset],
    *,
    field: str,
    sequence: bool = False,
    repair: Callable[[list[str]], list[str]] | None = None,
) -> dict[str, int]:
    """Return the frequency of each label in the training data: numbers by value, then names.

    Args:
        train: Dataset that defines the labels.
        others: Further splits by name, which must not have other labels.
        field: Field of the label.
        sequence: Whether the field holds a list of labels.
        repair: Function applied to the labels of an example first, such as a BIO repair.

    Raises:
        DataError: naming split, example and label, when a label is not in the training data; or
            the example with an invalid label.
    """
    options = field, sequence, repair
    counts = Counter(name for at in range(len(train)) for name in _labels(train, at, *options))
    for split, dataset in others.items():
        for index in range(len(dataset)):
            for name in _labels(dataset, index, *options):
                if name not in counts:
                    raise DataError(
                        f"the label {name!r} occurs in the {split} split only",
                        place=dataset.place(index),
                        hint=_unknown_hint(name, counts),
                    )
    return {name: counts[name] for name in sorted(counts, key=_sort_key)}


def require_two_labels(names: Collection[str]) -> None:
    """Require at least two labels, without which there is nothing to choose from."""
    if len(names) < 2:
        raise RecipeError(
            f"a classifier needs two labels, the training examples have {len(names)}",
            place="data.train",
        )


def label_name(value: Any, place: str) -> str:
    """Return a label as text: ``1`` and ``1.0`` give ``"1"``, ``True`` gives ``"true"``.

    Raises:
        DataError: when the value is neither text nor a whole number.
    """
    if isinstance(value, str) and value:
        if problem := text_fault(value):
            raise DataError(f"a label {problem}, found {value!r:.80}", place=place)
        return value
    if value is None or value == "":
        raise DataError("the label is empty", place=place)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, numbers.Real) and float(value).is_integer():
        return str(int(float(value)))
    raise DataError(f"a label must be a name or a whole number, not {value!r}", place=place)


def _sort_key(name: str) -> tuple[int, int, str]:
    return (0, int(name), "") if is_whole_number(name) else (1, 0, name)


def is_whole_number(name: str) -> bool:
    """Return whether a label is written as a whole number."""
    return name.isascii() and name.removeprefix("-").isdigit()


def _labels(
    dataset: Dataset,
    index: int,
    field: str,
    sequence: bool,
    repair: Callable[[list[str]], list[str]] | None,
) -> list[str]:
    place = f"{dataset.place(index)}, field {field!r}"
    value = dataset.examples[index].get(field)
    if value is None:
        raise DataError("the label is missing", place=place)
    if sequence and not isinstance(value, list | tuple):
        raise DataError(f"must be a list of labels, not {type(value).__name__}", place=place)
    names = [label_name(each, place) for each in (value if sequence else [value])]
    return repair(names) if repair else names


def _unknown_hint(name: str, known: Iterable[str]) -> str:
    guess = did_you_mean(name, known)
    learned = "No training example has it, so it can't be learned"
    return f"{guess} {learned}" if guess.startswith("Did you mean") else learned
