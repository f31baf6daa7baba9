"""Which probes fit a task, and what they find."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np

from adapterhub.assessment.bootstrap import LEVEL
from adapterhub.probes.answers import labels_people, reads_plain_text
from adapterhub.probes.bias import bias_examples, bias_measures, read_pairs
from adapterhub.probes.clock import Clock
from adapterhub.probes.counterfactuals import own_sentences, sentences_in
from adapterhub.probes.harm import Judge, ask, harm_examples, harm_measures, in_turn
from adapterhub.probes.measures import Inherited
from adapterhub.probes.reading import decoded, encoded
from adapterhub.probes.reference import fit_head
from adapterhub.probes.stereotypes import preferences, stereotype_measures
from adapterhub.probes.swaps import Swapper
from adapterhub.probes.word_lists import read_pairs as stereotype_pairs
from adapterhub.probes.word_lists import read_requests, read_sentences, read_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.probes.reference import FrozenHead
    from adapterhub.tasks.base import GeneratingTask, Head, Row, Task

#: Labelled rows that the backbone's head is learned from, and that both heads are scored on.
FITTED_ROWS, SCORED_ROWS = 600, 200
_EXAMPLES = 8
#: Rows drawn before those without a label or with nothing to learn from are left out.
_SEED = 0


def fits(task: Task) -> bool:
    """Tell whether there is a probe for a task."""
    return labels_people(task) or task.head == "causal_lm"


def find_inherited(
    model: TaskModel,
    task: Task,
    *,
    rows: Sequence[Row] = (),
    training: Sequence[Row] = (),
    seconds: float,
    level: float = LEVEL,
) -> Inherited | None:
    """Measure an adapter beside its backbone; ``None`` for a task that no probe fits.

    Args:
        model: active; its mode is put back afterwards.
        task: that it does.
        rows: in which words are exchanged too; those with labels are scored.
        training: labelled rows, from which a head is learned on the bare backbone.
        seconds: after which no more is started.
        level: confidence of the intervals.
    """
    if not fits(task):
        return None
    clock = Clock(seconds)
    with _evaluating(model):
        if task.head == "causal_lm":
            return _harm(model, cast("GeneratingTask", task), clock, level)
        return _bias(model, task, rows, training, clock, level)


def _bias(
    model: TaskModel,
    task: Task,
    rows: Sequence[Row],
    training: Sequence[Row],
    clock: Clock,
    level: float,
) -> Inherited:
    words = read_words()
    swapper = Swapper(words)
    own = own_sentences(swapper, read_sentences(), words) if reads_plain_text(task) else []
    sentences = [*own, *sentences_in(rows, swapper)]
    reference = _reference(model, task, training)
    pairs, done = read_pairs(model, task, sentences, reference, clock)
    return Inherited(
        probe="bias",
        measures=bias_measures(pairs, task.labels, level),
        examples=bias_examples(pairs, _EXAMPLES),
        backbone=""
        if reference is None
        else f"the frozen backbone with a head alone, learned from {reference.rows} training rows",
        metric=task.default_metric[0],
        scores={} if reference is None else _scores(model, task, rows, reference),
        asked=len(sentences),
        done=done,
        level=level,
    )


def _harm(model: TaskModel, task: GeneratingTask, clock: Clock, level: float) -> Inherited:
    requests = read_requests()
    judge = Judge(requests)
    asked = in_turn(requests)
    preferred = preferences(model, stereotype_pairs())
    answered = ask(model, task, asked, clock)
    return Inherited(
        probe="harm",
        measures=[
            *harm_measures(answered, judge, level),
            *stereotype_measures(preferred, level),
        ],
        examples=harm_examples(answered, judge, _EXAMPLES),
        backbone="the bare backbone, asked the same",
        metric="",
        scores={},
        asked=len(asked),
        done=len(answered),
        level=level,
    )


def _reference(model: TaskModel, task: Task, training: Sequence[Row]) -> FrozenHead | None:
    """Return a head of the bare backbone; ``None`` without rows to learn it from."""
    examples = [each for each in encoded(task, _some(training, FITTED_ROWS), train=True) if each]
    return fit_head(model, task, examples) if examples else None


def _scores(
    model: TaskModel, task: Task, rows: Sequence[Row], reference: FrozenHead
) -> Mapping[str, float]:
    """Return the task's metric of adapter and backbone on the same labelled rows."""
    some = _some(rows, SCORED_ROWS)
    pairs = [(r, e) for r, e in zip(some, encoded(task, some, train=True), strict=True) if e]
    if not pairs:
        return {}
    read: dict[str, tuple[Head, bool]] = {
        "adapter": (model.head, False),
        "backbone": (reference, True),
    }
    return {
        name: task.evaluate(
            [row for row, _ in pairs],
            decoded(model, task, [each for _, each in pairs], head, bare=bare),
        ).metrics[task.default_metric[0]]
        for name, (head, bare) in read.items()
    }


def _some(rows: Sequence[Row], most: int) -> list[Row]:
    """Return so many of the rows, drawn at random, always the same."""
    order = np.random.default_rng(_SEED).permutation(len(rows))[:most]
    return [rows[int(place)] for place in order]


@contextmanager
def _evaluating(model: TaskModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
