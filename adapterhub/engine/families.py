"""What architectures do beside their layers, and which of it the engine serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from adapterhub.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

    from adapterhub.backbones.backbone import Backbone

# settings that change what is computed where the engine does not see it, and the value that does
# not: Gemma 2 bends attention scores, Granite and Cohere scale logits
_UNSERVED: dict[str, Any] = {
    "attn_logit_softcapping": None,
    "use_bidirectional_attention": False,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
}


def check_served(backbone: Backbone) -> None:
    """Refuse a backbone that would be served wrongly.

    Raises:
        EngineError: naming the setting of its configuration.
    """
    for setting, harmless in _UNSERVED.items():
        value = getattr(backbone.config, setting, None)
        if value is not None and value != harmless:
            raise EngineError(
                f"has {setting} = {value!r}, which the engine does not serve", place=backbone.name
            )


def capped(logits: Tensor, config: PretrainedConfig) -> Tensor:
    """Return logits as the architecture gives them out, some of them kept within a bound.

    Source: ``final_logit_softcapping`` in transformers' ``modeling_gemma3.py``.
    """
    bound = getattr(config, "final_logit_softcapping", None)
    return logits if bound is None else torch.tanh(logits / bound) * bound
