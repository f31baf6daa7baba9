"""Train a recipe, write the run report and register the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.integrations.notebook import NotebookReporter, in_notebook
from adapterhub.integrations.trackers import RunTrackers, check_trackers
from adapterhub.refs import TRIAL_TAG
from adapterhub.registry.registry import Registry
from adapterhub.registry.version import LOCAL_KEY
from adapterhub.training.preflight import check_recipe
from adapterhub.training.progress import Reporters
from adapterhub.training.recipe import Recipe
from adapterhub.training.recipe_file import load_recipe, parse_recipe
from adapterhub.workflows.local_files import local_files
from adapterhub.workflows.run_report.options import DEFAULT_REPORT, WITHOUT_BIAS_AUDIT

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.registry.version import Version
    from adapterhub.training.progress import Reporter
    from adapterhub.training.result import TrainResult
    from adapterhub.training.train import TrainFunction, WarmStart
    from adapterhub.workflows.run_report.options import ReportOptions


def train_run(
    recipe: Recipe | Mapping[str, Any] | Path | str,
    *,
    output: Path | str | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    backbone: Backbone | None = None,
    device: str | None = None,
    cache: Path | None = None,
    start: WarmStart | None = None,
    report: ReportOptions | None = DEFAULT_REPORT,
    register: bool = False,
    registry: Registry | None = None,
    trial: bool = False,
) -> TrainResult:
    """Train an adapter, write its artifact and run report, and optionally register it.

    Args:
        recipe: Recipe, the same as plain data, or the path of its YAML file.
        output: Run folder; ``runs/NAME`` where not given.
        resume: Whether to continue from the folder's checkpoint, if there is one, and to return
            the recorded result where this same run has finished there.
        reporter: Receiver of progress events, beside the run's own log file. In a notebook a bar
            and the curves are shown where none is given.
        backbone: Loaded backbone to use; must be the one that the recipe names.
        device: Device; the first GPU where there is one, else the CPU.
        cache: Root of the backbone cache.
        start: Adapter and data to continue from instead of a fresh adapter.
        report: Settings of the run report; ``None`` writes none.
        register: Whether to store the adapter as the next version of the recipe's name.
        registry: Registry to store it in; the default one where not given.
        trial: Whether to tag the version ``trial``, so that the name alone does not refer to it.

    Returns:
        The result, with ``report`` and ``reference`` where they were written. In all but one of
        several processes ``digest`` is empty.

    Raises:
        RecipeError: naming the key at fault, before any weight is loaded.
        DataError: naming file and example, before any weight is loaded.
        TrainingInterrupted: after Ctrl-C or SIGTERM; call again with ``resume``.
    """
    checked = _recipe(recipe)
    check_trackers(checked.train.trackers)
    folder = Path(output or Path("runs") / checked.name)
    data = None if start else check_recipe(checked, folder=folder, resume=resume, cache=cache)
    from adapterhub.training.train import train
    from adapterhub.workflows.run_report.report import REPORT_NAME, report_run

    if reporter is None and in_notebook():
        reporter = NotebookReporter()
    with RunTrackers(checked.train.trackers, checked, folder) as trackers:
        result = train(
            checked,
            output=folder,
            resume=resume,
            reporter=Reporters([trackers] if reporter is None else [reporter, trackers]),
            backbone=backbone,
            device=device,
            cache=cache,
            data=data,
            start=start,
            measure_energy=report is not None,
            on_train_end=partial(report_run, options=report) if report else None,
        )
        if result.evidence is not None:
            trackers.finish(result)
    if result.evidence is None and (page := result.folder / REPORT_NAME).is_file():
        # an earlier call finished the run and wrote its report
        result = replace(result, report=page)
    if register and result.digest:
        version = register_run(registry or Registry(), checked, result, trial=trial)
        result = replace(result, reference=str(version.ref))
    return result


#: Trains one of many runs, such as a trial of a sweep: with a report, without a bias audit.
train_trial: TrainFunction = partial(train_run, report=WITHOUT_BIAS_AUDIT)


def register_run(
    registry: Registry,
    recipe: Recipe,
    result: TrainResult,
    artifact: Path | None = None,
    *,
    name: str = "",
    added: Mapping[str, str] | None = None,
    trial: bool = False,
) -> Version:
    """Store the adapter of a run as the next version of a name, with its curves.

    Args:
        registry: Registry to store it in.
        recipe: Recipe of the run; the paths of its files stay in the registry's index.
        result: Result of the run.
        artifact: Folder of the artifact; that of the result by default.
        name: Name of the adapter; the recipe's by default.
        added: Paths of the files that refreshes added, by the fingerprint of their examples.
        trial: Whether to tag the version ``trial``.
    """
    local = local_files(recipe, added or {})
    info = {**result.info(), "curves": result.curves(), LOCAL_KEY: local}
    tags = [TRIAL_TAG] if trial else []
    return registry.put(artifact or result.artifact, name or recipe.name, info=info, tags=tags)


def _recipe(given: Recipe | Mapping[str, Any] | Path | str) -> Recipe:
    if isinstance(given, Recipe):
        return given
    return parse_recipe(given) if isinstance(given, Mapping) else load_recipe(given)
