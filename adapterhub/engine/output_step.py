"""The step from last hidden states to logits, as the backbone's architecture computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.engine.compiled_output import CompiledOutput, StepLogits
from adapterhub.engine.forward_context import set_forward_context

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from adapterhub.backbones.head_model import HeadModel

#: Hidden states that tell scales, caps and other layers from a plain output layer: ordinary ones,
#: and ones far in the range of every cap.
_TRIAL_SCALES = (1.0, 100.0)
#: Largest mean difference, in standard deviations, that is taken for rounding.
_ROUNDING = 1e-2


class OutputStep:
    """Computes logits with the output layer alone where that is all the architecture does.

    Granite and Cohere scale logits, Gemma caps them, others have more layers: then transformers'
    class computes them.

    Args:
        head: transformers' class for causal language models.
        plain: Output layer of the backbone as the class holds it.
        layer: Layer that takes its place, with the adapters of each token.
    """

    def __init__(self, head: HeadModel, plain: nn.Module, layer: nn.Module) -> None:
        self._head, self._layer = head, layer
        self._layer_suffices: bool | None = None
        base = getattr(layer, "base", layer)
        self._compiled = CompiledOutput(base) if CompiledOutput.supports(base) else None
        for path, module in list(head.model.named_modules()):
            if module is plain:
                parent, _, name = path.rpartition(".")
                setattr(head.model.get_submodule(parent), name, layer)

    @property
    def model(self) -> PreTrainedModel:
        """transformers' class, with the layer in place."""
        return self._head.model

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return logits ``[n, vocab_size]`` for hidden states ``[n, hidden_size]``."""
        logits: Tensor = self._layer(hidden) if self._suffices(hidden) else self._whole(hidden)
        return logits

    def plain(self, hidden: Tensor) -> StepLogits:
        """Return logits without adapters, and the most likely tokens where they cost nothing."""
        if self._compiled is None or not self._suffices(hidden):
            return StepLogits(self(hidden))
        return self._compiled(hidden)

    def _suffices(self, hidden: Tensor) -> bool:
        if self._layer_suffices is None:
            self._layer_suffices = self._try_layer(hidden)
        return self._layer_suffices

    def _whole(self, hidden: Tensor) -> Tensor:
        return self._head.logits_of(hidden.unsqueeze(1))[:, 0]

    def _try_layer(self, like: Tensor) -> bool:
        """Return whether the layer alone gives the logits of the class, without adapters."""
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(2, like.shape[-1], generator=generator).to(like)
        with torch.no_grad(), set_forward_context(None):
            for scale in _TRIAL_SCALES:
                whole = self._whole(states * scale).float()
                difference = (self._layer(states * scale).float() - whole).abs().mean()
                if not bool(difference <= _ROUNDING * whole.std()):
                    return False
        return True
