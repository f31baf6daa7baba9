"""Logs as lines of JSON, and the id, log line and metrics of each request."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO
from uuid import uuid4

from adapterhub.errors import AdapterHubError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from adapterhub.server.metrics import Metrics

_LOG = logging.getLogger(__name__)
HEADER = b"x-request-id"
_DIGEST_HEADER = b"x-adapter-digest"
#: Status that proxies log for a client that disconnected before a response started.
_CLIENT_CLOSED_REQUEST = 499
#: Most bytes of a body that are logged.
MAX_LOGGED = 65536
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


def add_log_fields(scope: Scope, **fields: Any) -> None:
    """Add fields to the log line of a request, such as the id of its key."""
    scope.setdefault("state", {}).setdefault("log", {}).update(fields)


class RequestLog:
    """ASGI middleware that gives each request an id, logs it and counts it.

    The id is the client's ``x-request-id`` header if it is valid, and a new one otherwise. It is
    stored in ``scope["state"]["request_id"]`` and sent with the response.

    Args:
        app: Application behind the middleware.
        metrics: Metrics that count the requests of each route.
        headers: Headers added to every response that does not have them.
        prompts: Whether the bodies of requests and responses are logged.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics | None = None,
        headers: Mapping[str, str] | None = None,
        prompts: bool = False,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._headers = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self._prompts = prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application and log the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER, b"").decode("latin-1")
        request_id = accepted_id(given) or uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        headers = [*self._headers, (HEADER, request_id.encode())]
        exchange = _Exchange(scope, receive, send, headers, prompts=self._prompts)
        token = REQUEST_ID.set(request_id)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            _LOG.info("request", extra={"fields": exchange.fields()})
            REQUEST_ID.reset(token)
            route = scope.get("route")
            if self._metrics is not None and route is not None:
                self._metrics.record_request(route.path, exchange.status, exchange.seconds)


class _Exchange:
    """One request and its response, observed while they are transferred."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: list[tuple[bytes, bytes]],
        *,
        prompts: bool,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers = headers
        self._prompts = prompts
        self._started = time.perf_counter()
        self._first: float | None = None
        self._sent = 0
        self._digest = ""
        self._request, self._response = bytearray(), bytearray()
        self.status = _CLIENT_CLOSED_REQUEST

    @property
    def seconds(self) -> float:
        """Seconds since the request started."""
        return time.perf_counter() - self._started

    async def receive(self) -> Message:
        """Return the next message from the client."""
        message = await self._receive()
        if self._prompts:
            _append(self._request, message)
        return message

    async def send(self, message: Message) -> None:
        """Send the next message to the client."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.get("headers", ())
            self._digest = dict(headers).get(_DIGEST_HEADER, b"").decode("latin-1")
            given = {name for name, _ in headers}
            added = (each for each in self._headers if each[0] not in given)
            message = {**message, "headers": [*headers, *added]}
        elif message["type"] == "http.response.body":
            if self._first is None and message.get("body"):
                self._first = self.seconds
            self._sent += len(message.get("body", b""))
            if self._prompts:
                _append(self._response, message)
        await self._send(message)

    def fields(self) -> dict[str, Any]:
        """Return the fields of the log line; the query is left out, since it may hold anything."""
        client = self._scope.get("client")
        found = {
            "method": self._scope["method"],
            "path": self._scope["path"][:256],
            "status": self.status,
            "seconds": round(self.seconds, 6),
            "first_seconds": self._first and round(self._first, 6),
            "bytes": self._sent,
            "client": client[0] if client else None,
            "adapter_digest": self._digest or None,
            **self._scope["state"].get("log", {}),
        }
        if self._prompts:
            found["request"] = self._request.decode("utf-8", "replace")
            found["response"] = self._response.decode("utf-8", "replace")
        return {name: value for name, value in found.items() if value is not None}


def _append(kept: bytearray, message: Message) -> None:
    kept += message.get("body", b"")[: MAX_LOGGED - len(kept)]
