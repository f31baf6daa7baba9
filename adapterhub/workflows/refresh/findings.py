"""Findings of a refresh: drift, metric change, forgetting and gain, and their stored form."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict

from adapterhub.adapters.strict_json import FOREIGN, Schema
from adapterhub.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Interval,
    interval_of,
    intervals,
    resampled,
)
from adapterhub.evaluation.drift import MIN_EXAMPLES, Drift, label_drift, text_drift
from adapterhub.evaluation.example_statistics import scores_of
from adapterhub.evaluation.paired_tests import Difference, differences
from adapterhub.workflows.refresh.document import REFRESH_NAME
from adapterhub.workflows.refresh.examples import count_known_labels
from adapterhub.workflows.score import score_examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from adapterhub.data.dataset import Dataset
    from adapterhub.engine.loaded_adapter import LoadedAdapter
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Scores
    from adapterhub.training.recipe import Recipe
    from adapterhub.workflows.refresh.examples import RefreshData

#: Old and new examples that are embedded, at most each; the test compares all pairs.
MAX_EMBEDDED = 500
#: New examples below which a drop that is not significant is not called absent. With 30 examples
#: a fall of accuracy from 1 to 0.9 is significant in 35 % of the cases, to 0.8 in 88 %.
FEW_EXAMPLES = 30


@dataclass(frozen=True, slots=True)
class MetricChange:
    """Metric of the present version on new examples against those of an old split.

    The interval of the change is not paired, since the examples differ. ``recorded`` is the value
    in the manifest, on the validation split.
    """

    metric: str
    greater_is_better: bool
    recorded: float | None
    split: str
    old: float
    old_interval: Interval
    new: float
    new_interval: Interval
    change: Interval

    @property
    def is_worse(self) -> bool:
        """Whether the metric is significantly worse on the new examples."""
        return self.change.high < 0 if self.greater_is_better else self.change.low > 0

    @property
    def largest_drop(self) -> float:
        """Largest drop inside the interval of the change, at least 0."""
        return max(0.0, -self.change.low if self.greater_is_better else self.change.high)

    def too_few(self, num_new: int) -> bool:
        """Return whether a drop may be there that so few new examples can't show."""
        return not self.is_worse and num_new < FEW_EXAMPLES and self.largest_drop > 0

    def verdict(self, num_new: int) -> str:
        """Return what the interval of the change says, as a phrase."""
        if self.is_worse:
            return "a drop"
        if self.too_few(num_new):
            return (
                f"{num_new} new examples are too few to tell: a drop of {self.largest_drop:.2f} is "
                f"possible; pass at least {FEW_EXAMPLES}"
            )
        return "no drop found"


@dataclass(frozen=True, slots=True)
class RefreshOutcome:
    """Difference of each metric between parent and child, the child second.

    ``forgetting`` is measured on the old split, ``gain`` on held-out new examples.
    """

    split: str
    forgetting: tuple[Difference, ...]
    gain: tuple[Difference, ...]

    def document(self) -> dict[str, Any]:
        """Return the outcome as plain JSON, with the differences by metric."""
        return {
            "split": self.split,
            "forgetting": {each.metric: _record(each) for each in self.forgetting},
            "gain": {each.metric: _record(each) for each in self.gain},
        }


def find_drift(
    loaded: "LoadedAdapter", data: "RefreshData", recipe: "Recipe", *, level: float
) -> Drift:
    """Test texts and labels of the new examples against the adapter's training examples."""
    seed, old, new = recipe.data.split.seed, data.old["train"], data.new
    tests = []
    few = [data.sample(each, MAX_EMBEDDED) for each in (old, new)]
    embedded = [embed_examples(loaded, each.examples) for each in few]
    if min(map(len, embedded)) >= MIN_EXAMPLES:
        tests.append(text_drift(*embedded, seed=seed))
    counts = [count_known_labels(each, recipe, loaded.task.labels) for each in (old, new)]
    if all(sum(each.values()) for each in counts):
        tests.append(label_drift(*counts, seed=seed))
    return Drift(tuple(tests), level)


def embed_examples(loaded: "LoadedAdapter", examples: "Sequence[Example]") -> "NDArray[np.float32]":
    """Return the mean hidden state of each example in the base model, ``[examples, hidden]``.

    An example that the task reads in windows is embedded by its first window; one that the task
    can't encode is left out.

    Raises:
        DataError: naming the example that can't be used.
    """
    task = loaded.task
    firsts = [task.windows(each)[0] if task.reads_windows else each for each in examples]
    encoded = [task.encode(each, number, train=True) for number, each in enumerate(firsts, start=1)]
    given = [each for each in encoded if each is not None]
    return loaded.embed(given, with_adapter=False).numpy()


def score(loaded: "LoadedAdapter", examples: "Dataset") -> "Scores":
    """Return the statistics of an adapter's predictions, from which metrics are resampled."""
    scored = score_examples(loaded, examples.examples)
    return scores_of(loaded.task, scored.examples, scored.decoded)


def measure_change(
    old: "Scores", new: "Scores", metric: tuple[str, bool], *, recorded: float | None, split: str
) -> MetricChange:
    """Compare the present version on new examples with itself on old ones."""
    name, greater = metric
    # two seeds: the resamples are of different examples and must be independent
    drawn = [
        resampled(each, resamples=RESAMPLES, seed=seed)[name]
        for seed, each in enumerate((old, new))
    ]
    shortest = min(map(len, drawn))
    return MetricChange(
        metric=name,
        greater_is_better=greater,
        recorded=recorded,
        split=split,
        old=metrics_of(old)[name],
        old_interval=intervals(old)[name],
        new=metrics_of(new)[name],
        new_interval=intervals(new)[name],
        change=interval_of(drawn[1][:shortest] - drawn[0][:shortest], LEVEL),
    )


def compare_outcomes(
    split: str, parent: "tuple[Scores, Scores]", child: "tuple[Scores, Scores]"
) -> RefreshOutcome:
    """Compare parent and child on the old split and on new examples, both paired."""
    forgetting, gain = (tuple(differences(*pair)) for pair in zip(parent, child, strict=True))
    return RefreshOutcome(split, forgetting, gain)


def metrics_of(scores: "Scores") -> dict[str, float]:
    """Return the metrics of scores without resampling."""
    everything = np.arange(scores.size)[None, :]
    return {name: float(values[0]) for name, values in scores.metrics(everything).items()}


def _record(difference: Difference) -> dict[str, Any]:
    return {**asdict(difference), "difference": difference.value}


_CONFIG: ConfigDict = {**FOREIGN, "allow_inf_nan": True}


@dataclass(frozen=True, slots=True)
class _Findings:
    """The stored findings; derived values are not read."""

    drift: Drift
    present: MetricChange
    split: str
    forgetting: Mapping[str, Difference]
    gain: Mapping[str, Difference]

    __pydantic_config__ = _CONFIG


_SCHEMA = Schema(_Findings)


def findings_document(drift: Drift, change: MetricChange) -> dict[str, Any]:
    """Return the findings before training as plain JSON."""
    found = {each.what for each in drift.found}
    tests = [{**asdict(test), "drift": test.what in found} for test in drift.tests]
    return {
        "drift": {"level": drift.level, "tests": tests, "found": bool(found)},
        "present": {**asdict(change), "worse": change.is_worse},
    }


def read_findings(findings: Mapping[str, Any]) -> tuple[Drift, MetricChange, RefreshOutcome]:
    """Return the findings stored in a ``refresh.json``.

    Raises:
        ArtifactError: when they are malformed.
    """
    place = f"{REFRESH_NAME}: findings"
    read = _SCHEMA.read(_nan_for_null(findings), place)
    outcome = RefreshOutcome(read.split, tuple(read.forgetting.values()), tuple(read.gain.values()))
    return read.drift, read.present, outcome


def _nan_for_null(value: Any, key: str = "") -> Any:
    """Return a value with NaN for each null, which stands for a number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _nan_for_null(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_nan_for_null(each) for each in value]
    return math.nan if value is None and key != "recorded" else value
