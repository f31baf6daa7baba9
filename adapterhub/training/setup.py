"""Processes, memory, backbone and task of a training run."""

from __future__ import annotations

import ctypes
import logging
import sys
from typing import TYPE_CHECKING

from accelerate import Accelerator

from adapterhub.backbones.architecture import backbone_kind, read_preprocessor
from adapterhub.backbones.backbone import choose_device, load_backbone
from adapterhub.backbones.compatibility import check_adapter_fits
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.errors import TrainingError
from adapterhub.specs import QuantizationSpec
from adapterhub.tasks.table import build_task

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.tasks.base import Task
    from adapterhub.training.prepare import PreparedData
    from adapterhub.training.recipe import Recipe

logger = logging.getLogger(__name__)

# Source: mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_KEPT = 1 << 30


def open_accelerator(
    backbone: Backbone | None, device: str | None
) -> tuple[Accelerator, torch.device]:
    """Return the processes of this run, and the device that this process trains on."""
    place = backbone.device if backbone else choose_device(device)
    # the backbone is loaded where it stays, so accelerate has nothing to move
    accelerator = Accelerator(cpu=place.type == "cpu", device_placement=False)
    return accelerator, place if accelerator.num_processes == 1 else accelerator.device


def build_recipe_task(
    recipe: Recipe, data: PreparedData, backbone: Backbone | None, cache: Path | None
) -> Task:
    """Build the task from the backbone's folder, without loading any weights.

    Raises:
        BackboneError: when the backbone can't be found or fetched.
        RecipeError: when the adapter does not fit the backbone.
    """
    path = recipe_folder(recipe, backbone, cache)
    task = build_task(
        recipe.task.name,
        read_preprocessor(path),
        backbone_kind(path),
        list(data.label_counts),
        recipe.task,
        data.label_counts,
    )
    check_adapter_fits(
        path,
        recipe.adapter.spec(),
        head=task.head,
        task_type=task.peft_task_type,
        labels=task.labels,
        parts=recipe.train.parts,
    )
    return task


def recipe_folder(recipe: Recipe, backbone: Backbone | None, cache: Path | None) -> Path:
    """Return the folder of a recipe's backbone, which is fetched if it is not cached."""
    section = recipe.backbone
    if backbone is not None:
        return backbone.path
    return fetch_backbone(section.name, revision=section.revision, cache=cache)


def open_backbone(
    recipe: Recipe, *, device: str | None = None, cache: Path | None = None
) -> Backbone:
    """Load the backbone that a recipe names, to train several adapters on it.

    Raises:
        BackboneError: when it can't be found, fetched, checked or loaded.
    """
    return recipe_backbone(recipe, choose_device(device), cache=cache)


def recipe_backbone(
    recipe: Recipe,
    device: torch.device,
    *,
    loaded: Backbone | None = None,
    cache: Path | None = None,
) -> Backbone:
    """Return the loaded backbone if it is the one that the recipe names, else load that one.

    Raises:
        TrainingError: when another backbone is loaded.
        BackboneError: when it can't be found, fetched, checked or loaded.
    """
    section, spec = recipe.backbone, recipe_quantization(recipe, device)
    if loaded is None:
        return load_backbone(
            section.name, spec, revision=section.revision, device=device, cache=cache
        )
    # a stored recipe names a local folder by its fingerprint
    is_named = section.name in (loaded.name, loaded.public_name)
    if not is_named or loaded.quantization != spec:
        raise TrainingError(
            f"the recipe names {section.name} in {spec}, "
            f"the loaded backbone is {loaded.name} in {loaded.quantization}",
            place="backbone",
        )
    return loaded


def recipe_quantization(recipe: Recipe, device: torch.device) -> QuantizationSpec:
    """Return the quantization of a recipe, with ``auto`` resolved for the device."""
    section = recipe.backbone
    dtype = section.compute_dtype
    return QuantizationSpec(
        section.quantization, default_compute_dtype(device) if dtype == "auto" else dtype
    )


def keep_freed_memory() -> bool:
    """Let glibc reuse the memory of freed tensors, and return whether it was possible.

    By default glibc returns every large block to the kernel, which clears it again at the next
    allocation, and a training step frees and allocates gigabytes. The process keeps the size of
    its largest step. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
        done = library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        done = done and library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        logger.info("the allocator can't keep freed memory; training is slightly slower")
        return False
    return bool(done)
