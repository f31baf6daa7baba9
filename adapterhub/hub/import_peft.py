"""An adapter that peft saved elsewhere, made an artifact: what is known, and what is not.

The tensors stay as they are. The configuration is written anew where it names its backbone by
a folder of another machine, or its modules by a pattern.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact import read_peft_folder, write_artifact
from adapterhub.adapters.artifact_folder import CARD_NAME
from adapterhub.adapters.manifest import BackboneRef, Manifest, Metrics
from adapterhub.adapters.model_card import render_card
from adapterhub.adapters.peft_format import CONFIG_NAME
from adapterhub.adapters.tensor_checks import check_tensors_match
from adapterhub.backbones.fingerprint import full_fingerprint, weights_fingerprint
from adapterhub.backbones.resolve import resolve_base_model
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.errors import ArtifactError, RecipeError, did_you_mean
from adapterhub.specs import QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import TASKS, build_task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from adapterhub.adapters.artifact import PeftFolder
    from adapterhub.backbones.compatibility import AdapterShape
    from adapterhub.backbones.resolve import ResolvedBackbone
    from adapterhub.tasks.base import Task

#: peft's ``TaskType`` to the task that reads its head.
_TASKS: Mapping[str, str] = {
    "CAUSAL_LM": "dialogue",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
}
_HEAD_WEIGHT = re.compile(r"(.*\.)?(classifier|score)(\.modules_to_save)?\.weight")
#: The card that came with the adapter, kept beside the one that is written here.
UPSTREAM_CARD = "UPSTREAM.md"
#: Largest card that is kept, in bytes.
MAX_CARD = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a user says of an adapter whose files do not say it.

    Args:
        backbone: of the catalog, a Hub id or a folder; the one that the adapter names where
            not given.
        quantization: how the backbone's weights are held where the adapter is used.
        task: the one that peft's ``task_type`` stands for where not given.
        labels: in the order of the head's outputs; ``LABEL_0`` and so on where not given.
    """

    backbone: str | None = None
    quantization: QuantizationSpec = field(default_factory=QuantizationSpec)
    task: str | None = None
    labels: tuple[str, ...] = ()


def match_config(
    config: Mapping[str, Any], options: ImportOptions, *, place: str
) -> tuple[ResolvedBackbone, str]:
    """Return the backbone and the task of a peft configuration; nothing is fetched.

    Args:
        config: ``adapter_config.json`` as parsed.
        options: of the user.
        place: the adapter, for messages.

    Raises:
        BackboneError: when the backbone is not known, or another one than was asked for.
        RecipeError: when the task is not known.
    """
    base_model, revision = (_text(config, key) for key in ("base_model_name_or_path", "revision"))
    match = resolve_base_model(base_model, revision, options.backbone, place=place)
    return match, _task_of(_text(config, "task_type"), options.task, place)


def import_peft(
    folder: Path, target: Path, *, name: str, origin: str, options: ImportOptions | None = None
) -> str:
    """Write the artifact of an adapter that peft saved.

    The backbone is fetched where it is not there yet, because its fingerprint is part of the
    artifact; its weights are read for the digest and not loaded. Every tensor is compared with
    what peft makes of the configuration on the backbone's architecture.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``; left as it is.
        target: of the artifact; must not exist.
        name: of the adapter, for the card.
        origin: where it came from, for the card and the manifest.
        options: of the user.

    Returns:
        The digest.

    Raises:
        ArtifactError: naming what of the folder can't be used.
        StrictLoadError: when its tensors do not fit the backbone one to one.
        BackboneError: when the backbone can't be found, or is another one.
        RecipeError: when the task is not known, or does not fit the labels.
    """
    # a pull of an artifact, which imports this file, needs no library for models
    from adapterhub.backbones.architecture import backbone_kind, read_tokenizer
    from adapterhub.backbones.compatibility import adapter_shape

    options = options or ImportOptions()
    found = read_peft_folder(folder)
    match, task = match_config(found.adapter_config, options, place=origin)
    backbone = fetch_backbone(match.name, revision=match.revision)
    config = _config(found, match)
    tensors = found.weights.tensors
    labels = _labels(task, tensors, options.labels, str(folder))
    tokenizer = read_tokenizer(backbone)
    task_options = TaskOptions(max_length=min(TaskOptions().max_length, tokenizer.model_max_length))
    built = build_task(task, tokenizer, backbone_kind(backbone), labels, task_options)
    shape = adapter_shape(backbone, config, built.head, labels)
    check_tensors_match(origin, shape.tensors, tensors)
    fingerprint = full_fingerprint(weights_fingerprint(backbone), options.quantization)
    recipe = _how_to_use(match, task, task_options, origin)
    manifest = _manifest(found, match, built, shape, fingerprint, recipe, options)
    return write_artifact(
        target,
        tensors=tensors,
        adapter_config=config,
        manifest=manifest,
        card=render_card(
            manifest, name=name, plot=None, pipeline_tag=built.pipeline_tag, license=match.license
        ),
        extra_files=_upstream_card(folder),
    )


def _task_of(task_type: str | None, asked: str | None, place: str) -> str:
    task = asked or _TASKS.get(task_type or "")
    if task is None:
        said = f"peft's task type {task_type!r}" if task_type else "no task type"
        raise RecipeError(
            f"its configuration has {said}, which stands for no task here",
            place=place,
            hint=f"Say which it is with --task: {', '.join(TASKS)}",
        )
    if task not in TASKS:
        raise RecipeError(f"there is no task {task!r}", place=place, hint=did_you_mean(task, TASKS))
    return task


def _config(found: PeftFolder, match: ResolvedBackbone) -> dict[str, Any]:
    config = dict(found.adapter_config)
    config["base_model_name_or_path"] = match.hub_id or match.name
    config["revision"] = match.revision
    config["inference_mode"] = True
    return config


def _labels(
    task: str, tensors: Mapping[str, Tensor], asked: tuple[str, ...], place: str
) -> tuple[str, ...]:
    if not TASKS[task].label_counter:
        return ()
    heads = [tensor for key, tensor in tensors.items() if _HEAD_WEIGHT.fullmatch(key)]
    if len(heads) != 1 or heads[0].dim() != 2:
        raise ArtifactError(
            "holds no head that tells labels apart",
            place=place,
            hint="Save it with modules_to_save naming its classifier",
        )
    count = heads[0].shape[0]
    if asked and len(asked) != count:
        raise ArtifactError(
            f"its head has {count} outputs, {len(asked)} labels were given", place=place
        )
    return asked or tuple(f"LABEL_{index}" for index in range(count))


def _manifest(
    found: PeftFolder,
    match: ResolvedBackbone,
    task: Task,
    shape: AdapterShape,
    fingerprint: str,
    recipe: Mapping[str, Any],
    options: ImportOptions,
) -> Manifest:
    tensors = found.weights.tensors
    peft_version = _text(found.adapter_config, "peft_version")
    unknown = {"data", "metrics", "quantization", "recipe", "seed"}
    unknown |= set() if peft_version else {"libraries"}
    unknown |= {"labels"} if task.labels and not options.labels else set()
    unknown |= set() if match.certain else {"backbone"}
    return Manifest(
        task=task.name,
        labels=tuple(task.labels),
        backbone=BackboneRef(
            name=match.name,
            fingerprint=fingerprint,
            hub_id=match.hub_id,
            revision=match.revision,
        ),
        quantization=options.quantization,
        adapter=found.weights.spec,
        trained_parameters=sum(tensor.numel() for tensor in tensors.values()),
        backbone_parameters=shape.backbone_parameters,
        recipe=recipe,
        data={},
        metrics=Metrics(),
        seed=None,
        libraries={"peft": peft_version} if peft_version else {},
        unknown=tuple(sorted(unknown)),
    )


def _how_to_use(
    match: ResolvedBackbone, task: str, options: TaskOptions, origin: str
) -> dict[str, Any]:
    """Return what of a recipe is needed to use an adapter; the rest nobody recorded."""
    return {
        "description": f"imported from {origin}",
        "backbone": {"name": match.name, "revision": match.revision},
        "task": {
            "name": task,
            "max_length": options.max_length,
            "max_new_tokens": options.max_new_tokens,
            "system_prompt": options.system_prompt,
        },
    }


def _upstream_card(folder: Path) -> dict[str, bytes]:
    card = folder / CARD_NAME
    if not card.is_file() or card.is_symlink() or card.stat().st_size > MAX_CARD:
        return {}
    return {UPSTREAM_CARD: card.read_bytes()}


def _text(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise ArtifactError(f"must be text, found {value!r:.40}", place=f"{CONFIG_NAME}: {key}")
    return value or None
