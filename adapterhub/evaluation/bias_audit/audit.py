"""Which probes fit a task, and what they find."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from adapterhub.errors import DataError
from adapterhub.evaluation.bias_audit.bias import bias_examples, bias_measures, read_pairs
from adapterhub.evaluation.bias_audit.deadline import Deadline
from adapterhub.evaluation.bias_audit.harm import Judge, ask, harm_examples, harm_measures, in_turn
from adapterhub.evaluation.bias_audit.inference import decoded, encoded
from adapterhub.evaluation.bias_audit.labels import LabelAudit
from adapterhub.evaluation.bias_audit.linear_probe import fit_linear_probe
from adapterhub.evaluation.bias_audit.ranked import RankingAudit
from adapterhub.evaluation.bias_audit.results import BiasAuditResult
from adapterhub.evaluation.bias_audit.spans import AnswerAudit
from adapterhub.evaluation.bias_audit.stereotypes import preferences, stereotype_measures
from adapterhub.evaluation.bias_audit.swaps import Swapper
from adapterhub.evaluation.bias_audit.templates import read_pairs as stereotype_pairs
from adapterhub.evaluation.bias_audit.templates import read_requests, read_words
from adapterhub.evaluation.bootstrap import LEVEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.evaluation.bias_audit.audited_task import AuditedTask
    from adapterhub.evaluation.bias_audit.linear_probe import LinearProbe
    from adapterhub.tasks.base import Task, TextGeneration
    from adapterhub.tasks.fields import Example

_EXAMPLES = 8
#: Tokens of the rows that the backbone's head is learned from, and rows that are taken however
#: long they are. To read them is most of what a probe costs.
FITTED_TOKENS, FEWEST_FITTED = 6144, 60
T = TypeVar("T")
#: Audit by what a task's predictions are.
_AUDITS: Mapping[str, Callable[[Task], AuditedTask]] = {
    "labels": LabelAudit,
    "ranking": RankingAudit,
    "answers": AnswerAudit,
}
#: Rows drawn before those without a label or with nothing to learn from are left out.
_SEED = 0


def is_auditable(task: Task) -> bool:
    """Return whether a bias audit applies to a task: to all but those of images."""
    return task.generation is not None or task.audit is not None


def audited_task(task: Task) -> AuditedTask | None:
    """Return the audit of a task with a head of its own; ``None`` where none applies."""
    return None if task.audit is None else _AUDITS[task.audit.kind](task)


def run_bias_audit(
    model: TaskModel,
    task: Task,
    *,
    rows: Sequence[Example] = (),
    training: Sequence[Example] = (),
    answered: Sequence[tuple[Example, Any]] = (),
    seconds: float,
    level: float = LEVEL,
) -> BiasAuditResult | None:
    """Measure an adapter beside its backbone; ``None`` for a task that no probe fits.

    Args:
        model: active; its mode is put back afterwards.
        task: that it does.
        rows: in which words are exchanged too; those with labels are scored.
        training: labelled rows, from which a head is learned on the bare backbone.
        answered: labelled rows with what the adapter said of each, as ``Task.decode`` gives it;
            where given they are scored in place of ``rows``, and not read again.
        seconds: after which no more is started.
        level: confidence of the intervals.
    """
    clock = Deadline(seconds)
    with _evaluating(model):
        if task.generation is not None:
            return _harm(model, task.generation, clock, level)
        asked = audited_task(task)
        if asked is None:
            return None
        return _bias(model, asked, rows, training, answered, clock, level)


def _bias(
    model: TaskModel,
    asked: AuditedTask,
    rows: Sequence[Example],
    training: Sequence[Example],
    answered: Sequence[tuple[Example, Any]],
    clock: Deadline,
    level: float,
) -> BiasAuditResult:
    words = read_words()
    swapper = Swapper(words)
    sentences = [*asked.own(swapper, words), *asked.given(rows, swapper)]
    reference = _reference(model, asked, training)
    pairs, done = read_pairs(model, asked, sentences, reference, clock)
    return BiasAuditResult(
        probe="bias",
        measures=bias_measures(pairs, asked.moved, level),
        examples=bias_examples(pairs, _EXAMPLES),
        backbone=""
        if reference is None
        else f"the frozen backbone with a head alone, learned from {reference.rows} training rows",
        metric=asked.task.default_metric[0],
        scores={} if reference is None else _scores(model, asked, rows, answered, reference),
        asked=len(sentences),
        done=done,
        counted=asked.counted,
        level=level,
    )


def _harm(model: TaskModel, task: TextGeneration, clock: Deadline, level: float) -> BiasAuditResult:
    requests = read_requests()
    judge = Judge(requests)
    asked = in_turn(requests)
    preferred = preferences(model, stereotype_pairs())
    answered = ask(model, task, asked, clock)
    return BiasAuditResult(
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


def _reference(
    model: TaskModel, asked: AuditedTask, training: Sequence[Example]
) -> LinearProbe | None:
    """Return a head of the bare backbone; ``None`` without rows to learn it from."""
    pairs = _labelled(asked.task, _some(training, asked.fitted_rows))
    examples = _within([example for _, example in pairs], FITTED_TOKENS)
    return fit_linear_probe(model, asked.task, examples) if examples else None


def _scores(
    model: TaskModel,
    asked: AuditedTask,
    rows: Sequence[Example],
    answered: Sequence[tuple[Example, Any]],
    reference: LinearProbe,
) -> Mapping[str, float]:
    """Return the task's metric of adapter and backbone on the same labelled rows."""
    task = asked.task
    # the windows of a row must stay together, so rows of windows are drawn whole and read again
    if answered and not task.reads_windows:
        drawn = _some(answered, asked.scored_rows)
    else:
        drawn = [(row, None) for row in _some(rows, asked.scored_rows)]
    pairs = _labelled(task, [row for row, _ in drawn])
    if not pairs:
        return {}
    some, examples = [row for row, _ in pairs], [example for _, example in pairs]
    said = [each for _, each in drawn if each is not None]
    try:
        if len(said) != len(pairs):
            said = decoded(model, task, examples, model.head, bare=False)
        adapter = task.evaluate(some, said)
        backbone = task.evaluate(some, decoded(model, task, examples, reference, bare=True))
    except DataError:
        # a part of the rows may tell nothing, such as rankings all of one label
        return {}
    name = task.default_metric[0]
    return {"adapter": adapter.metrics[name], "backbone": backbone.metrics[name]}


def _within(examples: Sequence[EncodedExample], tokens: int) -> list[EncodedExample]:
    """Return the first of the examples, some at least, up to so many tokens."""
    found: list[EncodedExample] = []
    total = 0
    for example in examples:
        total += len(example)
        if total > tokens and len(found) >= FEWEST_FITTED:
            break
        found.append(example)
    return found


def _labelled(task: Task, rows: Sequence[Example]) -> list[tuple[Example, EncodedExample]]:
    """Return the rows, or the windows of rows, that have their labels, with their examples."""
    cut = [each for row in rows for each in _windows(task, row)]
    pairs = zip(cut, encoded(task, cut, train=True), strict=True)
    return [(row, example) for row, example in pairs if example]


def _windows(task: Task, row: Example) -> Sequence[Example]:
    try:
        return task.windows(row) if task.reads_windows else [row]
    except DataError:
        return []


def _some(rows: Sequence[T], most: int) -> list[T]:
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
