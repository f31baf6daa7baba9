"""Two adapters on the same rows: which one is better, and could it be chance?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import read_artifact
from adapterhub.data.fingerprint import fingerprint
from adapterhub.errors import DataError, RecipeError, did_you_mean
from adapterhub.evaluation.bootstrap import LEVEL, RESAMPLES
from adapterhub.evaluation.example_statistics import scores_of, units_of
from adapterhub.evaluation.labelled import labelled
from adapterhub.evaluation.paired_tests import differences, mcnemar
from adapterhub.registry.policy import trusted_folder
from adapterhub.training.evaluate import score_examples
from adapterhub.workflows.open_adapter import open_adapter, open_session
from adapterhub.workflows.score import examples_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.data.dataset import Dataset
    from adapterhub.engine.session import LoadedAdapter, Session
    from adapterhub.evaluation.paired_tests import Difference, McNemar
    from adapterhub.registry.registry import Registry
    from adapterhub.tasks.base import Task
    from adapterhub.training.evaluate import Predictions


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing two adapters.

    Args:
        first: reference of the first.
        second: reference of the second.
        data: fingerprint of the rows.
        rows: how many there are.
        metric: by which it is decided.
        greater_is_better: its direction.
        differences: of each metric.
        mcnemar: over the rows that each has right, where an answer is right or wrong.
        level: confidence of the intervals.
    """

    first: str
    second: str
    data: str
    rows: int
    metric: str
    greater_is_better: bool
    differences: tuple[Difference, ...]
    mcnemar: McNemar | None
    level: float

    @property
    def decisive(self) -> Difference:
        """The difference of the metric by which it is decided."""
        return next(each for each in self.differences if each.metric == self.metric)

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance, at ``1 - level``."""
        return self.decisive.p_value < 1.0 - self.level

    @property
    def better(self) -> str | None:
        """Reference of the better one; ``None`` where no difference is shown."""
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
    """Compare two adapters of one task, row by row.

    Each is loaded on the backbone that it was trained on; these may differ.

    Args:
        registry: that holds both.
        first: reference.
        second: reference.
        path: of the rows, read as each one's recipe reads its data.
        metric: by which it is decided; the task's own where not given.
        fields: the task's field to the file's; the recipe's where not given.
        limit: only the first rows.
        resamples: of the bootstrap.
        level: confidence of the intervals; a p-value below ``1 - level`` decides.
        seed: of what is drawn.
        device: the first GPU where there is one, else the CPU.

    Raises:
        NotFoundError: when there is no such version.
        DataError: when the rows can't be used, or the two do not score the same ones.
        RecipeError: when they are for different tasks, or there is no such metric.
    """
    loaded = _open_both(registry, (first, second), device)
    scored = []
    for session, adapter in loaded:
        rows = examples_for(adapter, path, fields=fields, limit=limit)
        scored.append(
            (rows, score_examples(session.model(adapter.name), adapter.task, rows.examples))
        )
    (rows, one), (other_rows, two) = scored
    _check_same(rows, other_rows, one, two, path)
    tasks = [adapter.task for _, adapter in loaded]
    found = differences(
        scores_of(tasks[0], one.examples, one.decoded),
        scores_of(tasks[1], two.examples, two.decoded),
        resamples=resamples,
        level=level,
        seed=seed,
    )
    default = tasks[0].default_metric
    name = metric or default[0]
    if not any(each.metric == name for each in found):
        known = [each.metric for each in found]
        raise RecipeError(
            f"there is no metric {name!r}", place="metric", hint=did_you_mean(name, known)
        )
    return Comparison(
        first=loaded[0][1].name,
        second=loaded[1][1].name,
        data=fingerprint(rows),
        rows=len(units_of(tasks[0], one.examples)),
        metric=name,
        greater_is_better=_greater(name, default),
        differences=tuple(found),
        mcnemar=_mcnemar(tasks, one, two),
        level=level,
    )


def _open_both(
    registry: Registry, refs: tuple[str, str], device: str | None
) -> list[tuple[Session, LoadedAdapter]]:
    """Load two adapters, on one backbone where they were trained on the same."""
    versions = [registry.resolve(ref) for ref in refs]
    if versions[0].digest == versions[1].digest:
        raise RecipeError(f"is the same adapter as {versions[0].ref}", place=str(versions[1].ref))
    if versions[0].task != versions[1].task:
        raise RecipeError(
            f"is for {versions[1].task}, {versions[0].ref} for {versions[0].task}",
            place=str(versions[1].ref),
            hint="Only adapters for the same task can be compared",
        )
    session, first, _ = open_adapter(registry, str(versions[0].ref), device=device)
    artifact = read_artifact(trusted_folder(registry, versions[1]))
    if artifact.manifest.backbone.fingerprint == session.backbone.fingerprint:
        other = session
    else:
        other = open_session(artifact, device=device)
    return [(session, first), (other, other.load(artifact, name=str(versions[1].ref)))]


def _check_same(
    rows: Dataset, others: Dataset, one: Predictions, two: Predictions, path: Path
) -> None:
    if fingerprint(rows) != fingerprint(others) or one.examples != two.examples:
        raise DataError(
            "the two adapters do not read the same rows out of it",
            place=str(path),
            hint="Name the columns for both with --field, and leave out rows that are too long",
        )


def _greater(name: str, default: tuple[str, bool]) -> bool:
    return default[1] if name == default[0] else name not in ("loss", "perplexity")


def _mcnemar(tasks: Sequence[Task], one: Predictions, two: Predictions) -> McNemar | None:
    first, second = (
        labelled(task, scored.examples, scored.decoded)
        for task, scored in zip(tasks, (one, two), strict=True)
    )
    # words of a row depend on each other, so the test would be too sure of itself
    if first is None or second is None or first.unit != "examples":
        return None
    return mcnemar(first.correct, second.correct)
