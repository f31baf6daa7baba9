"""Fast forward pass on CPUs for decoders of the Llama family.

transformers' own modules hold the weights and do the matrix products; compiled loops replace the
thirty or so calls per layer in between, which at 32 sequences take 40 % of a step on two cores
(``benchmarks/LOG.md``). Other architectures use transformers' own ``forward``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from adapterhub.kernels.attention.layout import AttentionParams
from adapterhub.kernels.attention.paged import attend_paged
from adapterhub.kernels.decoder_layer_cpu import add_and_normalize, gate, rotate_and_store
from adapterhub.kernels.numba_support import as_array

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapterhub.kernels.attention.paged import PagedBatch

#: Classes of layers that this file computes.
KNOWN_LAYERS = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"})


def can_run(base_model: Any, dtype: torch.dtype) -> bool:
    """Return whether a base model is supported."""
    layers = getattr(base_model, "layers", ())
    return (
        dtype in (torch.float32, torch.bfloat16)
        and base_model.device.type == "cpu"
        and bool(len(layers))
        and {type(layer).__name__ for layer in layers} <= KNOWN_LAYERS
        and getattr(base_model.config, "hidden_act", "") == "silu"
        # Mistral's layers read the window from the configuration
        and not getattr(base_model.config, "sliding_window", None)
    )


class FastDecoder:
    """Computes the forward pass of a base model."""

    def __init__(self, base_model: Any) -> None:
        self._base_model = base_model
        self._layers = list(base_model.layers)

    def __call__(self, ids: Tensor, positions: Tensor, paged: PagedBatch) -> Tensor:
        """Return the last hidden states ``[num_tokens, hidden_size]``.

        Args:
            ids: Token ids ``[1, num_tokens]``.
            positions: Positions ``[1, num_tokens]``.
            paged: Places of the tokens in the KV cache.
        """
        model = self._base_model
        x = model.embed_tokens(ids)[0].contiguous()
        cosine, sine = (each[0].contiguous() for each in model.rotary_emb(x, positions))
        rotation = as_array(cosine), as_array(sine)
        state, normal = as_array(x), torch.empty_like(x)
        added = state[:0]
        for number, layer in enumerate(self._layers):
            _normalize(state, added, layer.input_layernorm, normal)
            added = as_array(self._attend(layer.self_attn, number, normal, rotation, paged))
            _normalize(state, added, layer.post_attention_layernorm, normal)
            added = as_array(_feed_forward(layer.mlp, normal))
        _normalize(state, added, model.norm, normal)
        return normal

    def _attend(
        self, module: Any, layer: int, x: Tensor, rotation: tuple[Any, Any], paged: PagedBatch
    ) -> Tensor:
        width, tokens = module.head_dim, len(x)
        query = module.q_proj(x).view(tokens, -1, width)
        key = module.k_proj(x).view(tokens, -1, width)
        value = module.v_proj(x).view(tokens, -1, width)
        keys, values = paged.cache.tables(layer)
        rotate_and_store(
            as_array(query),
            as_array(key),
            as_array(value),
            *rotation,
            as_array(paged.slot_mapping),
            as_array(keys),
            as_array(values),
        )
        params = AttentionParams(layer, causal=True, window=None, scale=module.scaling)
        attended = attend_paged(query, paged, params)
        found: Tensor = module.o_proj(attended.view(tokens, -1))
        return found


def _normalize(state: Any, added: Any, norm: nn.Module, out: Tensor) -> None:
    epsilon: Any = norm.variance_epsilon
    weight: Any = norm.weight
    add_and_normalize(state, added, as_array(weight.detach()), float(epsilon), as_array(out))


def _feed_forward(module: Any, x: Tensor) -> Tensor:
    gates, values = module.gate_proj(x), module.up_proj(x)
    gate(as_array(gates), as_array(values))
    found: Tensor = module.down_proj(values)
    return found
