"""Learning curve: the metric against the number of training examples, with a forecast."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from adapterhub.errors import RecipeError
from adapterhub.evaluation.power_law import fit_power_law
from adapterhub.tasks.table import entry_of
from adapterhub.training.batch_schedule import DEFAULT_BATCH_SIZE, DEFAULT_EPOCHS
from adapterhub.training.loop import watched_metric
from adapterhub.training.prepare import prepare_data
from adapterhub.training.progress import Reporters
from adapterhub.training.run_folder import ARTIFACT_NAME
from adapterhub.training.setup import open_backbone
from adapterhub.training.sweep.space import with_values
from adapterhub.training.train import train

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.training.prepare import PreparedData
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.train import TrainFunction

#: What limits a point: the number of examples of each label, or of all examples.
LimitBy: TypeAlias = Literal["label", "examples"]

POINT_NAME = "point.json"
#: Fewest optimizer steps of a point: a few examples would otherwise be seen a few times only.
LEAST_STEPS = 60
#: Default number of points, each with twice the examples of the previous one.
POINTS = 6
#: Recipe key that limits a point.
_KEYS: Mapping[LimitBy, str] = {"label": "data.limit_per_label", "examples": "data.limit_train"}
#: Prefix of a point's run folder.
_FOLDERS: Mapping[LimitBy, str] = {"label": "label", "examples": "rows"}


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One training run of the curve, with the bootstrap interval of its validation metric."""

    limit: int
    num_examples: int
    value: float
    low: float | None
    high: float | None
    steps: int
    seconds: float
    digest: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """Extrapolation of the curve to twice the examples of the last point.

    ``gain`` is the improvement over the last point, ``ceiling`` the metric with unlimited
    examples.
    """

    num_examples: int
    value: float
    gain: float
    ceiling: float


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """A learning curve, with a forecast where a power law fits its points."""

    folder: Path
    metric: str
    greater_is_better: bool
    limit_by: LimitBy
    points: Sequence[CurvePoint]
    forecast: Forecast | None


def measure_learning_curve(
    recipe: Recipe,
    *,
    limits: Sequence[int] | None = None,
    limit_by: LimitBy | None = None,
    least_steps: int = LEAST_STEPS,
    folder: Path | None = None,
    reporter: Reporter | None = None,
    device: str | None = None,
    cache: Path | None = None,
    train_point: TrainFunction = train,
) -> LearningCurve:
    """Train the recipe on growing subsets of its data, scored on the same validation examples.

    Each subset contains the smaller ones. Called again, it trains only the missing points, and
    resumes an interrupted one.

    Args:
        recipe: Recipe to train.
        limits: Limit of each point; all examples, a half, a quarter, … where not given.
        limit_by: Whether limits count examples of each label, or all examples; by label where
            examples have one.
        least_steps: Fewest optimizer steps of a point.
        folder: Folder of the runs; ``runs/NAME-learn-curve`` where not given.
        reporter: Receiver of progress events.
        device: Device; the first GPU where there is one, else the CPU.
        cache: Root of the backbone cache.
        train_point: Function that trains one point.

    Raises:
        RecipeError: naming the key or limit at fault.
        DataError: naming file, example or split.
        TrainingInterrupted: after Ctrl-C or SIGTERM; call again to continue.
    """
    data = prepare_data(recipe)
    limit_by = limit_by or ("label" if _has_label(data) else "examples")
    if limits is not None:
        # the limit of a few-shot recipe does not bound the given points
        recipe = with_values(recipe, {_KEYS[limit_by]: None})
        data = prepare_data(recipe)
    planned = _limits(limits, data, limit_by)
    entry = entry_of(recipe.task.name)
    metric, greater = watched_metric(recipe.train, entry.default_metric)
    place = folder or Path("runs") / f"{recipe.name}-learn-curve"
    reporters = Reporters([reporter] if reporter else [])
    backbone: Backbone | None = None
    points = []
    for limit in planned:
        changed = _limited(recipe, limit, limit_by, least_steps)
        run = place / f"{_FOLDERS[limit_by]}-{limit:06}"
        point = _known(run, changed)
        if point is None:
            backbone = backbone or open_backbone(recipe, device=device, cache=cache)
            reporters.on_message(
                f"point with {limit} {'examples per label' if limit_by == 'label' else 'examples'}"
            )
            point = _train(changed, run, metric, limit, backbone, reporters, train_point)
        points.append(point)
    points.sort(key=lambda each: each.num_examples)
    predicted = forecast(points, best=entry.best if greater else 0.0)
    return LearningCurve(place, metric, greater, limit_by, points, predicted)


def forecast(points: Sequence[CurvePoint], *, best: float) -> Forecast | None:
    """Return the metric at twice the examples, by a power law fitted to the points.

    ``best`` is the best possible value of the metric; 0 for one that is better when smaller.
    """
    sign = -1.0 if best else 1.0
    # a metric that is better when larger is fitted as its distance to the best value
    law = fit_power_law([p.num_examples for p in points], [best + sign * p.value for p in points])
    if law is None:
        return None
    last = points[-1].num_examples
    now, then = law.error(last), law.error(2 * last)
    return Forecast(
        num_examples=2 * last,
        value=sign * (then - best),
        gain=now - then,
        ceiling=sign * (law.floor - best),
    )


def _has_label(data: PreparedData) -> bool:
    return all("label" in example for example in data.splits["train"].examples)


def _limits(given: Sequence[int] | None, data: PreparedData, limit_by: LimitBy) -> list[int]:
    by_label = limit_by == "label" and data.label_counts
    most = max(data.label_counts.values()) if by_label else len(data.splits["train"])
    if given is None:
        halves = {max(1, most // 2**power) for power in range(POINTS)}
        # one example per label is hardly anything to learn from
        return sorted(limit for limit in halves if limit > 1 or most == 1)
    for limit in given:
        if limit < 1:
            raise RecipeError(f"a limit is 1 or more, not {limit}", place="limits")
    return sorted({min(limit, most) for limit in given})


def _limited(recipe: Recipe, limit: int, limit_by: LimitBy, least_steps: int) -> Recipe:
    """Return the recipe of a point, with enough steps to learn from its examples."""
    changed = with_values(recipe, {_KEYS[limit_by]: limit})
    section = changed.train
    if section.steps is not None or section.batch_tokens is not None:
        return changed
    num_examples = len(prepare_data(changed).splits["train"])
    batch = (section.batch_size or DEFAULT_BATCH_SIZE) * section.gradient_accumulation
    epochs = section.epochs or DEFAULT_EPOCHS
    steps = math.ceil(num_examples / batch) * epochs
    if steps >= least_steps:
        return changed
    values: dict[str, Any] = {"train.epochs": None, "train.steps": least_steps}
    if section.evaluate_every is None:
        values["train.evaluate_every"] = max(1, least_steps // epochs)
    return with_values(changed, values)


def _train(
    recipe: Recipe,
    run: Path,
    metric: str,
    limit: int,
    backbone: Backbone,
    reporter: Reporter,
    train_point: TrainFunction,
) -> CurvePoint:
    if (run / ARTIFACT_NAME).exists():
        # killed before the point was written
        shutil.rmtree(run)
    result = train_point(recipe, output=run, resume=True, reporter=reporter, backbone=backbone)
    interval = result.intervals.get(metric)
    data = result.evidence.data if result.evidence else prepare_data(recipe)
    point = CurvePoint(
        limit=limit,
        num_examples=len(data.splits["train"]),
        value=result.after[metric],
        low=interval.low if interval and math.isfinite(interval.low) else None,
        high=interval.high if interval and math.isfinite(interval.high) else None,
        steps=result.steps,
        seconds=result.seconds,
        digest=result.digest,
    )
    document = {"recipe": _digest(recipe), "rows": point.num_examples, **asdict(point)}
    del document["num_examples"]
    (run / POINT_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return point


def _known(run: Path, recipe: Recipe) -> CurvePoint | None:
    """Return the point of a run that the same recipe trained before."""
    path = run / POINT_NAME
    if not path.is_file():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    if document.pop("recipe") != _digest(recipe):
        raise RecipeError(
            "holds a point of another recipe",
            place=str(run),
            hint="Choose another folder with --output, or remove this one",
        )
    return CurvePoint(num_examples=document.pop("rows"), **document)


def _digest(recipe: Recipe) -> str:
    text = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
    return sha256(text.encode()).hexdigest()
