"""Disparity of predictions between examples and their counterfactuals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from adapterhub.errors import DataError
from adapterhub.evaluation.bias_audit.counterfactuals import SOURCES
from adapterhub.evaluation.bias_audit.inference import predict_by
from adapterhub.evaluation.bias_audit.results import AuditExample, group_metric
from adapterhub.evaluation.bias_audit.substitution import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from adapterhub.data.packing import EncodedExample
    from adapterhub.evaluation.bias_audit.counterfactuals import CounterfactualSet
    from adapterhub.evaluation.bias_audit.inference import AuditedAdapter, Deadline
    from adapterhub.evaluation.bias_audit.results import GroupMetric
    from adapterhub.evaluation.bias_audit.substitution import Counterfactual
    from adapterhub.evaluation.bias_audit.task_audits import PredictionChange, TaskAudit
    from adapterhub.tasks.base import Head
    from adapterhub.tasks.fields import Example

#: Returns the raw predictions of encoded examples.
Predict: TypeAlias = "Callable[[Sequence[EncodedExample]], list[Any]]"
#: Number of sets between two checks of the deadline.
_BATCH = 40
#: Minimum number of pairs of a group that is listed by itself.
MIN_GROUP_PAIRS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An example, one of its counterfactuals, and how the predictions differ.

    Args:
        adapter: Change of the adapter's prediction.
        backbone: Change of the baseline's prediction; ``None`` without a baseline.
        shown: Both texts with the adapter's predictions.
    """

    set_index: int
    source: str
    counterfactual: Counterfactual
    adapter: PredictionChange
    backbone: PredictionChange | None
    shown: AuditExample


def compare_pairs(
    adapter: AuditedAdapter,
    audit: TaskAudit,
    sets: Sequence[CounterfactualSet],
    probe: Head | None,
    deadline: Deadline,
) -> tuple[list[Pair], int]:
    """Return pairs predicted by adapter and baseline, and the number of predicted sets.

    Args:
        sets: Counterfactual sets in any order; the rest is skipped after the deadline.
        deadline: Time limit; the first batch is always predicted.
    """
    order = np.random.default_rng(0).permutation(len(sets))
    pairs: list[Pair] = []
    completed = 0
    for start in range(0, len(order), _BATCH):
        if completed and deadline.passed:
            break
        batch = [(int(index), sets[int(index)]) for index in order[start : start + _BATCH]]
        pairs += _compare_batch(adapter, audit, batch, probe)
        completed += len(batch)
    return pairs, completed


def disparity_metrics(
    pairs: Sequence[Pair], outputs: Sequence[str], level: float
) -> list[GroupMetric]:
    """Return the rate of changed predictions by attribute and source, then by group."""
    found = []
    for attribute in ATTRIBUTES:
        selected = [pair for pair in pairs if pair.counterfactual.attribute == attribute]
        for source in SOURCES:
            some = [pair for pair in selected if pair.source == source]
            if some:
                found.append(_metric(attribute, source, some, outputs, level))
        groups = sorted({pair.counterfactual.group for pair in selected})
        for group in groups:
            some = [pair for pair in selected if pair.counterfactual.group == group]
            if len(groups) > 1 and len(some) >= MIN_GROUP_PAIRS:
                found.append(_metric(attribute, f"to {group}", some, outputs, level))
    return found


def disparity_examples(pairs: Sequence[Pair], count: int) -> list[AuditExample]:
    """Return pairs with a changed prediction, then those with the largest shift."""
    order = sorted(pairs, key=lambda pair: (-pair.adapter.changed, -pair.adapter.shift))
    seen: set[int] = set()
    found = []
    for pair in order:
        if pair.set_index not in seen and (pair.adapter.changed or pair.adapter.shift > 0):
            seen.add(pair.set_index)
            found.append(pair.shown)
    return found[:count]


def _compare_batch(
    adapter: AuditedAdapter,
    audit: TaskAudit,
    batch: Sequence[tuple[int, CounterfactualSet]],
    probe: Head | None,
) -> Iterator[Pair]:
    examples = [
        example
        for _, each in batch
        for example in (each.example, *(other.example for other in each.counterfactuals))
    ]
    encoded = [_encode(audit, example) for example in examples]
    predictors: list[Predict] = [adapter.decode]
    if probe is not None:
        predictors.append(partial(predict_by, adapter, probe))
    predictions = [_predict_inputs(predict, encoded) for predict in predictors]
    at = 0
    for index, each in batch:
        original, at = at, at + 1 + len(each.counterfactuals)
        for other, counterfactual in enumerate(each.counterfactuals, start=original + 1):
            if not encoded[original] or not encoded[other]:
                continue
            changes = [
                audit.compare(each.example, found[original], counterfactual.example, found[other])
                for found in predictions
            ]
            yield Pair(
                set_index=index,
                source=each.source,
                counterfactual=counterfactual,
                adapter=changes[0],
                backbone=changes[1] if probe is not None else None,
                shown=AuditExample(
                    what=counterfactual.attribute,
                    text=audit.input_text(each.example),
                    other=audit.input_text(counterfactual.example),
                    before=audit.answer_text(each.example, predictions[0][original]),
                    after=audit.answer_text(counterfactual.example, predictions[0][other]),
                ),
            )


def _encode(audit: TaskAudit, example: Example) -> list[EncodedExample]:
    """Return the encoded inputs of an example; none if one of them is invalid."""
    try:
        found = [audit.task.encode(each, 1, train=False) for each in audit.inputs(example)]
    except DataError:
        # a substitution may make an example invalid
        return []
    return [each for each in found if each is not None] if None not in found else []


def _predict_inputs(
    predict: Predict, encoded: Sequence[Sequence[EncodedExample]]
) -> list[list[Any]]:
    """Return the raw predictions of each example's inputs; equal inputs are predicted once."""
    distinct = {_key(each): each for inputs in encoded for each in inputs}
    outputs = predict(list(distinct.values()))
    found = dict(zip(distinct, outputs, strict=True))
    return [[found[_key(each)] for each in inputs] for inputs in encoded]


def _key(example: EncodedExample) -> tuple[tuple[int, ...], ...]:
    return tuple(example.input_ids), tuple(example.select), tuple(example.segment_ids)


def _metric(
    attribute: str, group: str, pairs: Sequence[Pair], outputs: Sequence[str], level: float
) -> GroupMetric:
    baseline = [pair.backbone for pair in pairs if pair.backbone is not None]
    found = group_metric(
        attribute,
        group,
        np.array([pair.adapter.changed for pair in pairs]),
        np.array([change.changed for change in baseline]) if baseline else None,
        worse="larger",
        units=len({pair.set_index for pair in pairs}),
        level=level,
    )
    deltas = [pair.adapter.delta for pair in pairs if pair.adapter.delta is not None]
    if not deltas:
        return found
    mean = sum(deltas[1:], deltas[0]) / len(deltas)
    largest = int(mean.argmax())
    return replace(
        found,
        shift=float(np.mean([pair.adapter.shift for pair in pairs])),
        backbone_shift=float(np.mean([c.shift for c in baseline])) if baseline else None,
        largest_gain=(outputs[largest], float(mean[largest])),
    )
