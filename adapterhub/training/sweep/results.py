"""What a sweep found, in plain values: for people, for programs, and as an adapter's lineage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.training.sweep.trial import DIGEST, ERROR, FACTS, METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import optuna

    from adapterhub.training.sweep.space import Space
    from adapterhub.training.sweep.study import Goal, SweepOptions


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial.

    Args:
        number: from 0, in the order of their beginning.
        state: ``complete``, ``pruned``, ``fail`` or ``running``.
        value: of the metric that decides; of a pruned trial at its last evaluation.
        reached: how far it got, in per cent of its steps.
        params: dotted key of the recipe to value.
        metrics: all of a complete trial.
        digest: of a complete trial's artifact.
        facts: of a complete trial, such as training seconds.
        error: why it failed.
    """

    number: int
    state: str
    value: float | None
    reached: int
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    digest: str
    facts: Mapping[str, float]
    error: str


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A sweep as it stands.

    Args:
        folder: of the sweep.
        name: of the study.
        goal: what is made best.
        trials: all that have begun.
        best: the best complete trial, if there is one.
        artifact: folder of the best trial's adapter with the study in it; ``None`` while
            another process still runs trials.
        digest: of that adapter.
        pictures: file names of the plots in ``folder``.
    """

    folder: Path
    name: str
    goal: Goal
    trials: Sequence[TrialRecord]
    best: TrialRecord | None
    artifact: Path | None
    digest: str
    pictures: Sequence[str]

    def count(self, state: str) -> int:
        """Return how many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)

    def info(self) -> dict[str, Any]:
        """Return what a registry keeps beside the best trial's adapter."""
        if self.best is None:
            return {}
        return {
            **self.best.facts,
            "study": {
                "name": self.name,
                "trial": self.best.number,
                "trials": len(self.trials),
                "metric": self.goal.metric,
                "value": self.best.value,
            },
        }


def read_trials(study: optuna.Study) -> list[TrialRecord]:
    """Return the trials of a study that have begun."""
    return [
        TrialRecord(
            number=each.number,
            state=each.state.name.lower(),
            value=_value(each),
            reached=100
            if each.state.name == "COMPLETE"
            else max(each.intermediate_values, default=0),
            params=dict(each.params),
            metrics=dict(each.user_attrs.get(METRICS, {})),
            digest=str(each.user_attrs.get(DIGEST, "")),
            facts=dict(each.user_attrs.get(FACTS, {})),
            error=str(each.user_attrs.get(ERROR, "")),
        )
        for each in study.get_trials(deepcopy=False)
        if each.state.name != "WAITING"
    ]


def best_of(trials: Sequence[TrialRecord], goal: Goal) -> TrialRecord | None:
    """Return the best complete trial, the earliest among equals."""
    complete = [each for each in trials if each.state == "complete" and each.value is not None]
    sign = 1.0 if goal.greater_is_better else -1.0
    return max(complete, key=lambda t: (sign * (t.value or 0.0), -t.number), default=None)


def lineage_document(
    name: str,
    trials: Sequence[TrialRecord],
    *,
    best: TrialRecord,
    space: Space,
    goal: Goal,
    options: SweepOptions,
) -> dict[str, Any]:
    """Return the study as its best adapter carries it along: no time and no path inside."""
    return {
        "study": name,
        "goal": asdict(goal),
        "sampler": options.sampler,
        "pruner": options.pruner,
        "seed": options.seed,
        "space": space.document(),
        "best": best.number,
        "trials": [
            {
                "number": each.number,
                "state": each.state,
                "value": each.value,
                "reached": each.reached,
                "params": dict(each.params),
                "digest": each.digest,
            }
            for each in trials
        ],
    }


def _value(trial: optuna.trial.FrozenTrial) -> float | None:
    if trial.state.name == "COMPLETE":
        return trial.value
    steps = trial.intermediate_values
    return steps[max(steps)] if steps else None
