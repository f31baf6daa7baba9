"""Metrics of a task on any selection of its examples, for resampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from adapterhub.errors import DataError
from adapterhub.tasks.predictions import window_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Array, Scores

#: Resamples of a task whose metrics are computed anew for each; some take a second.
_MAX_EVALUATIONS = 200


@dataclass(frozen=True, slots=True, eq=False)
class ReevaluatedExamples:
    """Examples whose metrics are known only to the task; see ``Scores``."""

    task: Task
    given: Sequence[Example]
    decoded: Sequence[Any]
    max_resamples: int | None = _MAX_EVALUATIONS
    #: positions in ``given`` that are drawn together
    units: Sequence[Sequence[int]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", units_of(self.task, self.given))

    @property
    def size(self) -> int:
        """Number of examples, each with all of its windows."""
        return len(self.units)

    def metrics(self, indices: Array) -> Mapping[str, Array]:
        """Return the metrics of each resample; see ``Scores``."""
        found = [self._evaluate(chosen) for chosen in indices]
        names = dict.fromkeys(name for each in found for name in each)
        return {name: np.array([each.get(name, float("nan")) for each in found]) for name in names}

    def _evaluate(self, chosen: Array) -> Mapping[str, float]:
        places = [place for unit in chosen for place in self.units[unit]]
        examples = [self.given[place] for place in places]
        try:
            return self.task.evaluate(examples, [self.decoded[place] for place in places]).metrics
        except DataError:
            # all examples together were scored before; on some resamples a metric is undefined,
            # such as the area under a curve where one label is left
            return {}


def scores_of(task: Task, examples: Sequence[Example], decoded: Sequence[Any]) -> Scores:
    """Return the predictions in a form whose metrics can be computed on resamples."""
    return task.statistics(examples, decoded) or ReevaluatedExamples(task, examples, decoded)


def units_of(task: Task, examples: Sequence[Example]) -> list[list[int]]:
    """Return the positions of each example, several where it was split into windows."""
    if task.reads_windows:
        return window_groups(examples)
    return [[place] for place in range(len(examples))]
