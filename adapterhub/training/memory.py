"""Settings of the C library's allocator that suit training on a CPU."""

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
    """Let glibc keep the memory of freed tensors for the next ones.

    By default it gives every large block back to the kernel, which must clear it again at
    the next allocation: a training step frees and takes gigabytes. The process keeps the
    size of its largest step. Returns whether it was done; elsewhere than on glibc it is not.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
        done = library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        done = done and library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        logger.info("the allocator can't be told to keep freed memory; training is a little slower")
        return False
    return bool(done)
