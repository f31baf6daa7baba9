"""Turn Ctrl-C and SIGTERM into a flag, so that no step is interrupted halfway."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptFlag:
    """While entered, the first signal sets ``is_set``; a second one has its usual effect."""

    def __init__(self) -> None:
        self.is_set = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> InterruptFlag:
        """Handle the signals, where this is the main thread; other threads can not."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {each: signal.signal(each, self._set) for each in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        self._restore()

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        self._restore()

    def _restore(self) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)
        self._previous = {}
