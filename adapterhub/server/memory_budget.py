"""Division of one memory budget among the engines of a server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from adapterhub.backbones.quantize import torch_dtype
from adapterhub.errors import SettingsError
from adapterhub.kernels.attention.kv_cache import cache_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.config import EngineConfig
    from adapterhub.server.settings import ServerSettings

#: Least host memory for the adapters of a backbone, in bytes.
MIN_HOST_BYTES = 16 * 1024**2
_MIB = 1024**2


def divide(settings: ServerSettings, backbones: Sequence[Backbone]) -> list[EngineConfig]:
    """Return the configuration of each engine.

    The tokens of the KV cache are divided equally among the backbones that generate text, and the
    host memory for adapters equally among all, so that no backbone can take the memory of another.
    With ``memory_bytes``, weights, KV caches and the adapter tables of the device are subtracted
    first, and adapters in host memory get at most what is left.

    Args:
        settings: Settings of the server, whose sizes are those of all engines together.
        backbones: Backbones with their weights.

    Raises:
        SettingsError: If the backbones do not fit.
    """
    whole = settings.engine()
    generating = sum(backbone.lm_head is not None for backbone in backbones)
    tokens = whole.kv_cache_tokens
    if generating > 1:
        tokens = tokens // generating // whole.block_size * whole.block_size
        if not tokens:
            raise SettingsError(
                f"{whole.kv_cache_tokens} tokens are less than a block for each of "
                f"{generating} backbones",
                place="kv_cache_tokens",
                hint=f"Give at least {generating * whole.block_size}",
            )
    host = whole.host_cache_bytes
    if settings.memory_bytes is not None:
        host = min(host, _left(settings, backbones, tokens))
    share = replace(whole, kv_cache_tokens=tokens, host_cache_bytes=host // len(backbones))
    return [share] * len(backbones)


def _left(settings: ServerSettings, backbones: Sequence[Backbone], tokens: int) -> int:
    """Return the bytes that are left for adapters in host memory."""
    budget = settings.memory_bytes or 0
    weights = {backbone.name: backbone.memory_bytes for backbone in backbones}
    caches = sum(cache_bytes(each, tokens) for each in backbones if each.lm_head is not None)
    tables = sum(table_bytes(each, settings.rank_slots) for each in backbones)
    left = budget - sum(weights.values()) - caches - tables
    least = MIN_HOST_BYTES * len(backbones)
    if left < least:
        parts = ", ".join(f"{name} {size / _MIB:.0f}" for name, size in weights.items())
        raise SettingsError(
            f"{budget / _MIB:.0f} MiB are less than the {(budget - left + least) / _MIB:.0f} MiB "
            f"of weights ({parts}), KV caches ({caches / _MIB:.0f}), adapters on the device "
            f"({tables / _MIB:.0f}) and at least {least / _MIB:.0f} for adapters in host memory",
            place="memory_bytes",
            hint="Give more, serve fewer backbones, or lower kv_cache_tokens or rank_slots",
        )
    return left


def cache_bytes(backbone: Backbone, tokens: int) -> int:
    """Return the bytes of the keys and values of so many tokens.

    Layers without attention, as in recurrent models, count as if they had it.
    """
    layers, heads, width = cache_shape(backbone.config)
    size = torch_dtype(backbone.quantization.compute_dtype).itemsize
    return 2 * layers * heads * width * size * tokens


def table_bytes(backbone: Backbone, rank_slots: int) -> int:
    """Return the bytes of the LoRA pairs of all linear layers with so many rank slots."""
    size = torch_dtype(backbone.quantization.compute_dtype).itemsize
    linears = (each for each in backbone.base_model.modules() if isinstance(each, nn.Linear))
    return sum(each.in_features + each.out_features for each in linears) * rank_slots * size
