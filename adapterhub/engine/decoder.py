"""A decoder of the Llama family, layer by layer, with compiled loops between its products.

transformers' own modules hold the weights and do the products; what they do in between takes
them some thirty calls a layer, which at 32 rows is 40 % of a step on two cores. The notes in
``benchmarks/LOG.md`` have the measurement that this file stands on. Everything else goes through
transformers' own ``forward``.
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

#: Classes of layers whose formula this file has.
KNOWN_LAYERS = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"})


def can_run(body: Any, dtype: torch.dtype) -> bool:
    """Return whether a backbone is one of those that this file computes."""
    layers = getattr(body, "layers", ())
    return (
        dtype in (torch.float32, torch.bfloat16)
        and body.device.type == "cpu"
        and bool(len(layers))
        and {type(layer).__name__ for layer in layers} <= KNOWN_LAYERS
        and getattr(body.config, "hidden_act", "") == "silu"
        # Mistral's layers read the window from the configuration
        and not getattr(body.config, "sliding_window", None)
    )


class FastDecoder:
    """Computes what a body's ``forward`` computes.

    Args:
        body: as ``can_run`` accepts it, its linear layers replaced by sites.
    """

    def __init__(self, body: Any) -> None:
        self._body = body
        self._layers = list(body.layers)

    def __call__(self, ids: Tensor, positions: Tensor, paged: PagedBatch) -> Tensor:
        """Return the last hidden states ``[tokens, hidden]``.

        Args:
            ids: ``[1, tokens]``.
            positions: ``[1, tokens]``.
            paged: of the step.
        """
        body = self._body
        x = body.embed_tokens(ids)[0].contiguous()
        cosine, sine = (each[0].contiguous() for each in body.rotary_emb(x, positions))
        turns = as_array(cosine), as_array(sine)
        state, normal = as_array(x), torch.empty_like(x)
        added = state[:0]
        for number, layer in enumerate(self._layers):
            _normalize(state, added, layer.input_layernorm, normal)
            added = as_array(self._attend(layer.self_attn, number, normal, turns, paged))
            _normalize(state, added, layer.post_attention_layernorm, normal)
            added = as_array(_feed_forward(layer.mlp, normal))
        _normalize(state, added, body.norm, normal)
        return normal

    def _attend(
        self, module: Any, layer: int, x: Tensor, turns: tuple[Any, Any], paged: PagedBatch
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
            *turns,
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
