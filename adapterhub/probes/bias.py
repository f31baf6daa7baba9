"""Does an answer change when the text speaks of someone else?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adapterhub.probes.answers import answer_of, probabilities_of, words_of
from adapterhub.probes.counterfactuals import ROWS, SENTENCES
from adapterhub.probes.measures import Shown, measure
from adapterhub.probes.reading import decoded, encoded
from adapterhub.probes.swaps import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import Example
    from adapterhub.probes.clock import Clock
    from adapterhub.probes.counterfactuals import Sentence
    from adapterhub.probes.measures import Measure
    from adapterhub.probes.swaps import Variant
    from adapterhub.tasks.base import Head, Task

#: Sentences between two looks at the clock.
_AT_ONCE = 40
#: Pairs below which a group has no line of its own.
FEWEST = 8
_SOURCES = {SENTENCES: "own sentences", ROWS: "given rows"}


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a model said of a sentence and of one counterfactual.

    Args:
        changed: whether the answer is another one.
        # [labels]
        move: of each label's probability; ``None`` for tags of words.
    """

    changed: bool
    move: Tensor | None

    @property
    def shift(self) -> float:
        """The largest move of a label's probability."""
        return 0.0 if self.move is None else float(self.move.abs().max())


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
    adapter: Said
    backbone: Said | None
    shown: Shown


def read_pairs(
    model: TaskModel,
    task: Task,
    sentences: Sequence[Sentence],
    reference: Head | None,
    clock: Clock,
) -> tuple[list[Pair], int]:
    """Let adapter and backbone answer sentences and their counterfactuals.

    Args:
        model: in evaluation mode.
        task: that labels.
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
        pairs += _read(model, task, chosen, reference)
        done += len(chosen)
    return pairs, done


def bias_measures(pairs: Sequence[Pair], labels: Sequence[str], level: float) -> list[Measure]:
    """Return the rate of changed answers of each kind, then of each group.

    Args:
        pairs: that were read.
        labels: of the task.
        level: confidence of the intervals.
    """
    found = []
    for kind in KINDS:
        of_kind = [pair for pair in pairs if pair.variant.kind == kind]
        for source, name in _SOURCES.items():
            some = [pair for pair in of_kind if pair.source == source]
            if some:
                found.append(_measure(kind, name, some, labels, level))
        groups = sorted({pair.variant.group for pair in of_kind})
        for group in groups:
            some = [pair for pair in of_kind if pair.variant.group == group]
            if len(groups) > 1 and len(some) >= FEWEST:
                found.append(_measure(kind, f"to {group}", some, labels, level))
    return found


def bias_examples(pairs: Sequence[Pair], count: int) -> list[Shown]:
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
    model: TaskModel, task: Task, chosen: Sequence[tuple[int, Sentence]], reference: Head | None
) -> Iterator[Pair]:
    rows = [row for _, each in chosen for row in (each.row, *(v.row for v in each.variants))]
    examples = encoded(task, rows, train=False)
    kept = [example for example in examples if example is not None]
    heads: list[tuple[Head, bool]] = [(model.head, False)]
    if reference is not None:
        heads.append((reference, True))
    said = [_spread(examples, decoded(model, task, kept, head, bare=bare)) for head, bare in heads]
    place = 0
    for number, sentence in chosen:
        first, place = place, place + 1 + len(sentence.variants)
        for turn, variant in enumerate(sentence.variants, start=first + 1):
            if examples[first] is None or examples[turn] is None:
                continue
            answers = [_said(task, each[first], each[turn]) for each in said]
            yield Pair(
                sentence=number,
                source=sentence.source,
                variant=variant,
                adapter=answers[0],
                backbone=answers[1] if reference is not None else None,
                shown=_shown(task, sentence, variant, said[0][first], said[0][turn]),
            )


def _spread(examples: Sequence[Example | None], outputs: Sequence[Any]) -> list[Any]:
    """Return the outputs at the places of their examples."""
    left = iter(outputs)
    return [None if example is None else next(left) for example in examples]


def _said(task: Task, first: Any, other: Any) -> Said:
    one, two = probabilities_of(first), probabilities_of(other)
    return Said(
        changed=answer_of(task, first) != answer_of(task, other),
        move=None if one is None or two is None else two - one,
    )


def _shown(task: Task, sentence: Sentence, variant: Variant, first: Any, other: Any) -> Shown:
    return Shown(
        what=variant.kind,
        text=_text(sentence.row),
        other=_text(variant.row),
        before=words_of(task, sentence.row, first),
        after=words_of(task, variant.row, other),
    )


def _text(row: Any) -> str:
    parts = [row[field] for field in ("text", "text_pair", "tokens") if row.get(field)]
    return " | ".join(part if isinstance(part, str) else " ".join(part) for part in parts)


def _measure(
    kind: str, group: str, pairs: Sequence[Pair], labels: Sequence[str], level: float
) -> Measure:
    beside = [pair.backbone for pair in pairs if pair.backbone is not None]
    found = measure(
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
