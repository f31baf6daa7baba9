"""Attention of rows with one new token each, over the paged cache, on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.kernels.arrays import as_array
from adapterhub.kernels.loops.attention import attend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def attend_single_tokens(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    places: NDArray[np.int64],
    firsts: NDArray[np.int64],
    *,
    window: int | None,
    scale: float,
) -> Tensor:
    """Return ``[rows, heads, width]``: what the newest token of each row sees.

    Args:
        query: ``[rows, heads, width]``, bfloat16 or float32.
        keys: ``[places, key heads, width]``, a layer's whole table.
        values: shaped as ``keys``.
        places: of all rows one after the other, the newest position of each last.
        firsts: ``[rows + 1]``, where each row's places begin.
        window: how far back a token sees, itself included.
        scale: of the scores.
    """
    query = query.contiguous()
    out = torch.empty_like(query)
    tables = (as_array(query), as_array(keys), as_array(values))
    attend(*tables, places, firsts, window or 0, scale, as_array(out))
    return out
