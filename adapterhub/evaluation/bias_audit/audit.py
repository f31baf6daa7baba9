"""Bias audit of an adapter beside its backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from adapterhub.errors import DataError
from adapterhub.evaluation.bias_audit import generation
from adapterhub.evaluation.bias_audit.disparity import (
    compare_pairs,
    disparity_examples,
    disparity_metrics,
)
from adapterhub.evaluation.bias_audit.inference import Deadline, encode_examples, predict_by
from adapterhub.evaluation.bias_audit.linear_probe import fit_linear_probe
from adapterhub.evaluation.bias_audit.results import BiasAuditResult
from adapterhub.evaluation.bias_audit.substitution import Substituter
from adapterhub.evaluation.bias_audit.task_audits import (
    MAX_OUTPUTS,
    AnswerAudit,
    LabelAudit,
    RankingAudit,
)
from adapterhub.evaluation.bias_audit.templates import (
    read_requests,
    read_stereotypes,
    read_words,
)
from adapterhub.evaluation.bootstrap import LEVEL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import EncodedExample
    from adapterhub.evaluation.bias_audit.inference import AuditedAdapter
    from adapterhub.evaluation.bias_audit.linear_probe import LinearProbe
    from adapterhub.evaluation.bias_audit.task_audits import TaskAudit
    from adapterhub.tasks.base import Task, TextGeneration
    from adapterhub.tasks.fields import Example

T = TypeVar("T")
_EXAMPLES = 8
#: Characters of an example up to which its words are exchanged and it is scored: the work grows
#: with them, and a model reads the beginning of a long text only.
MAX_CHARACTERS = 20_000
#: Maximum number of tokens that the linear probe is trained on, and minimum number of examples.
#: Their forward pass is most of the cost of an audit.
PROBE_TOKENS, MIN_PROBE_EXAMPLES = 6144, 60
#: Seed of the samples of labelled examples.
_SEED = 0
_AUDITS: Mapping[str, Callable[[Task], TaskAudit]] = {
    "labels": LabelAudit,
    "ranking": RankingAudit,
    "answers": AnswerAudit,
}


def is_auditable(task: Task) -> bool:
    """Return whether a bias audit applies to a task, which is true for all text tasks."""
    return task.transcription is None and (task.generation is not None or task.audit is not None)


def task_audit(task: Task) -> TaskAudit | None:
    """Return the audit of a task with a head; ``None`` where none applies."""
    return None if task.audit is None else _AUDITS[task.audit.kind](task)


def run_bias_audit(
    adapter: AuditedAdapter,
    tokenizer: PreTrainedTokenizerBase,
    *,
    examples: Sequence[Example] = (),
    training: Sequence[Example] = (),
    predicted: Sequence[tuple[Example, Any]] = (),
    seconds: float,
    level: float = LEVEL,
) -> BiasAuditResult | None:
    """Audit an adapter beside its backbone; ``None`` for a task without an audit.

    Args:
        adapter: Adapter with its task.
        tokenizer: Tokenizer of the backbone.
        examples: Examples to make counterfactuals of; labelled ones are scored.
        training: Labelled examples that the linear probe of the backbone is trained on.
        predicted: Labelled examples with the adapter's raw predictions, which are scored in place
            of ``examples``.
        seconds: Time limit, checked between batches.
    """
    task, deadline = adapter.task, Deadline(seconds)
    if not is_auditable(task):
        return None
    if task.generation is not None:
        return _audit_generation(adapter, task.generation, tokenizer, deadline, level)
    audit = task_audit(task)
    if audit is None:
        return None
    return _audit_predictions(adapter, audit, examples, training, predicted, deadline, level)


def _audit_predictions(
    adapter: AuditedAdapter,
    audit: TaskAudit,
    examples: Sequence[Example],
    training: Sequence[Example],
    predicted: Sequence[tuple[Example, Any]],
    deadline: Deadline,
    level: float,
) -> BiasAuditResult:
    examples, training = _bounded(examples), _bounded(training)
    predicted = [each for each in predicted if _is_bounded(each[0])]
    words = read_words()
    substituter = Substituter(words)
    sets = [*audit.builtin_sets(substituter, words), *audit.given_sets(examples, substituter)]
    probe = _probe(adapter, audit, training)
    pairs, completed = compare_pairs(adapter, audit, sets, probe, deadline)
    baseline = ""
    scores: Mapping[str, float] = {}
    if probe is not None:
        baseline = f"a linear probe of the backbone, trained on {probe.num_examples} examples"
        scores = _scores(adapter, audit, examples, predicted, probe)
    return BiasAuditResult(
        kind="bias",
        metrics=disparity_metrics(pairs, audit.outputs, level),
        examples=disparity_examples(pairs, _EXAMPLES),
        baseline=baseline,
        task_metric=audit.task.default_metric[0],
        scores=scores,
        total=len(sets),
        completed=completed,
        definition=audit.definition,
        level=level,
    )


def _audit_generation(
    adapter: AuditedAdapter,
    task: TextGeneration,
    tokenizer: PreTrainedTokenizerBase,
    deadline: Deadline,
    level: float,
) -> BiasAuditResult:
    requests = read_requests()
    classifier = generation.AnswerClassifier(requests)
    listed = generation.interleaved_requests(requests)
    preferences = generation.stereotype_preferences(adapter, tokenizer, read_stereotypes())
    answered = generation.answer_requests(adapter, task, listed, deadline)
    return BiasAuditResult(
        kind="harm",
        metrics=[
            *generation.harm_metrics(answered, classifier, level),
            *generation.stereotype_metrics(preferences, level),
        ],
        examples=generation.harm_examples(answered, classifier, _EXAMPLES),
        baseline="the backbone without the adapter",
        task_metric="",
        scores={},
        total=len(listed),
        completed=len(answered),
        level=level,
    )


def _probe(
    adapter: AuditedAdapter, audit: TaskAudit, training: Sequence[Example]
) -> LinearProbe | None:
    """Return a linear probe of the backbone; ``None`` without examples or with many labels."""
    if len(audit.outputs) > MAX_OUTPUTS:
        return None
    pairs = _labelled(audit.task, _sample(training, audit.num_training_examples))
    examples = _within_tokens([encoded for _, encoded in pairs])
    return fit_linear_probe(adapter, examples) if examples else None


def _scores(
    adapter: AuditedAdapter,
    audit: TaskAudit,
    examples: Sequence[Example],
    predicted: Sequence[tuple[Example, Any]],
    probe: LinearProbe,
) -> Mapping[str, float]:
    """Return the task's metric of adapter and probe on the same labelled examples."""
    task = audit.task
    # windows of an example must stay together, so they are sampled as examples and predicted again
    if predicted and not task.reads_windows:
        drawn = _sample(predicted, audit.num_scored_examples)
    else:
        drawn = [(example, None) for example in _sample(examples, audit.num_scored_examples)]
    pairs = _labelled(task, [example for example, _ in drawn])
    if not pairs:
        return {}
    labelled, encoded = [example for example, _ in pairs], [each for _, each in pairs]
    predictions = [found for _, found in drawn if found is not None]
    try:
        if len(predictions) != len(pairs):
            predictions = adapter.decode(encoded)
        own = task.evaluate(labelled, predictions)
        baseline = task.evaluate(labelled, predict_by(adapter, probe, encoded))
    except DataError:
        # a sample may not allow the metric, such as rankings with a single label
        return {}
    name = task.default_metric[0]
    return {"adapter": own.metrics[name], "backbone": baseline.metrics[name]}


def _within_tokens(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """Return the first examples within ``PROBE_TOKENS``, at least ``MIN_PROBE_EXAMPLES``."""
    found: list[EncodedExample] = []
    total = 0
    for example in examples:
        total += len(example)
        if total > PROBE_TOKENS and len(found) >= MIN_PROBE_EXAMPLES:
            break
        found.append(example)
    return found


def _labelled(task: Task, examples: Sequence[Example]) -> list[tuple[Example, EncodedExample]]:
    """Return the labelled examples, or their windows, with their encoding."""
    windows = [window for example in examples for window in _windows(task, example)]
    pairs = zip(windows, encode_examples(task, windows, train=True), strict=True)
    return [(window, encoded) for window, encoded in pairs if encoded]


def _windows(task: Task, example: Example) -> Sequence[Example]:
    try:
        return task.windows(example) if task.reads_windows else [example]
    except DataError:
        return []


def _bounded(examples: Sequence[Example]) -> list[Example]:
    return [example for example in examples if _is_bounded(example)]


def _is_bounded(example: Example) -> bool:
    """Return whether an example has at most ``MAX_CHARACTERS``."""
    return sum(map(_characters, example.values())) <= MAX_CHARACTERS


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 0


def _sample(items: Sequence[T], limit: int) -> list[T]:
    """Return a reproducible random sample."""
    order = np.random.default_rng(_SEED).permutation(len(items))[:limit]
    return [items[int(place)] for place in order]
