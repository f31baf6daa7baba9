"""Results of a sweep as plain values, and the study stored in the best adapter."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact import write_annotated
from adapterhub.training.sweep.trial import DIGEST, ERROR, FACTS, METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import optuna

    from adapterhub.training.sweep.space import Space
    from adapterhub.training.sweep.study import Goal, SweepOptions


STUDY_NAME = "study.json"
#: Fields of a trial that are stored in the best adapter.
_LINEAGE = ("number", "state", "value", "reached", "params", "digest")


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial; the value of a pruned one is of its last evaluation, ``reached`` is in percent."""

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
    """State of a sweep; ``artifact`` is ``None`` while another process still runs trials."""

    folder: Path
    name: str
    goal: Goal
    trials: Sequence[TrialRecord]
    best: TrialRecord | None
    artifact: Path | None
    digest: str
    plots: Sequence[str]

    def count(self, state: str) -> int:
        """Return the number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    def info(self) -> dict[str, Any]:
        """Return the information stored in the registry beside the best adapter."""
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
    """Return the trials of a study that have started."""
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
    """Return the study as stored in the best adapter, without times and paths."""
    return {
        "study": name,
        "goal": asdict(goal),
        "sampler": options.sampler,
        "pruner": options.pruner,
        "seed": options.seed,
        "space": space.document(),
        "best": best.number,
        "trials": [{key: getattr(each, key) for key in _LINEAGE} for each in trials],
    }


def write_with_study(
    source: Path, target: Path, study: Mapping[str, Any], plots: Mapping[str, bytes]
) -> str:
    """Write a copy of an artifact that contains its study, and return the copy's digest.

    Equal arguments give equal bytes.

    Raises:
        ArtifactError: when ``source`` is damaged.
    """
    text = json.dumps(study, indent=2, sort_keys=True, ensure_ascii=False)
    return write_annotated(
        source,
        target,
        files={**plots, STUDY_NAME: f"{text}\n".encode()},
        section=_card_section(study, plots),
    )


def _card_section(study: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    trials = study["trials"]
    best = next(each for each in trials if each["number"] == study["best"])
    pruned = sum(each["state"] == "pruned" for each in trials)
    rows = "\n".join(f"| `{key}` | {value} |" for key, value in sorted(best["params"].items()))
    shown = "".join(f"\n\n![{name.partition('.')[0]} of the search]({name})" for name in plots)
    return (
        f"## Search\n\nThe best of {len(trials)} trials of the study `{study['study']}` "
        f"({pruned} pruned) by {study['goal']['metric']} on the validation split, which makes the "
        f"metric above slightly optimistic. All trials are in `{STUDY_NAME}`.\n\n"
        f"| key | best value |\n|---|---|\n{rows}{shown}\n"
    )


def _value(trial: optuna.trial.FrozenTrial) -> float | None:
    if trial.state.name == "COMPLETE":
        return trial.value
    steps = trial.intermediate_values
    return steps[max(steps)] if steps else None
