"""What all tasks share whose new head is read once an example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.tasks.base import join_predictions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.tasks.base import Example, HeadKind


class ReadOnce:
    """An example has one prediction, made from one place of it, and is never cut into windows.

    Abstract: a task adds ``name``, ``default_metric`` and what it learns; see ``Task``.
    """

    pipeline_tag: str = "text-classification"
    peft_task_type: str = "SEQ_CLS"
    head: HeadKind = "sequence"
    reads_windows: bool = False

    def windows(self, example: Example) -> list[Example]:
        """Return the example itself."""
        return [example]

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the only answer."""
        return join_predictions(answers)
