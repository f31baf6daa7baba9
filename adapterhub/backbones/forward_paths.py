"""Which forward paths of a backbone are equal to transformers' own forward."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from adapterhub.backbones.compiled_decoder import (
    CompiledDecoder,
    adapted_linears,
    why_not_compiled,
)
from adapterhub.backbones.decoder_check import check_compiled_decoder, check_fast_decoder
from adapterhub.backbones.fast_decoder import FastDecoder, can_run
from adapterhub.backbones.path_cache import read_verdict, write_verdict
from adapterhub.backbones.path_check import check_forward_paths
from adapterhub.backbones.path_verdict import PADDED_ONLY, ForwardPaths

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.kernels.attention.kv_cache import KeyValueCache

__all__ = ["PADDED_ONLY", "ForwardPaths", "compiled_decoder", "fast_decoder", "forward_paths"]

_LOG = logging.getLogger(__name__)


def forward_paths(backbone: Backbone) -> ForwardPaths:
    """Return the verdict on a loaded backbone.

    On first use all paths are run and compared; the verdict is stored beside the cached backbones.
    """
    known = backbone.verdicts.get("paths")
    if isinstance(known, ForwardPaths):
        return known
    paths = ForwardPaths.parse(read_verdict(backbone, "paths"))
    if paths is None:
        paths = check_forward_paths(backbone)
        write_verdict(backbone, "paths", asdict(paths))
    level = logging.WARNING if paths.reasons else logging.INFO
    _LOG.log(level, "%s: %s", backbone.name, paths.summary)
    backbone.verdicts["paths"] = paths
    return paths


def fast_decoder(backbone: Backbone, dtype: torch.dtype) -> FastDecoder | None:
    """Return the decoder of compiled loops if it is equal to the base model on this backbone.

    Args:
        dtype: Type of the KV cache.
    """
    if not forward_paths(backbone).paged or not can_run(backbone.base_model, dtype):
        return None
    if not _holds(backbone, "fast_decoder", check_fast_decoder):
        return None
    return FastDecoder(backbone.base_model)


def compiled_decoder(backbone: Backbone, cache: KeyValueCache) -> CompiledDecoder | None:
    """Return the compiled step of a backbone with adapted layers, if it has one that is equal.

    Args:
        cache: KV cache of the steps.
    """
    model = backbone.base_model
    dtype = cache.keys[0].dtype if cache.keys else None
    if dtype is None or not forward_paths(backbone).paged or not can_run(model, dtype):
        return None
    reason = why_not_compiled(model)
    if reason is not None:
        _LOG.info("%s: no compiled step, because %s", backbone.name, reason)
        return None
    if not _holds(backbone, "compiled_decoder", check_compiled_decoder):
        return None
    return CompiledDecoder(model, adapted_linears(model), cache)


def _holds(backbone: Backbone, part: str, check: Callable[[Backbone], bool]) -> bool:
    """Return a verdict, which is stored where it was not known."""
    holds = backbone.verdicts.get(part, read_verdict(backbone, part))
    if not isinstance(holds, bool):
        holds = check(backbone)
        write_verdict(backbone, part, holds)
    backbone.verdicts[part] = holds
    return holds
