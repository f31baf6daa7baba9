"""Logs as lines of JSON, each with the id of the request that it was written for.

What clients ask and are answered is in them only where that is switched on. The messages of
errors may quote it, so those of errors that are not this program's own are left out too.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from adapterhub.errors import AdapterHubError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The request that a task works for; set by ``RequestLog`` and read by ``JsonLines`` only.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
#: Errors whose messages quote what they were given.
_QUOTING = (ValueError, TypeError, LookupError)
_WITHHELD = "(left out: it may quote a prompt)"
_MOST_CAUSES = 8


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON.

    Args:
        prompts: whether what clients ask may be in it.
    """

    def __init__(self, *, prompts: bool = False) -> None:
        super().__init__()
        self._prompts = prompts

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if self._may_show(record.args) else record.msg,
        }
        if request_id := REQUEST_ID.get():
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = [self._described(each) for each in _causes(record.exc_info[1])]
        return json.dumps(line, ensure_ascii=False, default=str)

    def _described(self, error: BaseException) -> dict[str, Any]:
        frames = traceback.extract_tb(error.__traceback__)
        return {
            "type": f"{type(error).__module__}.{type(error).__qualname__}",
            "message": str(error) if self._may_show(error) else _WITHHELD,
            "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        }

    def _may_show(self, what: object) -> bool:
        """Return whether the text of an error, or of what a message is made of, can be shown."""
        if self._prompts:
            return True
        parts = what if isinstance(what, tuple) else (what,)
        return not any(
            isinstance(part, _QUOTING) and not isinstance(part, AdapterHubError) for part in parts
        )


def configure_logging(level: str, *, prompts: bool = False, stream: TextIO | None = None) -> None:
    """Write all logs of the process as lines of JSON.

    Args:
        level: the least that is written.
        prompts: whether what clients ask may be in them.
        stream: that is written to; standard error where not given.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(prompts=prompts))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # commands set a level of their own here, for people at a console
    logging.getLogger("adapterhub").setLevel(logging.NOTSET)


def accepted_id(given: str) -> str:
    """Return an id that a client gave its request, empty where it can't be one."""
    return given if _GIVEN_ID.fullmatch(given) else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    current: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if current is None:
            return
        yield current
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)
