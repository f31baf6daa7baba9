"""Compare two adapters on the same examples with paired significance tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import read_artifact
from adapterhub.data.splits import fingerprint
from adapterhub.errors import DataError, RecipeError, did_you_mean
from adapterhub.evaluation.bootstrap import LEVEL, RESAMPLES
from adapterhub.evaluation.example_statistics import scores_of, units_of
from adapterhub.evaluation.paired_tests import differences, mcnemar
from adapterhub.registry.policy import trusted_folder
from adapterhub.training.loop import larger_is_better
from adapterhub.workflows.open_adapter import open_adapter, open_engine
from adapterhub.workflows.score import score_examples
from adapterhub.workflows.stored_examples import check_comparable, examples_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.data.dataset import Dataset
    from adapterhub.engine.loaded_adapter import LoadedAdapter
    from adapterhub.evaluation.paired_tests import Difference, McNemar
    from adapterhub.registry.registry import Registry
    from adapterhub.tasks.base import Task
    from adapterhub.training.evaluate import Predictions


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences of two adapters, and McNemar's test where each prediction is right or wrong."""

    first: str
    second: str
    data: str
    num_examples: int
    metric: str
    greater_is_better: bool
    differences: tuple[Difference, ...]
    mcnemar: McNemar | None
    level: float

    @property
    def decisive(self) -> Difference:
        """Difference of the metric that decides."""
        return next(each for each in self.differences if each.metric == self.metric)

    @property
    def significant(self) -> bool:
        """Whether the decisive difference is significant at ``1 - level``."""
        return self.decisive.p_value < 1.0 - self.level

    @property
    def better(self) -> str | None:
        """Reference of the better adapter; ``None`` without a significant difference."""
        if not self.significant:
            return None
        return self.second if (self.decisive.value > 0) == self.greater_is_better else self.first


def compare(
    registry: Registry,
    first: str,
    second: str,
    path: Path,
    *,
    metric: str | None = None,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    device: str | None = None,
) -> Comparison:
    """Compare two adapters for one task, example by example.

    Each is loaded on the backbone that it was trained on; these may differ. The file is read as
    each adapter's recipe reads its data, unless ``fields`` maps its columns. The task's own
    metric decides unless one is named; a p-value below ``1 - level`` is significant.

    Raises:
        NotFoundError: when there is no such version.
        DataError: when the examples can't be used, or the two adapters do not read the same.
        RecipeError: when the adapters are for different tasks, or there is no such metric.
    """
    opened = _open_both(registry, (first, second), device)
    read = [examples_for(loaded.manifest, path, fields=fields, limit=limit) for loaded in opened]
    one, two = (
        score_examples(loaded, examples.examples)
        for loaded, examples in zip(opened, read, strict=True)
    )
    _check_same(read, one, two, path)
    tasks = [loaded.task for loaded in opened]
    found = differences(
        scores_of(tasks[0], one.examples, one.decoded),
        scores_of(tasks[1], two.examples, two.decoded),
        resamples=resamples,
        level=level,
        seed=seed,
    )
    name = metric or tasks[0].default_metric[0]
    known = [each.metric for each in found]
    if name not in known:
        hint = did_you_mean(name, known)
        raise RecipeError(f"there is no metric {name!r}", place="metric", hint=hint)
    return Comparison(
        first=opened[0].name,
        second=opened[1].name,
        data=fingerprint(read[0]),
        num_examples=len(units_of(tasks[0], one.examples)),
        metric=name,
        greater_is_better=larger_is_better(name, tasks[0].default_metric),
        differences=tuple(found),
        mcnemar=_mcnemar(tasks, one, two),
        level=level,
    )


def _open_both(
    registry: Registry, refs: tuple[str, str], device: str | None
) -> list[LoadedAdapter]:
    """Load two adapters, on one backbone where they were trained on the same."""
    one, two = (registry.resolve(ref) for ref in refs)
    check_comparable(one, two)
    first, _ = open_adapter(registry, str(one.ref), device=device)
    artifact = read_artifact(trusted_folder(registry, two))
    shared = artifact.manifest.backbone.fingerprint == first.backbone.fingerprint
    local = first.local if shared else open_engine(artifact, device=device)
    return [first, local.load(artifact, name=str(two.ref))]


def _check_same(read: Sequence[Dataset], one: Predictions, two: Predictions, path: Path) -> None:
    if fingerprint(read[0]) != fingerprint(read[1]) or one.examples != two.examples:
        raise DataError(
            "the two adapters do not read the same examples from it",
            place=str(path),
            hint="Name the columns for both with --field, and leave out examples that are too long",
        )


def _mcnemar(tasks: Sequence[Task], one: Predictions, two: Predictions) -> McNemar | None:
    first, second = (
        task.label_choices(scored.examples, scored.decoded)
        for task, scored in zip(tasks, (one, two), strict=True)
    )
    # the words of an example are not independent, so the test would be overconfident
    if first is None or second is None or first.unit != "examples":
        return None
    return mcnemar(first.correct, second.correct)
