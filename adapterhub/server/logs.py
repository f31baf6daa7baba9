"""Logs as lines of JSON, each with the id of the request that it belongs to.

Prompts and responses are logged only if that is enabled. The messages of exceptions may quote
them, so the messages of foreign exceptions are left out as well.
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

#: Id of the current request; set by ``RequestLog`` and read by ``JsonLines``.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
#: Exceptions whose messages quote their input.
_QUOTING = (ValueError, TypeError, LookupError)
_HIDDEN = "(left out: it may quote a prompt)"
_MAX_CAUSES = 8


class JsonLines(logging.Formatter):
    """Formats a log record as one line of JSON."""

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
            line["error"] = [self._exception(each) for each in _causes(record.exc_info[1])]
        return json.dumps(line, ensure_ascii=False, default=str)

    def _exception(self, error: BaseException) -> dict[str, Any]:
        frames = traceback.extract_tb(error.__traceback__)
        return {
            "type": f"{type(error).__module__}.{type(error).__qualname__}",
            "message": str(error) if self._may_show(error) else _HIDDEN,
            "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        }

    def _may_show(self, value: object) -> bool:
        """Return whether an exception, or the arguments of a message, may be logged."""
        if self._prompts:
            return True
        parts = value if isinstance(value, tuple) else (value,)
        return not any(
            isinstance(part, _QUOTING) and not isinstance(part, AdapterHubError) for part in parts
        )


def configure_logging(level: str, *, prompts: bool = False, stream: TextIO | None = None) -> None:
    """Write all logs of the process as lines of JSON.

    Args:
        level: Lowest level that is written.
        prompts: Whether prompts and responses may be logged.
        stream: Stream to write to; standard error by default.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(prompts=prompts))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # commands set a level of their own here for the console
    logging.getLogger("adapterhub").setLevel(logging.NOTSET)


def accepted_id(given: str) -> str:
    """Return the request id that a client gave; empty if it is invalid."""
    return given if _GIVEN_ID.fullmatch(given) else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes."""
    current: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if current is None:
            return
        yield current
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)
