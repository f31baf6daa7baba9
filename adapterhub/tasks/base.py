"""What every task offers to training, evaluation and prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from adapterhub.data.packing import Example, PackedBatch

#: Which head the task puts on the backbone: its own language-model head, or a new
#: linear layer read once a row (``sequence``) or once a word (``token``).
HeadKind = Literal["causal_lm", "sequence", "token"]

#: Maps hidden states ``[selected, hidden]`` to logits ``[selected, classes]``.
Head = "Callable[[Tensor], Tensor]"

#: A data row after field mapping, keyed by the task's own field names.
Row = "Mapping[str, Any]"


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Settings of a task that come from the recipe.

    Args:
        max_length: longest input in tokens; longer ones are cut.
        label_smoothing: share of the target's probability spread over all classes.
        class_weights: ``None``, ``"balanced"`` (inverse frequency in the training rows), or
            a weight per label name.
        max_new_tokens: longest generated answer, for tasks that generate.
        system_prompt: first message of every conversation, or empty.
    """

    max_length: int = 512
    label_smoothing: float = 0.0
    class_weights: str | Mapping[str, float] | None = None
    max_new_tokens: int = 64
    system_prompt: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of a task's metrics over a set of rows.

    Args:
        metrics: name to value, all floats.
        table: one record a class for the per-label table, or empty.
    """

    metrics: Mapping[str, float]
    table: Sequence[Mapping[str, float | str]] = field(default_factory=tuple)


class Task(Protocol):
    """One task: how rows become examples, and hidden states become loss and answers.

    A task holds the tokenizer, the labels and its options; it never holds a model.
    """

    #: e.g. ``text-classification``
    name: str
    #: the Hub's name of the task, for cards
    pipeline_tag: str
    #: peft's ``TaskType`` name, e.g. ``SEQ_CLS``
    peft_task_type: str
    head: HeadKind
    #: label names in the order of the head's outputs; empty where there is no own head
    labels: tuple[str, ...]
    #: metric watched by default, and whether a larger value is better
    default_metric: tuple[str, bool]

    def encode(self, row: Mapping[str, Any], number: int, *, train: bool) -> Example | None:
        """Encode one row; ``None`` where nothing is left to learn from after cutting.

        Raises:
            DataError: naming row and field, when the row can't be used.
        """

    def loss(self, head: Callable[[Tensor], Tensor], hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the loss summed over the batch, as a scalar.

        Args:
            head: maps ``[n, hidden]`` to logits ``[n, classes]``.
            hidden: ``[selected, hidden]``, in the order of ``batch.select``.
        """

    def weight(self, batch: PackedBatch) -> float:
        """Return what the summed loss is divided by: a count, or a sum of class weights."""

    def decode(
        self, head: Callable[[Tensor], Tensor], hidden: Tensor, batch: PackedBatch
    ) -> list[Any]:
        """Return one raw prediction a row, small and on the CPU, for ``evaluate``."""

    def evaluate(self, rows: Sequence[Mapping[str, Any]], decoded: Sequence[Any]) -> Evaluation:
        """Score raw predictions against their rows (same order)."""
