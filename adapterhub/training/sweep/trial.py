"""One trial: a training run that reports to the study and can be pruned."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from adapterhub.errors import NonFiniteLossError, RecipeError
from adapterhub.training.checkpoint import drop_checkpoint
from adapterhub.training.run_folder import ARTIFACT_NAME
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

    from adapterhub.training.progress import EvaluationEvent, Reporter, StepEvent
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.result import TrainResult
    from adapterhub.training.sweep.space import Space
    from adapterhub.training.sweep.study import Goal, SweepOptions
    from adapterhub.training.train import TrainFunction

TRIALS_NAME = "trials"
#: Lock of the process that runs a trial; the system releases it when the process dies.
_LOCK_NAME = ".lock"
#: Attributes of a trial.
METRICS, FACTS, DIGEST, ERROR = "metrics", "facts", "digest", "error"


@dataclass(frozen=True, slots=True, eq=False)
class TrialClaim:
    """A trial that this process runs; the lock is held until it ends."""

    trial: optuna.Trial
    folder: Path
    lock: FileLock


def trial_folder(folder: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return folder / TRIALS_NAME / f"{number:04}"


def next_claim(
    study: optuna.Study, folder: Path, space: Space, options: SweepOptions
) -> TrialClaim | None:
    """Take over a trial whose process has died, or start a new one; ``None`` when all are done.

    Only one process at a time may call it.
    """
    optuna = import_optuna()
    running = optuna.trial.TrialState.RUNNING
    expected = distributions(space)
    for frozen in study.get_trials(deepcopy=False, states=(running,)):
        lock = take_lock(trial_folder(folder, frozen.number))
        if lock is None:
            continue
        if frozen.params.keys() == expected.keys():
            trial = optuna.trial.Trial(study, frozen._trial_id)
            return TrialClaim(trial, trial_folder(folder, frozen.number), lock)
        # its process died while it was sampled
        study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)
        lock.release()
    started = [
        each
        for each in study.get_trials(deepcopy=False)
        if each.state != optuna.trial.TrialState.WAITING
    ]
    if len(started) >= options.trials:
        return None
    study.sampler = build_sampler(options, len(started))
    trial = study.ask(fixed_distributions=expected)
    place = trial_folder(folder, trial.number)
    lock = take_lock(place)
    return None if lock is None else TrialClaim(trial, place, lock)


def take_lock(place: Path) -> FileLock | None:
    """Acquire and return the lock of a trial's folder; ``None`` if another process holds it."""
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / _LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def run_trial(
    claim: TrialClaim,
    recipe: Recipe,
    space: Space,
    goal: Goal,
    reporter: Reporter,
    train: TrainFunction,
) -> None:
    """Train one trial, from its checkpoint if it has one, and report its result to the study.

    A trial fails, and the sweep continues, where its loss is not finite, its values are not valid
    together, or memory runs out.

    Raises:
        TrainingInterrupted: after Ctrl-C or SIGTERM; the trial can be resumed.
    """
    import torch

    optuna = import_optuna()
    trial, state = claim.trial, optuna.trial.TrialState
    values = recipe_values(space, trial.params)
    name = f"trial {trial.number}"
    reporter.on_message(f"{name}: {described(values)}")
    if (claim.folder / ARTIFACT_NAME).exists():
        # it was killed before its result reached the study
        shutil.rmtree(claim.folder / ARTIFACT_NAME)
    trial_reporter = _TrialReporter(trial, reporter)
    try:
        result = train(
            with_values(recipe, values),
            output=claim.folder,
            resume=True,
            reporter=trial_reporter,
        )
    except optuna.TrialPruned:
        reporter.on_message(f"{name} pruned at {trial_reporter.reached} %")
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
    """Return parameters on one line, e.g. ``optimizer.learning_rate 0.001, adapter.rank 8``."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    )


def _keep_facts(trial: optuna.Trial, result: TrainResult) -> None:
    trial.set_user_attr(METRICS, {k: v for k, v in result.after.items() if abs(v) != float("inf")})
    trial.set_user_attr(FACTS, result.info())
    trial.set_user_attr(DIGEST, result.digest)


class _TrialReporter:
    """Reports each evaluation to the study, and prunes a poor trial.

    Progress is in percent of the trial's steps, so that trials with different batch sizes can be
    compared.
    """

    def __init__(self, trial: optuna.Trial, inner: Reporter) -> None:
        self._trial = trial
        self._inner = inner
        self._total = 1
        known = trial.study.trials[trial.number].intermediate_values
        self._reported = set(known)
        self.reached = max(self._reported, default=0)

    def on_step(self, event: StepEvent) -> None:
        self._total = event.total
        self._inner.on_step(event)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        self._inner.on_evaluation(event)
        if event.step == 0:
            return
        self.reached = round(100 * event.step / self._total)
        if self.reached not in self._reported:
            # a resumed run repeats some evaluations, with the same values
            self._reported.add(self.reached)
            self._trial.report(event.metrics[event.watched], self.reached)
        if event.step < self._total and self._trial.should_prune():
            raise import_optuna().TrialPruned

    def on_message(self, text: str) -> None:
        self._inner.on_message(text)
