"""Score a task model on rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import pack
from adapterhub.tasks.base import Evaluation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.base import Task

#: Tokens a batch in evaluation: enough to keep the cores busy, small beside training.
EVALUATION_TOKENS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """An evaluation with what it was made from.

    Args:
        rows: with their answers.
        decoded: raw prediction of each, as ``Task.decode`` gives it.
        evaluation: of them.
    """

    rows: Sequence[Mapping[str, Any]]
    decoded: Sequence[Any]
    evaluation: Evaluation


class Seen:
    """Keeps the predictions of a run's first evaluation and of its last one."""

    def __init__(self) -> None:
        self.first: Predictions | None = None
        self.last: Predictions | None = None

    def note(self, scored: Predictions) -> Evaluation:
        """Take note of an evaluation, and return its metrics."""
        self.first = self.first or scored
        self.last = scored
        return scored.evaluation


def evaluate(
    model: TaskModel,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    examples: Sequence[EncodedExample],
) -> Evaluation:
    """Return the task's metrics and the mean loss over ``rows``; see ``score_encoded``."""
    return score_encoded(model, task, rows, examples).evaluation


def score_encoded(
    model: TaskModel,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    examples: Sequence[EncodedExample],
) -> Predictions:
    """Return the raw predictions for ``rows`` and their metrics, the mean loss among them.

    Args:
        model: scored in evaluation mode; its mode is put back afterwards.
        task: that encoded the rows.
        rows: with their labels.
        examples: one for each of ``rows``, in the same order.
    """
    decoded: list[Any] = [None] * len(rows)
    total_loss = total_weight = 0.0
    training = model.training
    model.eval()
    with torch.no_grad():
        for indices in batches_by_length([len(example) for example in examples], EVALUATION_TOKENS):
            batch = pack([examples[index] for index in indices]).to(model.backbone.device)
            hidden = model.hidden(batch)
            total_loss += float(task.loss(model.head, hidden, batch))
            total_weight += task.weight(batch)
            outputs = task.decode(model.head, hidden, batch)
            for index, output in zip(indices, outputs, strict=True):
                decoded[index] = output
    model.train(training)
    scored = task.evaluate(rows, decoded)
    loss = total_loss / total_weight if total_weight else 0.0
    evaluation = Evaluation(metrics={"loss": loss, **scored.metrics}, table=scored.table)
    return Predictions(rows, decoded, evaluation)


def evaluate_examples(
    model: TaskModel, task: Task, rows: Sequence[Mapping[str, Any]]
) -> Evaluation:
    """Encode rows and score them; a row that has nothing to score is left out.

    A task that reads windows is scored on all windows of a row.

    Raises:
        DataError: naming the row that can't be used.
    """
    return score_examples(model, task, rows).evaluation


def score_examples(model: TaskModel, task: Task, rows: Sequence[Mapping[str, Any]]) -> Predictions:
    """Encode rows, predict and score them; a row that has nothing to score is left out.

    A task that reads windows is scored on all windows of a row.

    Raises:
        DataError: naming the row that can't be used.
    """
    pairs: list[tuple[Mapping[str, Any], EncodedExample]] = []
    for number, row in enumerate(rows, start=1):
        for window in task.windows(row) if task.reads_windows else [row]:
            example = task.encode(window, number, train=True)
            if example is not None:
                pairs.append((window, example))
    return score_encoded(model, task, [row for row, _ in pairs], [each for _, each in pairs])
