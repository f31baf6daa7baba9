"""Checks of a recipe and its data before torch and transformers are imported.

Importing them takes several seconds, in which a mistyped key or path would wait for its error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.backbones.folder import check_folder as check_backbone_folder
from adapterhub.backbones.sources import cached_backbone, locate
from adapterhub.tasks.table import check_settings, entry_of
from adapterhub.training.prepare import prepare_data
from adapterhub.training.run_folder import check_folder

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.training.prepare import PreparedData
    from adapterhub.training.recipe import Recipe


def check_recipe(
    recipe: Recipe,
    *,
    folder: Path | None = None,
    resume: bool = False,
    cache: Path | None = None,
) -> PreparedData:
    """Check task, backbone and run folder, and return the data that the recipe names.

    Args:
        recipe: Recipe to check.
        folder: Run folder to check, where one run follows.
        resume: Whether the run may continue what is in the folder.
        cache: Root of the backbone cache.

    Raises:
        RecipeError: naming the key at fault.
        DataError: naming file and example.
        BackboneError: when no backbone has the name, or its folder is incomplete.
        TrainingError: when the folder can't be used.
    """
    entry_of(recipe.task.name)
    check_settings(recipe.task.name, recipe.task)
    _check_backbone(recipe, cache)
    if folder is not None:
        check_folder(folder, resume=resume)
    return prepare_data(recipe)


def _check_backbone(recipe: Recipe, cache: Path | None) -> None:
    section = recipe.backbone
    locate(section.name)
    path = cached_backbone(section.name, revision=section.revision, cache=cache)
    if path is not None:
        check_backbone_folder(path)
