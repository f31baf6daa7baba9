"""Request ids, one log line and the metrics of each request."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from adapterhub.server.logs import REQUEST_ID, accepted_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from adapterhub.server.metrics import Metrics

_LOG = logging.getLogger(__name__)
HEADER = b"x-request-id"
_DIGEST_HEADER = b"x-adapter-digest"
#: Status that proxies log for a client that disconnected before a response started.
_CLIENT_CLOSED_REQUEST = 499
#: Most bytes of a body that are logged.
MAX_LOGGED = 65536


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
        headers: Headers added to every response.
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
            message = {**message, "headers": [*headers, *self._headers]}
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
