"""What a run starts from where that is not a fresh adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from adapterhub.training.prepare import PreparedData


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """An adapter to go on from, and the rows to go on with.

    Args:
        digest: of the adapter.
        tensors: its own, the head's among them, under peft's names.
        data: rows instead of those that the recipe names; its labels are the adapter's, in the
            same order.
    """

    digest: str
    tensors: Mapping[str, Tensor]
    data: PreparedData
