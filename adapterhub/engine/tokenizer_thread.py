"""One thread for all that a server tokenizes, the shortest text first."""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from queue import PriorityQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from adapterhub.errors import EngineClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
#: Bytes of text after which the memory that they took is given back to the system.
_LARGE = 256 * 1024


@dataclass(order=True, slots=True)
class _Job:
    size: int
    number: int
    function: Callable[[], Any] | None = field(compare=False)
    future: Future[Any] = field(compare=False)


class TokenizerThread:
    """Runs what tokenizes, one text at a time and the shortest first.

    A tokenizer takes a second for a megabyte, and changes its own settings while it works. On a
    thread of their own, long texts delay neither the steps of the engine nor an event loop; a short
    one waits for no more than the one that is being tokenized.
    """

    def __init__(self) -> None:
        self._jobs: PriorityQueue[_Job] = PriorityQueue()
        self._numbers = count()
        self._closed = False
        self._thread = Thread(target=self._run, name="adapterhub-tokenizer", daemon=True)
        self._thread.start()

    def submit(self, size: int, function: Callable[[], _T]) -> Future[_T]:
        """Call a function on the thread; one whose future is cancelled before is left out.

        Args:
            size: Characters or bytes of the text.
            function: Function that tokenizes it.
        """
        if self._closed:
            raise EngineClosedError("the engine is closed")
        future: Future[_T] = Future()
        self._jobs.put(_Job(size, next(self._numbers), function, future))
        return future

    def close(self) -> None:
        """End the thread after the jobs that are waiting."""
        if not self._closed:
            self._closed = True
            self._jobs.put(_Job(sys.maxsize, next(self._numbers), None, Future()))
            self._thread.join()

    def _run(self) -> None:
        tokenized = 0
        while (job := self._jobs.get()).function is not None:
            if job.future.set_running_or_notify_cancel():
                try:
                    result = job.function()
                except BaseException as error:  # noqa: BLE001, it is raised where it is awaited
                    job.future.set_exception(error)
                else:
                    job.future.set_result(result)
            tokenized += job.size
            # the result lives on only where it is used
            result = None
            del job
            if tokenized >= _LARGE and self._jobs.empty():
                tokenized = 0
                release_memory()


def release_memory() -> None:
    """Give freed memory back to the system where the C library keeps it, as on Linux."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
