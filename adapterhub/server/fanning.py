"""Doing the same for many things at once, so that they share batches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_T = TypeVar("_T")
_R = TypeVar("_R")
#: Most things of one request that are asked for at once.
WIDTH = 64


async def for_each(things: Sequence[_T], do: Callable[[_T], Awaitable[_R]]) -> list[_R]:
    """Return what a function makes of each thing, in order; the first error ends the rest.

    Raises:
        Exception: what the function raised first.
    """
    results: dict[int, _R] = {}
    left = iter(enumerate(things))

    async def work() -> None:
        for index, thing in left:
            results[index] = await do(thing)

    tasks = [asyncio.ensure_future(work()) for _ in range(min(WIDTH, len(things)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[index] for index in range(len(things))]
