"""A bound on time, asked between pieces of work."""

from __future__ import annotations

import time


class Deadline:
    """Tells when the time is over."""

    def __init__(self, seconds: float) -> None:
        """Start the clock.

        Args:
            seconds: from now.
        """
        self._end = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end
