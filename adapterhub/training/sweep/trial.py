"""One trial: a training run that tells the study how it fares, and stops when told to."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from adapterhub.errors import NonFiniteLossError, RecipeError
from adapterhub.training.checkpoint import drop_checkpoint
from adapterhub.training.result import ARTIFACT_NAME
from adapterhub.training.sweep.space import with_values
from adapterhub.training.sweep.study import (
    build_sampler,
    distributions,
    import_optuna,
    recipe_values,
)

if TYPE_CHECKING:
    from pathlib import Path

    import optuna

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.training.progress import EvaluationEvent, Reporter, StepEvent
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.result import TrainResult
    from adapterhub.training.sweep.space import Space
    from adapterhub.training.sweep.study import Goal, SweepOptions
    from adapterhub.training.train import TrainFunction

TRIALS_NAME = "trials"
#: Held by the process that runs a trial; the system lets go of it when the process dies.
_LOCK_NAME = ".lock"
#: Attributes of a trial.
METRICS, FACTS, DIGEST, ERROR = "metrics", "facts", "digest", "error"


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A trial that is this process's to run.

    Args:
        trial: Optuna's.
        folder: of its run.
        lock: held until the trial has ended.
    """

    trial: optuna.Trial
    folder: Path
    lock: FileLock


def trial_folder(folder: Path, number: int) -> Path:
    """Return where the run of a trial lies in the folder of its sweep."""
    return folder / TRIALS_NAME / f"{number:04}"


def next_claim(
    study: optuna.Study, folder: Path, space: Space, options: SweepOptions
) -> Claim | None:
    """Take over a trial whose process has died, or draw a new one; ``None`` where all are done.

    Only one process may be in here at a time.
    """
    optuna = import_optuna()
    running = optuna.trial.TrialState.RUNNING
    wanted = distributions(space)
    for frozen in study.get_trials(deepcopy=False, states=(running,)):
        lock = take_lock(trial_folder(folder, frozen.number))
        if lock is None:
            continue
        if frozen.params.keys() == wanted.keys():
            trial = optuna.trial.Trial(study, frozen._trial_id)
            return Claim(trial, trial_folder(folder, frozen.number), lock)
        # its process died while it was drawn
        study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)
        lock.release()
    begun = [
        each
        for each in study.get_trials(deepcopy=False)
        if each.state != optuna.trial.TrialState.WAITING
    ]
    if len(begun) >= options.trials:
        return None
    study.sampler = build_sampler(options, len(begun))
    trial = study.ask(fixed_distributions=wanted)
    place = trial_folder(folder, trial.number)
    lock = take_lock(place)
    return None if lock is None else Claim(trial, place, lock)


def take_lock(place: Path) -> FileLock | None:
    """Return the lock of a trial's folder, held; ``None`` where another process holds it."""
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / _LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def run_trial(
    claim: Claim,
    *,
    recipe: Recipe,
    space: Space,
    goal: Goal,
    reporter: Reporter,
    backbone: Backbone | None,
    device: str | None,
    cache: Path | None,
    train: TrainFunction,
) -> None:
    """Train one trial, from its checkpoint if it has one, and tell the study how it ended.

    A trial whose loss is not finite, whose values do not go together, or for which there is not
    memory enough, has failed; the sweep goes on without it.

    Args:
        claim: on the trial.
        recipe: that is varied.
        space: by which its parameters are read.
        goal: what is made best.
        reporter: hears of every step.
        backbone: already loaded, where all trials share one.
        device: the first GPU where there is one, else the CPU.
        cache: root of the backbone cache.
        train: Function that trains the trial.

    Raises:
        TrainingInterrupted: after Ctrl-C or SIGTERM; the trial can be gone on with.
    """
    import torch

    optuna = import_optuna()
    trial, state = claim.trial, optuna.trial.TrialState
    values = recipe_values(space, trial.params)
    name = f"trial {trial.number}"
    reporter.on_message(f"{name}: {described(values)}")
    if (claim.folder / ARTIFACT_NAME).exists():
        # it was killed before the study heard of its end
        shutil.rmtree(claim.folder / ARTIFACT_NAME)
    teller = _Teller(trial, reporter)
    try:
        result = train(
            with_values(recipe, values),
            output=claim.folder,
            resume=True,
            reporter=teller,
            backbone=backbone,
            device=device,
            cache=cache,
        )
    except optuna.TrialPruned:
        reporter.on_message(f"{name} stopped early at {teller.reached} %")
        trial.study.tell(trial, state=state.PRUNED)
        drop_checkpoint(claim.folder)
    except (NonFiniteLossError, RecipeError, torch.OutOfMemoryError) as error:
        reporter.on_message(f"{name} failed: {error}")
        trial.set_user_attr(ERROR, str(error))
        trial.study.tell(trial, state=state.FAIL)
        drop_checkpoint(claim.folder)
    else:
        _keep_facts(trial, result)
        trial.study.tell(trial, result.after[goal.metric])
        reporter.on_message(f"{name}: {goal.metric} {result.after[goal.metric]:.4f}")


def described(values: Any) -> str:
    """Return parameters in a line, e.g. ``optimizer.learning_rate 0.001, adapter.rank 8``."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    )


def _keep_facts(trial: optuna.Trial, result: TrainResult) -> None:
    trial.set_user_attr(METRICS, {k: v for k, v in result.after.items() if abs(v) != float("inf")})
    trial.set_user_attr(FACTS, result.info())
    trial.set_user_attr(DIGEST, result.digest)


class _Teller:
    """Passes a run's events on, tells the study each evaluation, and stops a poor trial.

    How far a trial is counts in per cent of its steps, so that trials of other batch sizes
    can be compared.
    """

    def __init__(self, trial: optuna.Trial, inner: Reporter) -> None:
        self._trial = trial
        self._inner = inner
        self._total = 1
        known = trial.study.trials[trial.number].intermediate_values
        self._told = set(known)
        self.reached = max(self._told, default=0)

    def on_step(self, event: StepEvent) -> None:
        self._total = event.total
        self._inner.on_step(event)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        self._inner.on_evaluation(event)
        if event.step == 0:
            return
        self.reached = round(100 * event.step / self._total)
        if self.reached not in self._told:
            # a resumed run evaluates some steps again, to the same values
            self._told.add(self.reached)
            self._trial.report(event.metrics[event.watched], self.reached)
        if event.step < self._total and self._trial.should_prune():
            raise import_optuna().TrialPruned

    def on_message(self, text: str) -> None:
        self._inner.on_message(text)
