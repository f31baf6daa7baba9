"""Where prepared backbones lie on disk."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

#: Overrides the folder of the cache.
CACHE_VARIABLE = "ADAPTERHUB_CACHE"


def backbone_cache(cache: Path | None = None) -> Path:
    """Return the folder of prepared backbones.

    Args:
        cache: root of the cache; ``$ADAPTERHUB_CACHE`` or the user's own where not given.
    """
    root = cache or os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("adapterhub")
    return Path(root) / "backbones"
