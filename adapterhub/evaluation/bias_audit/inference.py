"""Predictions with and without the adapter, and the time limit of an audit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import torch

from adapterhub.data.packing import pack
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.base import Head, Task
    from adapterhub.tasks.fields import Example


class AuditedAdapter(Protocol):
    """An adapter as it is served, with its task; see ``LoadedAdapter`` of the engine."""

    @property
    def task(self) -> Task:
        """Task of the adapter."""

    def decode(self, examples: Sequence[EncodedExample], *, with_adapter: bool = True) -> list[Any]:
        """Return the raw prediction of each example, as ``Task.decode`` returns it."""

    def states(
        self, examples: Sequence[EncodedExample], *, with_adapter: bool = True
    ) -> list[Tensor]:
        """Return the hidden states at the selected tokens, ``[num_selected, hidden_size]`` each."""

    def generate_from(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | None = None,
        *,
        with_adapter: bool = True,
    ) -> list[str]:
        """Return the texts that follow prompts of token ids, greedily."""


class Deadline:
    """Time limit that is checked between batches."""

    def __init__(self, seconds: float) -> None:
        """Start the time limit, ``seconds`` from now."""
        self._end = time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end


def encode_examples(
    task: Task, examples: Sequence[Example], *, train: bool
) -> list[EncodedExample | None]:
    """Encode examples, with ``None`` for an invalid one."""
    encoded: list[EncodedExample | None] = []
    for number, example in enumerate(examples, start=1):
        try:
            encoded.append(task.encode(example, number, train=train))
        except DataError:
            # a substitution may make an example invalid
            encoded.append(None)
    return encoded


def predict_by(
    adapter: AuditedAdapter, head: Head, examples: Sequence[EncodedExample]
) -> list[Any]:
    """Return the raw prediction that a head makes of the base model's states, by example."""
    found = []
    with torch.no_grad():
        for example, states in zip(
            examples, adapter.states(examples, with_adapter=False), strict=True
        ):
            found += adapter.task.decode(head, states, pack([example]))
    return found
