"""Put a trained adapter, and all that is known of it, into an artifact folder."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from adapterhub.adapters.artifact import write_artifact
from adapterhub.adapters.manifest import BackboneRef, DataSource, Manifest, Metrics
from adapterhub.adapters.model_card import render_card
from adapterhub.data.splits import fingerprint
from adapterhub.errors import MissingExtraError
from adapterhub.training.curves import PLOT_NAMES, draw, read_curves

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.tasks.base import Task
    from adapterhub.training.loop import LoopResult
    from adapterhub.training.prepare import PreparedData
    from adapterhub.training.recipe import Recipe

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors")


def save_adapter(
    folder: Path,
    *,
    recipe: Recipe,
    data: PreparedData,
    task: Task,
    model: TaskModel,
    outcome: LoopResult,
    log: Path,
) -> str:
    """Write the artifact and return its digest.

    The same training run gives the same bytes: nothing in the folder tells when or where it
    was made, or how long it took.

    Args:
        folder: of the artifact; must not exist.
        recipe: of the run.
        data: that it learned from.
        task: that it learned.
        model: with the weights to keep.
        outcome: of the loop.
        log: from which the plot is drawn.
    """
    manifest = _manifest(recipe, data, task, model, outcome)
    plots = _plots(log, recipe.name)
    card = render_card(
        manifest,
        name=recipe.name,
        plot=PLOT_NAMES[0] if plots else None,
        pipeline_tag=task.pipeline_tag,
        license=model.backbone.license,
    )
    return write_artifact(
        folder,
        tensors=model.tensors(),
        adapter_config=model.config_document(),
        manifest=manifest,
        card=card,
        extra_files=plots,
    )


def _manifest(
    recipe: Recipe, data: PreparedData, task: Task, model: TaskModel, outcome: LoopResult
) -> Manifest:
    backbone = model.backbone
    return Manifest(
        task=task.name,
        labels=task.labels,
        backbone=BackboneRef(
            name=backbone.name,
            fingerprint=backbone.fingerprint,
            hub_id=backbone.hub_id,
            revision=backbone.revision,
        ),
        quantization=backbone.quantization,
        adapter=recipe.adapter.spec(),
        trained_parameters=sum(parameter.numel() for _, parameter in model.trainable()),
        backbone_parameters=backbone.parameters,
        recipe=recipe.model_dump(mode="json"),
        data={
            name: DataSource(fingerprint=fingerprint(rows), rows=len(rows), origin=rows.origin)
            for name, rows in data.splits.items()
        },
        metrics=Metrics(before=_finite(outcome.before), after=_finite(outcome.after.metrics)),
        seed=recipe.train.seed,
        libraries={name: version(name) for name in LIBRARIES} | {"torch": torch.__version__},
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what JSON can't hold."""
    return {name: value for name, value in metrics.items() if abs(value) != float("inf")}


def _plots(log: Path, title: str) -> dict[str, bytes]:
    try:
        return draw(read_curves(log), title=title)
    except MissingExtraError as error:
        logger.warning("no plot is drawn: %s", error)
        return {}
