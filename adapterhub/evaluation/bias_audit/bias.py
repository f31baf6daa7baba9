"""Does an answer change when the text speaks of someone else?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adapterhub.errors import DataError
from adapterhub.evaluation.bias_audit.counterfactuals import SOURCES
from adapterhub.evaluation.bias_audit.inference import decoded
from adapterhub.evaluation.bias_audit.results import AuditExample, group_metric
from adapterhub.evaluation.bias_audit.swaps import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.evaluation.bias_audit.audited_task import AnswerChange, AuditedTask
    from adapterhub.evaluation.bias_audit.counterfactuals import Sentence
    from adapterhub.evaluation.bias_audit.deadline import Deadline
    from adapterhub.evaluation.bias_audit.results import GroupMetric
    from adapterhub.evaluation.bias_audit.swaps import Variant
    from adapterhub.tasks.base import Head, Task
    from adapterhub.tasks.fields import Example

#: Sentences between two looks at the clock.
_AT_ONCE = 40
#: Pairs below which a group has no line of its own.
FEWEST = 8


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A sentence, one of its counterfactuals, and what was said of both.

    Args:
        sentence: its number.
        source: of the sentence.
        variant: the counterfactual.
        adapter: what the adapter said.
        backbone: what the backbone said; ``None`` where it has no head.
        shown: both in words, with the adapter's answers.
    """

    sentence: int
    source: str
    variant: Variant
    adapter: AnswerChange
    backbone: AnswerChange | None
    shown: AuditExample


def read_pairs(
    model: TaskModel,
    asking: AuditedTask,
    sentences: Sequence[Sentence],
    reference: Head | None,
    clock: Deadline,
) -> tuple[list[Pair], int]:
    """Let adapter and backbone answer sentences and their counterfactuals.

    Args:
        model: in evaluation mode.
        asking: the task.
        sentences: in any order; where the time is over the rest is left out.
        reference: head of the bare backbone.
        clock: that bounds the time; some are always read.

    Returns:
        The pairs, and how many sentences were read.
    """
    order = np.random.default_rng(0).permutation(len(sentences))
    pairs: list[Pair] = []
    done = 0
    for start in range(0, len(order), _AT_ONCE):
        if done and clock.over:
            break
        chosen = [(int(place), sentences[int(place)]) for place in order[start : start + _AT_ONCE]]
        pairs += _read(model, asking, chosen, reference)
        done += len(chosen)
    return pairs, done


def bias_measures(pairs: Sequence[Pair], labels: Sequence[str], level: float) -> list[GroupMetric]:
    """Return the rate of changed answers of each kind, then of each group.

    Args:
        pairs: that were read.
        labels: names of what moves.
        level: confidence of the intervals.
    """
    found = []
    for kind in KINDS:
        of_kind = [pair for pair in pairs if pair.variant.kind == kind]
        for source in SOURCES:
            some = [pair for pair in of_kind if pair.source == source]
            if some:
                found.append(_measure(kind, source, some, labels, level))
        groups = sorted({pair.variant.group for pair in of_kind})
        for group in groups:
            some = [pair for pair in of_kind if pair.variant.group == group]
            if len(groups) > 1 and len(some) >= FEWEST:
                found.append(_measure(kind, f"to {group}", some, labels, level))
    return found


def bias_examples(pairs: Sequence[Pair], count: int) -> list[AuditExample]:
    """Return the pairs whose answer changed most, then those that moved most."""
    order = sorted(pairs, key=lambda pair: (-pair.adapter.changed, -pair.adapter.shift))
    seen: set[int] = set()
    found = []
    for pair in order:
        if pair.sentence not in seen and (pair.adapter.changed or pair.adapter.shift > 0):
            seen.add(pair.sentence)
            found.append(pair.shown)
    return found[:count]


def _read(
    model: TaskModel,
    asking: AuditedTask,
    chosen: Sequence[tuple[int, Sentence]],
    reference: Head | None,
) -> Iterator[Pair]:
    rows = [row for _, each in chosen for row in (each.row, *(v.row for v in each.variants))]
    examples = [_examples(asking, row) for row in rows]
    heads: list[tuple[Head, bool]] = [(model.head, False)]
    if reference is not None:
        heads.append((reference, True))
    said = [_answers(model, asking.task, examples, head, bare=bare) for head, bare in heads]
    place = 0
    for number, sentence in chosen:
        first, place = place, place + 1 + len(sentence.variants)
        for turn, variant in enumerate(sentence.variants, start=first + 1):
            if not examples[first] or not examples[turn]:
                continue
            answers = [
                asking.compare(sentence.row, each[first], variant.row, each[turn]) for each in said
            ]
            yield Pair(
                sentence=number,
                source=sentence.source,
                variant=variant,
                adapter=answers[0],
                backbone=answers[1] if reference is not None else None,
                shown=AuditExample(
                    what=variant.kind,
                    text=asking.text(sentence.row),
                    other=asking.text(variant.row),
                    before=asking.words(sentence.row, said[0][first]),
                    after=asking.words(variant.row, said[0][turn]),
                ),
            )


def _examples(asking: AuditedTask, row: Example) -> list[EncodedExample]:
    """Return what must be read to answer a row; nothing for one that the task can't read."""
    try:
        found = [asking.task.encode(each, 1, train=False) for each in asking.rows(row)]
    except DataError:
        # an exchange of words may leave a row that is none
        return []
    return [each for each in found if each is not None] if None not in found else []


def _answers(
    model: TaskModel,
    task: Task,
    rows: Sequence[Sequence[EncodedExample]],
    head: Head,
    *,
    bare: bool,
) -> list[list[Any]]:
    """Return the raw predictions of each row's examples; equal examples are read once."""
    distinct = {_key(example): example for examples in rows for example in examples}
    outputs = decoded(model, task, list(distinct.values()), head, bare=bare)
    found = dict(zip(distinct, outputs, strict=True))
    return [[found[_key(example)] for example in examples] for examples in rows]


def _key(example: EncodedExample) -> tuple[tuple[int, ...], ...]:
    return tuple(example.input_ids), tuple(example.select), tuple(example.segment_ids)


def _measure(
    kind: str, group: str, pairs: Sequence[Pair], labels: Sequence[str], level: float
) -> GroupMetric:
    beside = [pair.backbone for pair in pairs if pair.backbone is not None]
    found = group_metric(
        kind,
        group,
        _array(pairs, lambda pair: pair.adapter.changed),
        np.array([said.changed for said in beside]) if beside else None,
        worse="larger",
        units=len({pair.sentence for pair in pairs}),
        level=level,
    )
    moves = [pair.adapter.move for pair in pairs if pair.adapter.move is not None]
    if not moves:
        return found
    mean = sum(moves[1:], moves[0]) / len(moves)
    best = int(mean.argmax())
    return replace(
        found,
        shift=float(np.mean([pair.adapter.shift for pair in pairs])),
        backbone_shift=float(np.mean([said.shift for said in beside])) if beside else None,
        gains=(labels[best], float(mean[best])),
    )


def _array(pairs: Sequence[Pair], of: Callable[[Pair], bool]) -> NDArray[np.bool_]:
    return np.array([of(pair) for pair in pairs])
