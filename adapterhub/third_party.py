"""Messages of other libraries that nobody can act on, dropped by text or around a call.

Nothing else of those libraries is dropped: a warning that a user's own code causes stays.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Logger to the beginning of its message.
_MESSAGES = {
    # a faster kernel that is not needed, and is never downloaded
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}


def drop_known_messages() -> None:
    """Drop the messages, whenever the libraries are imported; called again, it does nothing."""
    for name, start in _MESSAGES.items():
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Dropped) for each in logger.filters):
            logger.addFilter(_Dropped(start))


@contextmanager
def without_warnings() -> Iterator[None]:
    """Drop the warnings of a call into another library whose arguments are known to be right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Dropped(logging.Filter):
    """Drops records whose message begins with a text."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self._start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self._start)
