"""Which forward paths of a backbone are equal to transformers' own forward."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from adapterhub.backbones.path_check import check_forward_paths
from adapterhub.backbones.path_verdict import PADDED_ONLY, ForwardPaths

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone

__all__ = ["PADDED_ONLY", "ForwardPaths", "forward_paths"]

_LOG = logging.getLogger(__name__)


def forward_paths(backbone: Backbone) -> ForwardPaths:
    """Return the verdict on a loaded backbone, which is checked on first use."""
    if not backbone.verdicts:
        backbone.verdicts.append(check_forward_paths(backbone))
    return backbone.verdicts[0]
