"""What a finished run of ``adapterhub train`` says of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from plain_figures import rounded, thinned
from steady_time import steady_of_log

from adapterhub.adapters.artifact import read_artifact
from adapterhub.errors import TrainingError
from adapterhub.training.curves import curve_points, read_curves
from adapterhub.training.prepare import prepare_data
from adapterhub.training.result import ARTIFACT_NAME, LOG_NAME
from adapterhub.workflows.run_report.report import SUMMARY_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.training.recipe import Recipe


def trained_facts(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the facts of a run, out of its report.

    Raises:
        TrainingError: when it is a run of another recipe.
    """
    artifact = read_artifact(folder / ARTIFACT_NAME)
    if artifact.manifest.recipe != recipe.model_dump(mode="json"):
        raise TrainingError("is a run of another recipe, or other settings", place=str(folder))
    report = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
    cost = report["cost"]
    before = {name: each["before"] for name, each in report["metrics"].items()}
    return {
        "learning_rate": recipe.optimizer.learning_rate,
        "steps": cost["steps"],
        "training_rows": len(prepare_data(recipe).splits["train"]),
        "seconds": round(steady_of_log(folder / LOG_NAME)),
        "trained_share": round(cost["trained_share"], 6),
        "artifact_bytes": cost["artifact_bytes"],
        "digest": artifact.digest,
        "untrained": rounded(before),
        "curves": thinned(curve_points(read_curves(folder / LOG_NAME))),
    }
