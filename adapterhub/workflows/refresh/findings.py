"""What a refresh finds: drift, what it costs, and what a child forgets and gains."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Interval,
    interval_of,
    intervals,
    resampled,
)
from adapterhub.evaluation.drift import MIN_EXAMPLES, Drift, label_drift, text_drift
from adapterhub.evaluation.example_statistics import scores_of
from adapterhub.evaluation.paired_tests import differences
from adapterhub.training.embed import embed_examples
from adapterhub.training.evaluate import score_examples
from adapterhub.workflows.refresh.examples import counts_of

if TYPE_CHECKING:
    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.dataset import Dataset
    from adapterhub.evaluation.example_statistics import Scores
    from adapterhub.evaluation.paired_tests import Difference
    from adapterhub.tasks.base import Task
    from adapterhub.training.recipe import Recipe
    from adapterhub.workflows.refresh.examples import RefreshExamples

#: Dataset of each kind that are embedded; the test compares all pairs.
EMBEDDED_ROWS = 500


@dataclass(frozen=True, slots=True)
class Loss:
    """What the new rows cost the present version.

    Args:
        metric: that decides.
        greater_is_better: its direction.
        recorded: its value in the manifest, on the validation split; ``None`` where it has none.
        split: old split that it is compared with.
        old: value on that split.
        old_interval: of it.
        new: value on the new rows.
        new_interval: of it.
        change: interval of ``new - old``; the rows are other ones, so it is not paired.
    """

    metric: str
    greater_is_better: bool
    recorded: float | None
    split: str
    old: float
    old_interval: Interval
    new: float
    new_interval: Interval
    change: Interval

    @property
    def shown(self) -> bool:
        """Whether the new rows are answered worse by more than chance."""
        return self.change.high < 0 if self.greater_is_better else self.change.low > 0


@dataclass(frozen=True, slots=True)
class RefreshOutcome:
    """What became of the metrics: the parent beside its child, on the same rows.

    Args:
        split: old split on which forgetting is measured.
        forgetting: of each metric on that split, the child second.
        gain: of each metric on the new rows that nothing learned from.
    """

    split: str
    forgetting: tuple[Difference, ...]
    gain: tuple[Difference, ...]

    def document(self) -> dict[str, Any]:
        """Return it as plain JSON, the differences by metric."""
        return {
            "split": self.split,
            "forgetting": {each.metric: _record(each) for each in self.forgetting},
            "gain": {each.metric: _record(each) for each in self.gain},
        }


def find_drift(
    model: TaskModel,
    task: Task,
    rows: RefreshExamples,
    recipe: Recipe,
    *,
    level: float,
) -> Drift:
    """Test texts and labels of the new rows against those that the adapter learned from.

    Args:
        model: whose bare backbone embeds the texts.
        task: of the adapter.
        rows: old and new.
        recipe: of the adapter.
        level: chance of finding drift where there is none.
    """
    seed, old, new = recipe.data.split.seed, rows.old["train"], rows.new
    tests = []
    few = [rows.draw(each, EMBEDDED_ROWS) for each in (old, new)]
    embedded = [embed_examples(model, task, each.examples).numpy() for each in few]
    if min(map(len, embedded)) >= MIN_EXAMPLES:
        tests.append(text_drift(*embedded, seed=seed))
    counts = [counts_of(each, recipe, task.labels) for each in (old, new)]
    if all(sum(each.values()) for each in counts):
        tests.append(label_drift(*counts, seed=seed))
    return Drift(tuple(tests), level)


def score(model: TaskModel, task: Task, rows: Dataset) -> Scores:
    """Return what an adapter's metrics on rows are computed from."""
    scored = score_examples(model, task, rows.examples)
    return scores_of(task, scored.examples, scored.decoded)


def find_loss(old: Scores, new: Scores, metric: tuple[str, bool], **record: Any) -> Loss:
    """Compare the present version on new rows with itself on old ones.

    Args:
        old: its answers to the old split.
        new: its answers to the new rows.
        metric: that decides, and whether larger is better.
        record: ``recorded`` and ``split`` of the finding.
    """
    name, greater = metric
    # two seeds: the draws are of different rows and have nothing to do with each other
    drawn = [
        resampled(each, resamples=RESAMPLES, seed=seed)[name]
        for seed, each in enumerate((old, new))
    ]
    shortest = min(map(len, drawn))
    values = [_value(each, name) for each in (old, new)]
    return Loss(
        metric=name,
        greater_is_better=greater,
        old=values[0],
        old_interval=intervals(old)[name],
        new=values[1],
        new_interval=intervals(new)[name],
        change=interval_of(drawn[1][:shortest] - drawn[0][:shortest], LEVEL),
        **record,
    )


def compare_outcomes(
    split: str, parent: tuple[Scores, Scores], child: tuple[Scores, Scores]
) -> RefreshOutcome:
    """Compare parent and child on the old split and on new rows, both paired.

    Args:
        split: name of the old one.
        parent: its answers to the old split and to the new rows.
        child: likewise.
    """
    (old, new), (old_then, new_then) = parent, child
    return RefreshOutcome(
        split, tuple(differences(old, old_then)), tuple(differences(new, new_then))
    )


def _value(scores: Scores, name: str) -> float:
    import numpy as np

    return float(scores.metrics(np.arange(scores.size)[None, :])[name][0])


def _record(difference: Difference) -> dict[str, Any]:
    return {**asdict(difference), "difference": difference.value}
