"""The metric against the number of labels, so that one knows whether more labelling pays."""

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
from adapterhub.training.loop import DEFAULT_BATCH_SIZE, DEFAULT_EPOCHS, watched_metric
from adapterhub.training.prepare import prepare_data
from adapterhub.training.progress import Reporters
from adapterhub.training.sweep.space import with_values
from adapterhub.training.train import ARTIFACT_NAME, open_backbone, train
from adapterhub.workflows.run_report.report import SUMMARY_NAME, WITHOUT_BIAS_AUDIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.training.prepare import PreparedData
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe

#: How a point is cut: so many rows of each label, or so many rows.
Cut: TypeAlias = Literal["label", "rows"]

POINT_NAME = "point.json"
#: Fewest optimizer steps of a point: a handful of rows would else be seen a handful of times.
LEAST_STEPS = 60
#: Points where none are asked for, each with twice the rows of the one before.
POINTS = 6
#: The recipe's key that makes a point.
_KEYS: Mapping[Cut, str] = {"label": "data.limit_per_label", "rows": "data.limit_train"}


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One training run of the curve.

    Args:
        limit: rows of each label, or rows.
        rows: training rows.
        value: of the metric on the validation rows.
        low: lower end of its bootstrap interval, where it has one.
        high: upper end.
        steps: optimizer steps.
        seconds: spent in training steps.
        digest: of the adapter.
    """

    limit: int
    rows: int
    value: float
    low: float | None
    high: float | None
    steps: int
    seconds: float
    digest: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """What twice the labels would bring, if the curve goes on as it went.

    Args:
        rows: twice those of the last point.
        value: of the metric then.
        gain: over the law's value at the last point; above 0 where it gets better.
        ceiling: of the metric with labels without end.
    """

    rows: int
    value: float
    gain: float
    ceiling: float


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """The whole curve.

    Args:
        folder: of the runs.
        metric: on the validation rows.
        greater_is_better: its direction.
        cut: how points were cut.
        points: by number of rows.
        forecast: ``None`` where there are too few points, or no law fits them.
    """

    folder: Path
    metric: str
    greater_is_better: bool
    cut: Cut
    points: Sequence[CurvePoint]
    forecast: Forecast | None


def measure_learning_curve(
    recipe: Recipe,
    *,
    limits: Sequence[int] | None = None,
    cut: Cut | None = None,
    least_steps: int = LEAST_STEPS,
    folder: Path | None = None,
    reporter: Reporter | None = None,
    device: str | None = None,
    cache: Path | None = None,
) -> LearningCurve:
    """Train the recipe on more and more rows, all scored on the same validation rows.

    Fewer rows are among those of the next point. Called again, it trains only the points that
    are missing, and goes on in the middle of one that was cut off.

    Args:
        recipe: that is trained.
        limits: of each point; halves of all rows where not given.
        cut: whether limits count rows of each label, or rows; by label where rows have one.
        least_steps: fewest optimizer steps of a point.
        folder: of the runs; ``runs/NAME-learn-curve`` where not given.
        reporter: hears of every step.
        device: the first GPU where there is one, else the CPU.
        cache: root of the backbone cache.

    Raises:
        RecipeError: naming the key, or the limit that is none.
        DataError: naming file, row or split.
        TrainingInterrupted: after Ctrl-C or SIGTERM; call again to go on.
    """
    data = prepare_data(recipe)
    cut = cut or ("label" if _has_label(data) else "rows")
    if limits is not None:
        # a few-shot recipe has a limit of its own, which is not to bound the points asked for
        recipe = with_values(recipe, {_KEYS[cut]: None})
        data = prepare_data(recipe)
    planned = _limits(limits, data, cut)
    entry = entry_of(recipe.task.name)
    metric, greater = watched_metric(recipe.train, entry.default_metric)
    place = folder or Path("runs") / f"{recipe.name}-learn-curve"
    teller = Reporters([reporter] if reporter else [])
    backbone: Backbone | None = None
    points = []
    for limit in planned:
        changed = _cut_recipe(recipe, limit, cut, least_steps)
        run = place / f"{cut}-{limit:06}"
        point = _known(run, changed)
        if point is None:
            backbone = backbone or open_backbone(recipe, device=device, cache=cache)
            teller.on_message(f"point {cut} {limit}")
            point = _train(changed, run, metric, limit, backbone, teller)
        points.append(point)
    points.sort(key=lambda each: each.rows)
    foretold = forecast(points, best=entry.top if greater else 0.0)
    return LearningCurve(place, metric, greater, cut, points, foretold)


def forecast(points: Sequence[CurvePoint], *, best: float) -> Forecast | None:
    """Return what twice the labels would bring, by a power law through the points.

    Args:
        points: by number of rows.
        best: value of the metric that nothing beats: 0 for one that is better when smaller.
    """
    sign = -1.0 if best else 1.0
    # a metric that is best when large counts from its best value down
    law = fit_power_law([p.rows for p in points], [best + sign * p.value for p in points])
    if law is None:
        return None
    last = points[-1].rows
    now, then = law.error(last), law.error(2 * last)
    return Forecast(
        rows=2 * last,
        value=sign * (then - best),
        gain=now - then,
        ceiling=sign * (law.floor - best),
    )


def _has_label(data: PreparedData) -> bool:
    return all("label" in row for row in data.splits["train"].examples)


def _limits(given: Sequence[int] | None, data: PreparedData, cut: Cut) -> list[int]:
    rows = len(data.splits["train"])
    most = max(data.label_counts.values()) if cut == "label" and data.label_counts else rows
    if given is None:
        halves = {max(1, most // 2**power) for power in range(POINTS)}
        # below two rows a label there is hardly anything to learn from
        return sorted(limit for limit in halves if limit > 1 or most == 1)
    for limit in given:
        if limit < 1:
            raise RecipeError(f"{limit} is no number of rows", place="limits")
    return sorted({min(limit, most) for limit in given})


def _cut_recipe(recipe: Recipe, limit: int, cut: Cut, least_steps: int) -> Recipe:
    changed = with_values(recipe, {_KEYS[cut]: limit})
    section = changed.train
    if section.steps is not None or section.batch_tokens is not None:
        return changed
    rows = len(prepare_data(changed).splits["train"])
    batch = (section.batch_size or DEFAULT_BATCH_SIZE) * section.gradient_accumulation
    epochs = section.epochs or DEFAULT_EPOCHS
    steps = math.ceil(rows / batch) * epochs
    if steps >= least_steps:
        return changed
    values: dict[str, Any] = {"train.epochs": None, "train.steps": least_steps}
    if section.evaluate_every is None:
        values["train.evaluate_every"] = max(1, least_steps // epochs)
    return with_values(changed, values)


def _train(
    recipe: Recipe, run: Path, metric: str, limit: int, backbone: Backbone, reporter: Reporter
) -> CurvePoint:
    if (run / ARTIFACT_NAME).exists():
        # it was killed before its point was written
        shutil.rmtree(run)
    result = train(
        recipe,
        output=run,
        resume=True,
        reporter=reporter,
        backbone=backbone,
        report=WITHOUT_BIAS_AUDIT,
    )
    summary = json.loads((run / SUMMARY_NAME).read_text(encoding="utf-8"))
    interval = summary["metrics"][metric]["interval"] or {}
    point = CurvePoint(
        limit=limit,
        rows=next(s["rows"] for s in summary["data"]["splits"] if s["name"] == "train"),
        value=result.after[metric],
        low=interval.get("low"),
        high=interval.get("high"),
        steps=result.steps,
        seconds=result.seconds,
        digest=result.digest,
    )
    document = {"recipe": _digest(recipe), **asdict(point)}
    (run / POINT_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return point


def _known(run: Path, recipe: Recipe) -> CurvePoint | None:
    """Return a point that was trained before by the same recipe."""
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
    return CurvePoint(**document)


def _digest(recipe: Recipe) -> str:
    text = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
    return sha256(text.encode()).hexdigest()
