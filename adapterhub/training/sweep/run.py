"""Run a hyperparameter sweep."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from adapterhub.errors import TrainingError, TrainingInterrupted
from adapterhub.tasks.table import entry_of
from adapterhub.training.loop import watched_metric
from adapterhub.training.prepare import prepare_data
from adapterhub.training.progress import Reporters
from adapterhub.training.run_folder import ARTIFACT_NAME
from adapterhub.training.setup import open_backbone
from adapterhub.training.sweep.plots import draw_study
from adapterhub.training.sweep.results import (
    SweepResult,
    best_of,
    lineage_document,
    read_trials,
    write_with_study,
)
from adapterhub.training.sweep.space import check_space
from adapterhub.training.sweep.study import Goal, open_study
from adapterhub.training.sweep.trial import next_claim, run_trial, trial_folder
from adapterhub.training.train import train

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna

    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.sweep.results import TrialRecord
    from adapterhub.training.sweep.space import Space
    from adapterhub.training.sweep.study import SweepOptions
    from adapterhub.training.train import TrainFunction

BEST_NAME = "best"
#: Lock of the process that samples a trial or removes artifacts.
_LOCK_NAME = ".lock"


def run_sweep(
    recipe: Recipe,
    space: Space,
    options: SweepOptions,
    *,
    folder: Path | None = None,
    storage: str | None = None,
    reporter: Reporter | None = None,
    device: str | None = None,
    cache: Path | None = None,
    train_trial: TrainFunction = train,
) -> SweepResult:
    """Run trials until the study has the requested number.

    Called again after an interruption, it resumes, within a trial too. Several processes that
    share the folder share the trials.

    Args:
        recipe: Recipe to vary; trials are compared on its validation split.
        space: Search space.
        options: Settings of the sweep.
        folder: Folder of the sweep; ``runs/NAME-sweep`` where not given.
        storage: Optuna database URL; a file in ``folder`` where not given.
        reporter: Receiver of progress events.
        device: Device; the first GPU where there is one, else the CPU.
        cache: Root of the backbone cache.
        train_trial: Function that trains one trial.

    Raises:
        MissingExtraError: when Optuna isn't installed.
        RecipeError: naming the key at fault, before anything is trained.
        DataError: naming file, example or split, before anything is trained.
        TrainingError: when the folder holds another study, or no trial is complete.
        TrainingInterrupted: after Ctrl-C or SIGTERM; call again to resume.
    """
    check_space(space, recipe)
    # invalid data must fail before a study of the faulty recipe is created
    prepare_data(recipe)
    place = folder or Path("runs") / f"{recipe.name}-sweep"
    goal = Goal(*watched_metric(recipe.train, entry_of(recipe.task.name).default_metric))
    reporters = Reporters([reporter] if reporter else [])
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / _LOCK_NAME)
    with lock:
        study = open_study(
            place, recipe=recipe, space=space, goal=goal, options=options, storage=storage
        )
    train_one = partial(train_trial, device=device, cache=cache)
    shares_backbone = not any(key.split(".")[0] == "backbone" for key in space.parameters)
    while True:
        with lock:
            claim = next_claim(study, place, space, options)
        if claim is None:
            break
        if shares_backbone and "backbone" not in train_one.keywords:
            backbone = open_backbone(recipe, device=device, cache=cache)
            train_one = partial(train_one, backbone=backbone)
        try:
            run_trial(claim, recipe, space, goal, reporters, train_one)
        except TrainingInterrupted as error:
            error.hint = "Run the same command again to resume"
            raise
        finally:
            claim.lock.release()
        if not options.keep_all:
            with lock:
                _drop_worse(read_trials(study), goal, place)
    with lock:
        return _conclude(study, place, space, goal, options)


def _drop_worse(trials: Sequence[TrialRecord], goal: Goal, folder: Path) -> None:
    """Remove the artifacts of all complete trials but the best one."""
    best = best_of(trials, goal)
    for trial in trials:
        if trial.state == "complete" and best is not None and trial.number != best.number:
            shutil.rmtree(trial_folder(folder, trial.number) / ARTIFACT_NAME, ignore_errors=True)


def _conclude(
    study: optuna.Study, folder: Path, space: Space, goal: Goal, options: SweepOptions
) -> SweepResult:
    """Plot the study and, once no trial is running, write the best trial's artifact."""
    trials = read_trials(study)
    best = best_of(trials, goal)
    plots = draw_study(study, goal.metric)
    for name, content in plots.items():
        (folder / name).write_bytes(content)
    found: dict[str, Any] = {"artifact": None, "digest": ""}
    if not any(trial.state == "running" for trial in trials):
        if best is None:
            reason = next((f"; {each.error}" for each in reversed(trials) if each.error), "")
            raise TrainingError(
                f"none of {len(trials)} trials is complete{reason}",
                place=str(folder),
                hint="Check their logs, lower the learning rates of the space, or run more trials",
            )
        document = lineage_document(
            study.study_name, trials, best=best, space=space, goal=goal, options=options
        )
        source = trial_folder(folder, best.number) / ARTIFACT_NAME
        target = folder / BEST_NAME
        digest = write_with_study(source, target, document, plots)
        found = {"artifact": target, "digest": digest}
    return SweepResult(
        folder=folder,
        name=study.study_name,
        goal=goal,
        trials=trials,
        best=best,
        plots=tuple(plots),
        **found,
    )
