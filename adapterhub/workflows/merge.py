"""Merge an adapter into its backbone: a plain transformers checkpoint, and what that changes."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.artifact_folder import require_free
from adapterhub.backbones.architecture import quiet_transformers
from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.backbones.folder import PROCESSOR, VOCABULARY_FILES
from adapterhub.backbones.merged_model import check_mergeable, merge_adapter
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.engine.adapter_task import task_of
from adapterhub.errors import BackboneError
from adapterhub.registry.policy import trusted_folder
from adapterhub.workflows.merge_check import compare_checkpoint
from adapterhub.workflows.open_adapter import open_backbone_of
from adapterhub.workflows.stored_examples import examples_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version
    from adapterhub.specs import ComputeDtype
    from adapterhub.tasks.base import Task
    from adapterhub.workflows.merge_check import MergeCheck

#: Files of a backbone folder beside weights and configuration that a checkpoint needs.
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    PROCESSOR,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged checkpoint.

    Args:
        version: Version of the adapter.
        folder: Folder of the checkpoint.
        architecture: transformers' class that loads it.
        dtype: Type of its weights.
        size: Size of its files in bytes.
        change: What differs from the adapter on its backbone, as a sentence.
        check: Measured difference on labelled examples; ``None`` if none were given.
    """

    version: Version
    folder: Path
    architecture: str
    dtype: ComputeDtype
    size: int
    change: str
    check: MergeCheck | None


@dataclass(frozen=True, slots=True, eq=False)
class OpenedAdapter:
    """An adapter with its backbone, before it is merged or exported.

    Args:
        version: Version of the adapter.
        artifact: Its verified artifact.
        backbone: Its backbone, quantized as in training.
        task: Its task.
    """

    version: Version
    artifact: Artifact
    backbone: Backbone
    task: Task

    def merged(self) -> PreTrainedModel:
        """Return the adapter in the unquantized weights of its backbone, in float32.

        Raises:
            ArtifactError: If it can't be merged.
        """
        return merge_adapter(
            self.artifact, self.backbone.path, head=self.task.head, labels=self.task.labels
        )


def merge(
    registry: Registry,
    ref: str,
    folder: Path,
    *,
    dtype: ComputeDtype = "bfloat16",
    data: Path | None = None,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
    device: str | None = None,
    force: bool = False,
) -> Merged:
    """Write an adapter merged into its backbone as a plain transformers checkpoint.

    Args:
        registry: Registry of the adapter.
        ref: Reference of the adapter.
        folder: Folder of the checkpoint, which does not exist or is empty.
        dtype: Type of the weights.
        data: File of labelled examples, on which the checkpoint is compared with the adapter.
        fields: Column of each task field, as in ``examples_for``.
        limit: Number of examples to read.
        device: Torch device of the comparison.
        force: Accept a backbone with another fingerprint.

    Raises:
        NotFoundError: If there is no such version.
        ArtifactError: If it can't be merged, or the folder is not empty.
        DataError: If an example can't be used.
    """
    require_free(folder)
    opened = open_to_export(registry, ref, device=device, force=force)
    manifest = opened.artifact.manifest
    examples = None if data is None else examples_for(manifest, data, fields=fields, limit=limit)
    model: Any = opened.merged().to(torch_dtype(dtype))
    check = None
    with written_folder(folder) as staging:
        save_checkpoint(model, opened.backbone.path, staging)
        if examples is not None:
            check = compare_checkpoint(
                opened.artifact, opened.task, opened.backbone, model, dtype, examples.examples
            )
    return Merged(
        version=opened.version,
        folder=folder,
        architecture=type(model).__name__,
        dtype=dtype,
        size=sum(path.stat().st_size for path in folder.iterdir()),
        change=describe_change(opened.backbone, dtype),
        check=check,
    )


def open_to_export(
    registry: Registry, ref: str, *, device: str | None = None, force: bool = False
) -> OpenedAdapter:
    """Open an adapter that is a change of weights, with its backbone.

    Raises:
        NotFoundError: If there is no such version.
        ArtifactError: If it can't be merged.
        FingerprintMismatch: If the backbone is another one, unless ``force`` is given.
    """
    version = registry.resolve(ref)
    artifact = read_artifact(trusted_folder(registry, version))
    check_mergeable(artifact.weights.spec, str(version.ref))
    backbone = open_backbone_of(artifact, device=device)
    expected = artifact.manifest.backbone.fingerprint
    check_fingerprint(backbone.fingerprint, str(version.ref), expected, force=force)
    return OpenedAdapter(version, artifact, backbone, task_of(artifact.manifest, backbone))


def describe_change(backbone: Backbone, dtype: str) -> str:
    """Return what unquantized weights of a type change, as a sentence."""
    scheme = backbone.quantization.scheme
    if scheme == "none":
        return f"The weights are those that the adapter was trained on, rounded to {dtype}."
    return (
        f"The adapter was trained on {scheme} weights and corrects their rounding too, so on the "
        f"unquantized weights in {dtype} its outputs differ."
    )


def save_checkpoint(model: PreTrainedModel, backbone: Path, folder: Path) -> None:
    """Write a model with the tokenizer or the preprocessor of its backbone.

    Raises:
        BackboneError: If the configuration of the backbone can't be saved.
    """
    try:
        with quiet_transformers():
            model.save_pretrained(folder)
    except (ValueError, OSError) as error:
        raise BackboneError(f"can't be saved: {error}", place=str(folder)) from error
    copy_tokenizer(backbone, folder)


def copy_tokenizer(backbone: Path, folder: Path) -> None:
    """Copy the tokenizer or the preprocessor of a backbone."""
    for name in TOKENIZER_FILES:
        if (backbone / name).is_file():
            shutil.copyfile(backbone / name, folder / name)


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which is renamed to ``folder`` at the end.

    Raises:
        ArtifactError: If ``folder`` is a file or not empty.
    """
    require_free(folder)
    staging = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if folder.is_dir():
            folder.rmdir()
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
