"""Packed and paged attention behind transformers' attention interface.

The metadata of a batch travels with the call as a keyword, through the model's own ``**kwargs``:
``packed`` for training and pooling, ``paged`` for generation. A call without either is plain SDPA,
so one loaded model serves all of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapterhub.kernels.attention.layout import AttentionParams
from adapterhub.kernels.attention.packed import attend_packed
from adapterhub.kernels.attention.paged import attend_paged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from adapterhub.kernels.attention.layout import PackedSequences
    from adapterhub.kernels.attention.paged import PagedBatch

#: Value of transformers' ``attn_implementation``.
ATTENTION_NAME = "adapterhub"
#: Keywords that reach attention through ``**kwargs`` and change nothing that it computes.
_NEUTRAL = frozenset(
    {
        "cache_position",
        "deterministic",
        "num_items_in_batch",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)


def install_attention() -> None:
    """Register the attention with transformers, if it is not registered yet."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, attention_forward)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, sdpa_mask)


@contextmanager
def fast_attention(base_model: Any) -> Iterator[None]:
    """Route a model through packed and paged attention inside the block.

    Outside, the model keeps the attention that transformers chose for it. What is computed again
    in a backward pass (gradient checkpointing) must be inside as well.
    """
    install_attention()
    with _attention(base_model, ATTENTION_NAME):
        yield


@contextmanager
def own_attention(base_model: Any) -> Iterator[None]:
    """Compute as transformers does inside the block, also where ``fast_attention`` is on."""
    own = base_model.config._attn_implementation
    with _attention(base_model, "sdpa" if own == ATTENTION_NAME else own):
        yield


@contextmanager
def _attention(base_model: Any, name: str | None) -> Iterator[None]:
    config = base_model.config
    if config._attn_implementation == name:
        yield
        return
    parts = [getattr(config, part) for part in config.sub_configs if getattr(config, part, None)]
    before = [(each, each._attn_implementation) for each in (config, *parts)]
    # also sets that of the parts
    config._attn_implementation = name
    try:
        yield
    finally:
        for each, own in before:
            each._attn_implementation = own


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedSequences | None = None,
    paged: PagedBatch | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence of a batch.

    Args:
        query: ``[1, heads, num_tokens, head_dim]``.
        key: ``[1, kv_heads, num_tokens, head_dim]``; in a packed batch trained keys may precede
            them, which every sequence sees.
        value: Shaped as ``key``.
        attention_mask: Mask of plain SDPA; not used with ``packed`` or ``paged``.
        packed: Sequences of a packed batch.
        paged: Sequences of a decoding step, whose keys and values are written to the cache first.
        scaling: Factor of the scores; ``head_dim ** -0.5`` if ``None``.
        is_causal: Whether attention is causal; an attribute of ``module`` if ``None``.
        kwargs: Other settings, such as a soft cap or attention sinks.

    Returns:
        ``[1, num_tokens, heads, head_dim]``, and ``None`` for the attention weights.

    Raises:
        NotImplementedError: If packed or paged attention would leave out a setting.
    """
    params = AttentionParams(
        layer=int(getattr(module, "layer_idx", None) or 0),
        causal=bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal,
        window=sliding_window,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
    )
    if packed is not None or paged is not None:
        _check_settings(kwargs)
    if packed is not None:
        out = attend_packed(query[0], key[0], value[0], packed, params, dropout=dropout)
    elif paged is not None:
        keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
        paged.cache.write(params.layer, paged.slot_mapping, keys, values)
        out = attend_paged(query[0].transpose(0, 1), paged, params)
    else:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
    return out.unsqueeze(0), None


def _check_settings(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if value is None or value is False or name in _NEUTRAL:
            continue
        raise NotImplementedError(f"packed and paged attention have no {name!r}")
