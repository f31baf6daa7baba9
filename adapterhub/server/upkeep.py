"""Upkeep of a server's backbones: idle ones are unloaded, failed ones are loaded again."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from adapterhub.errors import AdapterHubError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from adapterhub.server.backbones import Backbones
    from adapterhub.server.served_backbone import ServedBackbone

_LOG = logging.getLogger(__name__)
#: Longest time in seconds between two checks.
INTERVAL = 1.0
#: Seconds between two attempts to load a backbone that failed.
RETRY = 10.0


@asynccontextmanager
async def upkeep(backbones: Backbones, unload_idle: float | None) -> AsyncIterator[None]:
    """Check the backbones regularly while the block runs.

    Args:
        backbones: Backbones of the server.
        unload_idle: Seconds without requests after which a backbone is unloaded; never if ``None``.
    """
    task = asyncio.create_task(_check_always(backbones, unload_idle))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _check_always(backbones: Backbones, unload_idle: float | None) -> None:
    interval = min(INTERVAL, (unload_idle or INTERVAL) / 4)
    next_try: dict[ServedBackbone, float] = {}
    while True:
        await asyncio.sleep(interval)
        for served in backbones:
            try:
                if served.state == "failed" and time.monotonic() >= next_try.get(served, 0.0):
                    next_try[served] = time.monotonic() + RETRY
                    await served.acquire()
                    served.release()
                elif unload_idle is not None and served.idle_seconds >= unload_idle:
                    await served.unload()
            except AdapterHubError as error:
                _LOG.error("%s", error)
