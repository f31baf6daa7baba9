"""Label names, their order, and the weight of each class in the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.data.labels import is_whole_number, label_name
from adapterhub.errors import DataError, RecipeError, did_you_mean
from adapterhub.tasks.fields import place_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class LabelIndex:
    """The labels of a task, in the order of the head's outputs."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Index label names.

        Raises:
            RecipeError: when there are fewer than two labels, or a label twice.
        """
        self.names = tuple(labels)
        self._index = {name: index for index, name in enumerate(self.names)}
        if len(self._index) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise RecipeError(f"the label {twice!r} is listed twice", place="task.labels")
        if len(self.names) < 2:
            raise RecipeError(
                f"a classifier needs two labels, the training examples have {len(self.names)}",
                place="data.train",
            )
        self._numbered = any(is_whole_number(name) for name in self.names)

    def name(self, value: Any, number: int, field: str) -> str:
        """Return the label name that an example's value stands for.

        An integer stands for the label written with it, or, where no label is written as
        an integer, for the label at that place.

        Raises:
            DataError: when the value is no label.
        """
        text = label_text(value, number, field)
        if text not in self._index and not self._numbered and not isinstance(value, str):
            place = int(value)
            if 0 <= place < len(self.names):
                return self.names[place]
        return text

    def index(self, value: Any, number: int, field: str) -> int:
        """Return the index of the label that an example's value stands for.

        Raises:
            DataError: when the value is no label, or one that training never saw.
        """
        name = self.name(value, number, field)
        if name not in self._index:
            raise DataError(
                f"the label {name!r} is not among the {len(self.names)} training labels",
                place=place_of(number, field),
                hint=did_you_mean(name, self.names),
            )
        return self._index[name]


def label_text(value: Any, number: int, field: str) -> str:
    """Return an example's label as text, as :func:`adapterhub.data.labels.label_name`.

    Raises:
        DataError: naming example and field, when the value is neither text nor a whole number.
    """
    return label_name(value, place_of(number, field))


def label_list(value: Any, number: int, field: str) -> list[Any]:
    """Return an example's list of labels, which may be empty; one label alone makes a list of one.

    Raises:
        DataError: naming example and field, when a label is in it twice.
    """
    labels = list(value) if isinstance(value, list | tuple) else [value]
    names = [label_text(label, number, field) for label in labels]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the label {twice!r} is there twice", place=place_of(number, field))
    return labels


def class_weight_values(
    labels: Sequence[str],
    setting: str | Mapping[str, float] | None,
    counts: Mapping[str, int] | None,
) -> list[float] | None:
    """Return a loss weight for each label, or ``None`` where all count the same.

    Args:
        labels: in the order of the head's outputs.
        setting: ``None``; ``"balanced"`` for ``n / (classes * n_label)``, as scikit-learn's
            ``compute_class_weight``; or a weight per label name, 1 for those left out.
        counts: how often each label is a target in the training examples.

    Raises:
        RecipeError: when the setting does not fit the labels.
    """
    if setting is None:
        return None
    if isinstance(setting, str):
        return _balanced(labels, setting, counts)
    for name in setting:
        if name not in labels:
            raise RecipeError(
                f"there is no label {name!r}",
                place="task.class_weights",
                hint=did_you_mean(name, labels),
            )
    return [float(setting.get(name, 1.0)) for name in labels]


def _balanced(labels: Sequence[str], setting: str, counts: Mapping[str, int] | None) -> list[float]:
    place = "task.class_weights"
    if setting != "balanced":
        raise RecipeError(
            f"{setting!r} is no way to weigh classes",
            place=place,
            hint=did_you_mean(setting, ["balanced"]),
        )
    if counts is None:
        raise RecipeError(
            "balanced weights need the label counts of the training examples", place=place
        )
    unseen = [name for name in labels if not counts.get(name)]
    if unseen:
        raise RecipeError(
            f"the label {unseen[0]!r} has no training example to balance by",
            place=place,
            hint="Give a weight per label instead",
        )
    total = sum(counts[name] for name in labels)
    return [total / (len(labels) * counts[name]) for name in labels]
