"""Metrics as functions of sums over examples, so that a thousand resamples are one product."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from adapterhub.errors import DataError
from adapterhub.evaluation.ranked_groups import RankedGroups
from adapterhub.tasks.answers import given_answers
from adapterhub.tasks.bio import spans
from adapterhub.tasks.dialogue import Dialogue
from adapterhub.tasks.fields import required
from adapterhub.tasks.image_classification import ImageClassification
from adapterhub.tasks.instructed import Instructed
from adapterhub.tasks.question_answering import QuestionAnswering
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.text_classification import TextClassification
from adapterhub.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from adapterhub.tasks.base import Example, Task

Array: TypeAlias = "NDArray[Any]"

#: Resamples of a task whose metrics are computed anew for each; some take a second.
_MOST_EVALUATIONS = 200


class Scores(Protocol):
    """Predictions whose metrics can be computed on any choice of their examples."""

    @property
    def size(self) -> int:
        """Number of what is drawn: examples, or groups of examples that belong together."""

    @property
    def most(self) -> int | None:
        """Most resamples that can be had in reasonable time; ``None`` without a bound."""

    def metrics(self, indices: Array) -> Mapping[str, Array]:
        """Return metric name to ``[resamples]``.

        Args:
            indices: examples of each resample, ``[resamples, examples]``.

        A metric is NaN for a resample that it can't be computed on.
        """


@dataclass(frozen=True, slots=True, eq=False)
class ExampleStatistics:
    """Examples whose metrics depend on sums of a few numbers an example.

    Args:
        # [examples, k]
        values: the numbers of each example.
        formula: maps sums ``[..., k]`` to metric name and values ``[...]``.
        meaning: what the numbers stand for; only examples of one meaning can be swapped.
        most: see ``Scores``.
    """

    values: Array
    formula: Callable[[Array], dict[str, Array]]
    meaning: tuple[str, ...]
    most: int | None = None

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.values)

    def metrics(self, indices: Array) -> Mapping[str, Array]:
        """Return the metrics of each resample; see ``Scores``."""
        return self.weighted(counts_of(indices, self.size))

    def weighted(self, weights: Array) -> dict[str, Array]:
        """Return the metrics of examples that count so often each, ``[resamples, examples]``."""
        return self.formula(weights @ self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ReevaluatedExamples:
    """Examples of a task of which nothing is known but how it evaluates them.

    Args:
        task: that evaluates them.
        given: examples, or the windows of examples.
        decoded: prediction of each of ``given``.
        most: see ``Scores``.
    """

    task: Task
    given: Sequence[Example]
    decoded: Sequence[Any]
    most: int | None = _MOST_EVALUATIONS
    #: what is drawn: places of ``given`` that belong together
    units: Sequence[Sequence[int]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", units_of(self.task, self.given))

    @property
    def size(self) -> int:
        """Number of examples, each with all of its windows."""
        return len(self.units)

    def metrics(self, indices: Array) -> Mapping[str, Array]:
        """Return the metrics of each resample; see ``Scores``."""
        found = [self._evaluate(chosen) for chosen in indices]
        names = dict.fromkeys(name for each in found for name in each)
        return {name: np.array([each.get(name, float("nan")) for each in found]) for name in names}

    def _evaluate(self, chosen: Array) -> Mapping[str, float]:
        places = [place for unit in chosen for place in self.units[unit]]
        examples = [self.given[place] for place in places]
        try:
            return self.task.evaluate(examples, [self.decoded[place] for place in places]).metrics
        except DataError:
            # the examples were scored before they were drawn from; this choice of them tells nothing,
            # such as one with a single label, which has no area under a curve
            return {}


def scores_of(task: Task, examples: Sequence[Example], decoded: Sequence[Any]) -> Scores:
    """Return what metrics of resamples are computed from.

    Args:
        task: that made the predictions.
        examples: with their answers.
        decoded: raw prediction of each example, as ``Task.decode`` gives it.
    """
    if isinstance(task, Instructed):
        task = task.dialogue
    if isinstance(task, TextClassification | ImageClassification):
        return _classes(task, examples, decoded)
    if isinstance(task, TokenClassification):
        return _tags(task, examples, decoded)
    if isinstance(task, Ranking):
        judged = task.judged(examples)
        if all(judged.groups):
            return RankedGroups(judged, decoded)
    if isinstance(task, Dialogue):
        values = [[score.loss, score.tokens, score.correct] for score in decoded]
        return ExampleStatistics(np.array(values, dtype=float), _of_tokens, ("tokens",))
    if isinstance(task, QuestionAnswering):
        return _answers(task, examples, decoded)
    return ReevaluatedExamples(task, examples, decoded)


def units_of(task: Task, examples: Sequence[Example]) -> list[list[int]]:
    """Return the places of each example: of all its windows, which follow each other, the first is 0.

    An example that was not cut has one place.
    """
    units: list[list[int]] = []
    for place, example in enumerate(examples):
        if task.reads_windows and example.get("window") and units:
            units[-1].append(place)
        else:
            units.append([place])
    return units


def counts_of(indices: Array, examples: int) -> Array:
    """Return how often each example was drawn, ``[resamples, examples]``."""
    counts = np.empty((len(indices), examples))
    for place, drawn in enumerate(indices):
        counts[place] = np.bincount(drawn, minlength=examples)
    return counts


def gold_labels(
    task: TextClassification | ImageClassification, examples: Sequence[Example]
) -> Array:
    """Return the index of each example's label.

    Raises:
        DataError: naming the example that has no known label.
    """
    found = [
        task.index.index(required(example, "label", number), number, "label")
        for number, example in enumerate(examples, start=1)
    ]
    return np.array(found, dtype=int)


def _classes(
    task: TextClassification | ImageClassification,
    examples: Sequence[Example],
    decoded: Sequence[Any],
) -> ExampleStatistics:
    size = len(task.labels)
    gold = gold_labels(task, examples)
    found = np.array([int(scores.argmax()) for scores in decoded], dtype=int)
    values = np.zeros((len(examples), 3, size))
    place = np.arange(len(examples))
    values[place, 0, gold] = gold == found
    values[place, 1, gold] = 1.0
    values[place, 2, found] = 1.0
    outside = task.out_of_scope if isinstance(task, TextClassification) else None
    formula = partial(_of_classes, out_of_scope=outside)
    return ExampleStatistics(values.reshape(len(examples), -1), formula, task.labels)


def _of_classes(sums: Array, *, out_of_scope: int | None) -> dict[str, Array]:
    hits, gold, found = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    f1 = _ratio(2.0 * hits, gold + found)
    # as scikit-learn: the mean over the labels that the examples or the predictions have
    there = (gold + found > 0).sum(-1)
    metrics = {
        "accuracy": hits.sum(-1) / gold.sum(-1),
        "macro_f1": f1.sum(-1) / np.maximum(there, 1),
    }
    if out_of_scope is None:
        return metrics
    hits_outside, outside = hits[..., out_of_scope], gold[..., out_of_scope]
    return {
        **metrics,
        "in_scope_accuracy": _ratio(hits.sum(-1) - hits_outside, gold.sum(-1) - outside),
        "out_of_scope_recall": _ratio(hits_outside, outside),
    }


def _tags(
    task: TokenClassification, examples: Sequence[Example], decoded: Sequence[Any]
) -> ExampleStatistics:
    values = []
    for number, (example, tags) in enumerate(zip(examples, decoded, strict=True), start=1):
        gold, found = task.named_tags(example, number, tags)
        expected, predicted = set(spans(gold)), set(spans(found))
        right = sum(a == b for a, b in zip(gold, found, strict=True))
        hits = len(expected & predicted)
        values.append([hits, len(predicted), len(expected), right, len(gold)])
    return ExampleStatistics(np.array(values, dtype=float), _of_spans, ("spans",))


def _of_spans(sums: Array) -> dict[str, Array]:
    hits, found, gold, right, words = np.moveaxis(sums, -1, 0)
    return {
        "entity_precision": _ratio(hits, found),
        "entity_recall": _ratio(hits, gold),
        "entity_f1": _ratio(2.0 * hits, gold + found),
        "token_accuracy": _ratio(right, words),
    }


def _answers(
    task: QuestionAnswering, examples: Sequence[Example], decoded: Sequence[Any]
) -> ExampleStatistics:
    values = []
    for windows in units_of(task, examples):
        given = [examples[place] for place in windows]
        found = task.evaluate(given, [decoded[place] for place in windows]).metrics
        answerable = float(bool(given_answers(given[0], windows[0] + 1)))
        values.append(
            [found["exact_match"], found["f1"], 1.0, found["f1"] * answerable, answerable]
        )
    return ExampleStatistics(np.array(values, dtype=float), _of_answers, ("answers",))


def _of_answers(sums: Array) -> dict[str, Array]:
    exact, f1, examples, answerable_f1, answerable = np.moveaxis(sums, -1, 0)
    found = {"exact_match": exact / examples, "f1": f1 / examples}
    if (answerable < examples).any():
        found["answerable_f1"] = _ratio(answerable_f1, answerable)
        found["unanswerable_f1"] = _ratio(f1 - answerable_f1, examples - answerable)
    return found


def _of_tokens(sums: Array) -> dict[str, Array]:
    loss, tokens, correct = np.moveaxis(sums, -1, 0)
    mean = _ratio(loss, tokens)
    return {
        "loss": mean,
        "perplexity": np.exp(np.minimum(mean, 700.0)),
        "token_accuracy": _ratio(correct, tokens),
    }


def _ratio(above: Array, below: Array) -> Array:
    """Return the quotient, 0 where nothing can be counted."""
    result: Array = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return result
