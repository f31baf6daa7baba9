"""Import of adapters that peft saved elsewhere, as artifacts.

Tensors are not changed. The configuration is rewritten where it names its backbone by a folder of
another machine, or its modules by a pattern.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import RevisionNotFoundError

from adapterhub.adapters.artifact import as_peft_folder, read_peft_files, write_artifact
from adapterhub.adapters.artifact_folder import CARD_NAME, trainer_files
from adapterhub.adapters.local_paths import clean_text, replacements, without_local_paths
from adapterhub.adapters.low_rank import MAX_ERROR, MAX_RANK, RankLimits
from adapterhub.adapters.manifest import BackboneRef, Manifest, Metrics
from adapterhub.adapters.model_card import render_card
from adapterhub.adapters.peft_format import CONFIG_NAME, modules_to_save
from adapterhub.adapters.peft_kinds import needs_conversion
from adapterhub.adapters.tensor_checks import check_tensors_match
from adapterhub.backbones.catalog import find_entry
from adapterhub.backbones.fingerprint import full_fingerprint, weights_fingerprint
from adapterhub.backbones.resolve import ResolvedBackbone, public_match, resolve_base_model
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.errors import ArtifactError, BackboneError, RecipeError, did_you_mean
from adapterhub.specs import QuantizationSpec
from adapterhub.tasks.base import LANGUAGE_HEADS, TaskOptions
from adapterhub.tasks.table import TASKS, build_task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from adapterhub.adapters.artifact import PeftFolder
    from adapterhub.adapters.manifest import Conversion
    from adapterhub.backbones.resolve import ResolvedBackbone
    from adapterhub.tasks.base import Task

_LOG = logging.getLogger(__name__)
_COMMIT = re.compile("[0-9a-f]{40}")
#: Task for each ``TaskType`` of peft.
_TASKS: Mapping[str, str] = {
    "CAUSAL_LM": "dialogue",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
}
#: Name of the original model card beside the new one.
UPSTREAM_CARD = "UPSTREAM.md"
#: Largest size of an original card in bytes.
MAX_CARD = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Facts about an adapter that its files do not contain.

    Args:
        backbone: Name in the catalog, Hub id or folder; that in the configuration by default.
        quantization: Quantization of the backbone that the adapter is used with.
        task: Task of the adapter; that of peft's ``task_type`` by default.
        labels: Labels in the order of the head's outputs; ``LABEL_0`` and so on by default.
        max_error: Largest error of a conversion to LoRA, relative to the change of a layer's
            weights, in the Frobenius norm; a change of a smaller rank than ``max_rank`` is exact.
        max_rank: Largest rank of a converted layer.
    """

    backbone: str | None = None
    quantization: QuantizationSpec = field(default_factory=QuantizationSpec)
    task: str | None = None
    labels: tuple[str, ...] = ()
    max_error: float = MAX_ERROR
    max_rank: int = MAX_RANK

    def __post_init__(self) -> None:
        if not 0.0 < self.max_error < 1.0:
            raise RecipeError(
                f"must be above 0 and below 1, found {self.max_error}", place="max_error"
            )
        if self.max_rank < 1:
            raise RecipeError(f"must be 1 or more, found {self.max_rank}", place="max_rank")


def match_config(
    config: Mapping[str, Any], options: ImportOptions, *, place: str
) -> tuple[ResolvedBackbone, str]:
    """Return the backbone and the task of a peft configuration; nothing is fetched.

    Args:
        config: Parsed ``adapter_config.json``.
        options: Options of the user.
        place: Name of the adapter in error messages.

    Raises:
        BackboneError: When the backbone is unknown, or not the requested one.
        RecipeError: When the task is unknown.
    """
    base_model, revision = (_text(config, key) for key in ("base_model_name_or_path", "revision"))
    match = resolve_base_model(base_model, revision, options.backbone, place=place)
    return match, _task_of(_text(config, "task_type"), options.task, place)


def import_peft(
    folder: Path, target: Path, *, name: str, origin: str, options: ImportOptions | None = None
) -> str:
    """Write the artifact of an adapter that peft saved.

    The backbone is fetched if it is missing, since its fingerprint is part of the artifact. Every
    tensor is compared with the model that peft builds from the configuration. The backbone's
    weights are loaded only for an adapter that is converted to LoRA, that has a head, or that
    holds layers of the backbone.

    Args:
        folder: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        target: Folder of the artifact; must not exist.
        name: Name of the adapter, for the card.
        origin: Source of the adapter, for card and manifest.
        options: Options of the user.

    Returns:
        The digest.

    Raises:
        ArtifactError: Naming an unusable part of the folder.
        StrictLoadError: When the tensors do not match the backbone one to one.
        BackboneError: When the backbone is unknown, or not the requested one.
        RecipeError: When the task is unknown, or does not match the labels.
    """
    # imported here, since the pull of an artifact does not need transformers
    from adapterhub.backbones.architecture import backbone_kind, read_tokenizer

    options = options or ImportOptions()
    config, tensors = read_peft_files(folder)
    if left_out := trainer_files(folder):
        _LOG.info("left out, since they belong to a training run: %s", ", ".join(left_out))
    converts = needs_conversion(config)
    match, task = match_config(config, options, place=origin)
    backbone, match = _fetched(match, origin)
    labels = _labels(task, backbone, tensors, options.labels, str(folder))
    tokenizer = read_tokenizer(backbone)
    task_options = TaskOptions(max_length=min(TaskOptions().max_length, tokenizer.model_max_length))
    built = build_task(task, tokenizer, backbone_kind(backbone), labels, task_options)
    limits = RankLimits(options.max_error, options.max_rank)
    adapter = _fitted(folder, config, tensors, backbone, built, limits, converts=converts)
    fingerprint = full_fingerprint(weights_fingerprint(backbone), options.quantization)
    match = public_match(match, backbone, fingerprint)
    recipe = _how_to_use(match, task, task_options, origin)
    manifest = _manifest(adapter, match, built, fingerprint, recipe, options)
    return write_artifact(
        target,
        tensors=adapter.found.weights.tensors,
        adapter_config=_config(adapter.found, match),
        manifest=manifest,
        card=render_card(
            manifest,
            name=name,
            plot=None,
            pipeline_tag=built.pipeline_tag,
            license=match.license,
            task_type=built.peft_task_type,
        ),
        extra_files=_upstream_card(folder, replacements(manifest, config)),
    )


def _fetched(match: ResolvedBackbone, place: str) -> tuple[Path, ResolvedBackbone]:
    """Return the folder of a backbone, and the backbone with the revision that was fetched.

    Tools write their own names as the revision (Unsloth: ``unsloth``). A revision that the
    backbone does not have is left out; a commit that cannot be reached is an error.
    """
    try:
        return fetch_backbone(match.name, revision=match.revision), match
    except BackboneError as error:
        entry = find_entry(match.name)
        default = entry.revision if entry else None
        absent = isinstance(error.__cause__, RevisionNotFoundError)
        if match.revision in (None, default) or (_COMMIT.fullmatch(match.revision) and not absent):
            raise
        _LOG.warning(
            "%s: its configuration names the revision %r of %s, which cannot be fetched; "
            "the revision %s is used",
            place,
            match.revision,
            match.name,
            default or "main",
        )
    known = replace(match, revision=default)
    return fetch_backbone(known.name, revision=known.revision), known


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """An adapter that matches its backbone.

    Args:
        found: Adapter, converted where its method is not served as it is.
        conversion: How it was converted, if it was.
        backbone_parameters: Number of parameters of the backbone.
    """

    found: PeftFolder
    conversion: Conversion | None
    backbone_parameters: int


def _fitted(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    backbone: Path,
    task: Task,
    limits: RankLimits,
    *,
    converts: bool,
) -> _Fitted:
    """Return an adapter with the tensors that its configuration has on a backbone."""
    from adapterhub.backbones.compatibility import adapter_shape
    from adapterhub.hub.imported_tensors import (
        BackboneLayers,
        is_unread,
        with_whole_head,
        without_copies,
    )

    layers = BackboneLayers(backbone, task.head, task.labels)
    conversion = None
    if converts:
        from adapterhub.hub.peft_conversion import convert

        converted = convert(
            folder,
            config,
            tensors,
            backbone=backbone,
            head=task.head,
            labels=task.labels,
            limits=limits,
        )
        config, tensors = converted.adapter_config, converted.tensors
        conversion = converted.conversion
    if task.head not in LANGUAGE_HEADS:
        tensors, config = with_whole_head(tensors, config, layers, str(folder))
    tensors, changed = without_copies(tensors, modules_to_save(config), layers)
    found = as_peft_folder(folder, config, tensors)
    shape = adapter_shape(backbone, found.adapter_config, task.head, task.labels)
    check_tensors_match(
        str(folder),
        {k: each for k, each in shape.tensors.items() if k not in changed and not is_unread(k)},
        {key: tensor for key, tensor in tensors.items() if key not in changed},
    )
    return _Fitted(found, conversion, shape.backbone_parameters)


def _task_of(task_type: str | None, wanted: str | None, place: str) -> str:
    task = wanted or _TASKS.get(task_type or "")
    if task is None:
        found = f"peft's task type {task_type!r}" if task_type else "no task type"
        raise RecipeError(
            f"its configuration has {found}, which no task here uses",
            place=place,
            hint=f"Choose one with --task: {', '.join(TASKS)}",
        )
    if task not in TASKS:
        raise RecipeError(f"there is no task {task!r}", place=place, hint=did_you_mean(task, TASKS))
    return task


def _config(found: PeftFolder, match: ResolvedBackbone) -> dict[str, Any]:
    config: dict[str, Any] = without_local_paths(dict(found.adapter_config))
    config["base_model_name_or_path"] = match.hub_id or match.name
    config["revision"] = match.revision
    config["inference_mode"] = True
    return config


def _labels(
    task: str, backbone: Path, tensors: Mapping[str, Tensor], given: tuple[str, ...], place: str
) -> tuple[str, ...]:
    from adapterhub.hub.imported_tensors import count_labels

    if not TASKS[task].label_field:
        return ()
    count = count_labels(backbone, tensors)
    if count is None:
        raise ArtifactError(
            "has no classification head",
            place=place,
            hint="Save it with the classifier in modules_to_save",
        )
    if TASKS[task].label_field == "tags" and not given:
        raise RecipeError(
            f"its head has {count} outputs, and no file names their tags",
            place=place,
            hint="Name them in order: --labels O,B-PERSON,I-PERSON",
        )
    if given and len(given) != count:
        raise ArtifactError(
            f"its head has {count} outputs, {len(given)} labels were given", place=place
        )
    return given or tuple(f"LABEL_{index}" for index in range(count))


def _manifest(
    adapter: _Fitted,
    match: ResolvedBackbone,
    task: Task,
    fingerprint: str,
    recipe: Mapping[str, Any],
    options: ImportOptions,
) -> Manifest:
    found = adapter.found
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
        trained_parameters=found.weights.num_parameters,
        backbone_parameters=adapter.backbone_parameters,
        recipe=recipe,
        data={},
        metrics=Metrics(),
        seed=None,
        libraries={"peft": peft_version} if peft_version else {},
        conversion=adapter.conversion,
        unknown=tuple(sorted(unknown)),
    )


def _how_to_use(
    match: ResolvedBackbone, task: str, options: TaskOptions, origin: str
) -> dict[str, Any]:
    """Return the part of a recipe that is needed to use an adapter; the rest is unknown."""
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


def _upstream_card(folder: Path, replaced: Mapping[str, str]) -> dict[str, bytes]:
    card = folder / CARD_NAME
    if not card.is_file() or card.is_symlink() or card.stat().st_size > MAX_CARD:
        return {}
    text = card.read_bytes().decode("utf-8", "replace")
    return {UPSTREAM_CARD: clean_text(text, replaced).encode("utf-8")}


def _text(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise ArtifactError(f"must be text, found {value!r:.40}", place=f"{CONFIG_NAME}: {key}")
    return value or None
