"""The output layer of a decoder with the most likely token of each sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from adapterhub.backbones.compiled_decoder import num_threads
from adapterhub.kernels.decoder_step.output import PHASES, num_chunks, run_output
from adapterhub.kernels.linear.avx512 import Avx512Layer
from adapterhub.kernels.linear.layout import GROUP
from adapterhub.kernels.work_sharing import new_counters

if TYPE_CHECKING:
    from torch import Tensor, nn


class StepLogits(NamedTuple):
    """Logits of a step."""

    # [n, vocab_size]
    logits: Tensor
    # most likely tokens [n] where they are known and all logits are finite
    best: list[int] | None = None


class CompiledOutput:
    """Computes logits and their largest ones in one compiled call.

    Args:
        layer: Output layer, for which ``supports`` is true.
    """

    def __init__(self, layer: Avx512Layer) -> None:
        self._layer = layer
        self._counters = new_counters(PHASES)

    @staticmethod
    def supports(layer: nn.Module) -> bool:
        """Return whether a layer is in the packed layout, with whole groups of outputs."""
        return isinstance(layer, Avx512Layer) and layer.out_features % GROUP == 0

    def __call__(self, hidden: Tensor) -> StepLogits:
        """Return the logits of hidden states, bfloat16 ``[n, hidden_size]``."""
        count, outputs = len(hidden), self._layer.out_features
        hidden = hidden.contiguous()
        logits = torch.empty(count, outputs, dtype=torch.bfloat16)
        largest = np.empty((count, num_chunks(outputs), 2), np.int16)
        best = np.empty(count, np.int64)
        self._counters.fill(0)
        run_output(
            num_threads(),
            self._counters.ctypes.data,
            hidden.data_ptr(),
            count,
            self._layer.description.ctypes.data,
            logits.data_ptr(),
            largest.ctypes.data,
            best.ctypes.data,
        )
        tokens: list[int] = best.tolist()
        return StepLogits(logits, tokens if min(tokens) >= 0 else None)
