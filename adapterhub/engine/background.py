"""Threads that work beside those that answer, and give way to them."""

from __future__ import annotations

import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

_LOG = logging.getLogger(__name__)

#: Niceness of a thread: on a busy core it gets a tenth beside a thread of the usual one. At 19,
#: where it gets 1.5 %, an adapter was seen to take seconds while both cores were busy.
NICENESS = 10


def background_pool(name: str, threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads give way to all others on Linux, and are plain elsewhere.

    Args:
        name: that its threads begin with.
        threads: most of them.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_give_way)


def _give_way() -> None:
    if sys.platform != "linux":
        return
    try:
        # Linux has a priority for each thread, which goes by its number
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    except OSError as error:
        _LOG.info("background threads have the usual priority: %s", error)
