"""Which forward paths of a backbone are equal to transformers' own forward."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from adapterhub.backbones.fast_decoder import FastDecoder, can_run
from adapterhub.backbones.path_cache import read_verdict, write_verdict
from adapterhub.backbones.path_check import check_fast_decoder, check_forward_paths
from adapterhub.backbones.path_verdict import PADDED_ONLY, ForwardPaths

if TYPE_CHECKING:
    import torch

    from adapterhub.backbones.backbone import Backbone

__all__ = ["PADDED_ONLY", "ForwardPaths", "fast_decoder", "forward_paths"]

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
    equal = backbone.verdicts.get("fast_decoder", read_verdict(backbone, "fast_decoder"))
    if not isinstance(equal, bool):
        equal = check_fast_decoder(backbone)
        write_verdict(backbone, "fast_decoder", equal)
    backbone.verdicts["fast_decoder"] = equal
    return FastDecoder(backbone.base_model) if equal else None
