"""What attention of single tokens over a paged cache computes on a GPU, and its plain form.

A row's positions lie in pages of neighbouring places, whose numbers are data in device memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


class Pages(NamedTuple):
    """Where the positions of some rows lie.

    Args:
        numbers: int32, of the pages of all rows.
        firsts: int32 ``[rows]``, where each row's pages begin.
        contexts: int32 ``[rows]``, positions of each row, at least one.
        size: positions in a page.
    """

    numbers: Tensor
    firsts: Tensor
    contexts: Tensor
    size: int


class PagedAttention(Protocol):
    """Lets the newest token of each row see what the cache holds of the row."""

    def __call__(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        pages: Pages,
        *,
        window: int | None,
        scale: float,
    ) -> Tensor:
        """Return ``[rows, heads, width]``.

        Args:
            query: ``[rows, heads, width]``.
            keys: ``[places, key heads, width]``, a layer's whole table.
            values: shaped as ``keys``.
            pages: where each row's positions lie, the newest last.
            window: how far back a token sees, itself included.
            scale: of the scores.
        """


def attend_pages(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Pages,
    *,
    window: int | None,
    scale: float,
) -> Tensor:
    """Attend in plain torch, row by row; see ``PagedAttention``."""
    out = torch.empty_like(query)
    for row, (first, context) in enumerate(
        zip(pages.firsts.tolist(), pages.contexts.tolist(), strict=True)
    ):
        position = torch.arange(max(0, context - window) if window else 0, context)
        numbers = pages.numbers[first + position.to(query.device) // pages.size].long()
        places = numbers * pages.size + position.to(query.device) % pages.size
        out[row] = F.scaled_dot_product_attention(
            query[row : row + 1].unsqueeze(2),
            keys[places].transpose(0, 1).unsqueeze(0),
            values[places].transpose(0, 1).unsqueeze(0),
            scale=scale,
            enable_gqa=True,
        )[0, :, 0]
    return out
