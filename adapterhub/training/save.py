"""Write a trained adapter and its manifest as an artifact folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.adapters.artifact import write_artifact
from adapterhub.adapters.local_paths import without_local_paths
from adapterhub.adapters.manifest import BackboneRef, DataSource, Manifest, Metrics
from adapterhub.adapters.model_card import render_card
from adapterhub.adapters.peft_format import spec_of
from adapterhub.data.splits import fingerprint
from adapterhub.errors import MissingExtraError
from adapterhub.specs import LoraSpec
from adapterhub.training.curves import PLOT_NAMES, plot_curves, read_curves

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.specs import AdapterSpec
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.result import TrainingEvidence

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors")


def save_adapter(
    folder: Path,
    *,
    evidence: TrainingEvidence,
    model: TaskModel,
    metrics_before: Mapping[str, float],
    log: Path,
    continues: bool = False,
) -> str:
    """Write the artifact and return its digest.

    Equal runs give equal bytes: nothing in the folder depends on when or where it was written,
    or on how long training took.
    """
    manifest = _manifest(evidence, model, metrics_before)
    plots = _plots(log, evidence.recipe.name)
    card = render_card(
        manifest,
        name=evidence.recipe.name,
        plot=PLOT_NAMES[0] if plots else None,
        pipeline_tag=evidence.task.pipeline_tag,
        license=model.backbone.license,
        continues=continues,
        task_type=evidence.task.peft_task_type,
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
    evidence: TrainingEvidence, model: TaskModel, metrics_before: Mapping[str, float]
) -> Manifest:
    recipe, backbone = evidence.recipe, model.backbone
    return Manifest(
        task=evidence.task.name,
        labels=evidence.task.labels,
        backbone=BackboneRef(
            name=backbone.public_name,
            fingerprint=backbone.fingerprint,
            hub_id=backbone.hub_id,
            revision=backbone.revision,
        ),
        quantization=backbone.quantization,
        adapter=_spec(recipe.adapter.spec(), model),
        trained_parameters=sum(parameter.numel() for _, parameter in model.trainable()),
        backbone_parameters=backbone.parameters,
        recipe=_portable_recipe(recipe, backbone),
        data={
            name: DataSource(
                fingerprint=fingerprint(split), num_examples=len(split), origin=split.origin
            )
            for name, split in evidence.data.splits.items()
        },
        metrics=Metrics(
            before=_finite(metrics_before), after=_finite(evidence.after.evaluation.metrics)
        ),
        seed=recipe.train.seed,
        libraries={name: version(name) for name in LIBRARIES} | {"torch": torch.__version__},
    )


def _portable_recipe(recipe: Recipe, backbone: Backbone) -> dict[str, Any]:
    """Return a recipe as plain data that names no folder of this machine."""
    document: dict[str, Any] = without_local_paths(recipe.model_dump(mode="json"))
    document["backbone"]["name"] = (
        backbone.public_name if backbone.is_local else recipe.backbone.name
    )
    return document


def _spec(requested: AdapterSpec, model: TaskModel) -> AdapterSpec:
    """Return what was requested, with what peft found out about the layers of the backbone.

    It knows how a layer lays out its weight, and adapts the parameters of experts where a target
    names what they hold.
    """
    found = spec_of(model.config_document())
    if not isinstance(requested, LoraSpec) or not isinstance(found, LoraSpec):
        return requested
    return replace(found, target_modules=requested.target_modules)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what JSON can't hold."""
    return {name: value for name, value in metrics.items() if abs(value) != float("inf")}


def _plots(log: Path, title: str) -> dict[str, bytes]:
    try:
        return plot_curves(read_curves(log), title=title)
    except MissingExtraError as error:
        logger.warning("no plot is drawn: %s", error)
        return {}
