"""Allocator settings for training on a CPU."""

from __future__ import annotations

import ctypes
import logging
import sys

logger = logging.getLogger(__name__)

# Source: mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc reuse the memory of freed tensors, and return whether it was possible.

    By default glibc returns every large block to the kernel, which clears it again at the next
    allocation, and a training step frees and allocates gigabytes. The process keeps the size of
    its largest step. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
        done = library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        done = done and library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        logger.info("the allocator can't keep freed memory; training is slightly slower")
        return False
    return bool(done)
