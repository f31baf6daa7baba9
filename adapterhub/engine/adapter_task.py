"""The task that a stored adapter was trained for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.errors import ArtifactError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

if TYPE_CHECKING:
    from adapterhub.adapters.manifest import Manifest
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.tasks.base import Task


def task_of(manifest: Manifest, backbone: Backbone) -> Task:
    """Build the task that an adapter was trained for.

    Raises:
        ArtifactError: If its manifest does not have the settings of the task.
    """
    section = manifest.recipe.get("task")
    if section is None:
        raise ArtifactError(
            "has no section 'task'", place="recipe", hint="Train, import or compose it again"
        )
    options = TaskOptions.of_section(section)
    return build_task(
        manifest.task,
        backbone.preprocessor,
        backbone.kind,
        list(manifest.labels),
        # these two are for training; balanced weights are counted from training examples
        options.model_copy(update={"class_weights": None, "label_smoothing": 0.0}),
    )
