"""How a task is asked about people, and when two of its answers differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.evaluation.bias_audit.counterfactuals import Sentence
    from adapterhub.evaluation.bias_audit.swaps import Swapper
    from adapterhub.evaluation.bias_audit.templates import Words
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example


@dataclass(frozen=True, slots=True, eq=False)
class AnswerChange:
    """What a model said of a row and of one counterfactual.

    Args:
        changed: whether the answer is another one.
        # [labels]
        move: of each label's probability; ``None`` where answers have no such labels.
        shift: the largest change of a probability.
    """

    changed: bool
    move: Tensor | None = None
    shift: float = 0.0


class AuditedTask(Protocol):
    """A kind of task, as far as the probes for bias must know it."""

    #: names of what ``AnswerChange.move`` holds
    moved: tuple[str, ...]
    #: what is counted, and what shifts, for readers
    counted: str
    #: labelled rows that the backbone's head is learned from, and that both heads are scored on
    fitted_rows: int
    scored_rows: int

    @property
    def task(self) -> Task:
        """The task itself."""

    def own(self, swapper: Swapper, words: Words) -> list[Sentence]:
        """Return the package's own rows with their counterfactuals; maybe none."""

    def given(self, rows: Sequence[Example], swapper: Swapper) -> list[Sentence]:
        """Return some of the rows in which words can be exchanged, with their counterfactuals."""

    def rows(self, row: Example) -> list[Example]:
        """Return the rows that the task must read to answer this one.

        Raises:
            DataError: when the row can't be used.
        """

    def compare(
        self, row: Example, found: Sequence[Any], other: Example, others: Sequence[Any]
    ) -> AnswerChange:
        """Tell two answers apart.

        Args:
            row: that was asked.
            found: raw prediction of each of its ``rows``.
            other: its counterfactual.
            others: raw predictions of that.
        """

    def words(self, row: Example, found: Sequence[Any]) -> str:
        """Return the answer in words, for people."""

    def text(self, row: Example) -> str:
        """Return what was asked, for people."""
