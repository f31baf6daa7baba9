"""One line in the log for each request, and the id by which all lines of it are found."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from adapterhub.server.logs import REQUEST_ID, accepted_id

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger(__name__)
HEADER = b"x-request-id"
_DIGEST_HEADER = b"x-adapter-digest"
#: What proxies log for a client that went away before an answer began.
_GONE = 499
#: Most bytes of a body that are logged.
MAX_LOGGED = 65536


def note(scope: Scope, **fields: Any) -> None:
    """Add to the line of a request, such as the id of its key."""
    scope.setdefault("state", {}).setdefault("log", {}).update(fields)


class RequestLog:
    """Middleware that gives each request an id and writes one line for it.

    The id is the client's own ``x-request-id`` where that can be one. It stands in
    ``scope["state"]["request_id"]`` and in the answer.

    Args:
        app: that answers.
        prompts: whether bodies of requests and answers are logged.
    """

    def __init__(self, app: ASGIApp, *, prompts: bool = False) -> None:
        self._app = app
        self._prompts = prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER, b"").decode("latin-1")
        request_id = accepted_id(given) or uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        exchange = _Exchange(scope, receive, send, request_id, prompts=self._prompts)
        token = REQUEST_ID.set(request_id)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            _LOG.info("request", extra={"fields": exchange.fields()})
            REQUEST_ID.reset(token)


class _Exchange:
    """What is seen of one request and its answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, *, prompts: bool
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._prompts = prompts
        self._began = time.perf_counter()
        self._first: float | None = None
        self._status = _GONE
        self._sent = 0
        self._digest = ""
        self._asked, self._answered = bytearray(), bytearray()

    async def receive(self) -> Message:
        """Pass on what the client sends."""
        message = await self._receive()
        if self._prompts:
            _gather(self._asked, message)
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the client is sent."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = message.get("headers", ())
            found = dict(headers)
            self._digest = found.get(_DIGEST_HEADER, b"").decode("latin-1")
            if HEADER not in found:
                own = (HEADER, self._request_id.encode())
                message = {**message, "headers": [*headers, own]}
        elif message["type"] == "http.response.body":
            if self._first is None and message.get("body"):
                self._first = time.perf_counter()
            self._sent += len(message.get("body", b""))
            if self._prompts:
                _gather(self._answered, message)
        await self._send(message)

    def fields(self) -> dict[str, Any]:
        """Return what is logged; of the address not the query, which may hold anything."""
        client = self._scope.get("client")
        found = {
            "method": self._scope["method"],
            "path": self._scope["path"][:256],
            "status": self._status,
            "seconds": round(time.perf_counter() - self._began, 6),
            "first_seconds": self._first and round(self._first - self._began, 6),
            "bytes": self._sent,
            "client": client[0] if client else None,
            "adapter_digest": self._digest or None,
            **self._scope["state"].get("log", {}),
        }
        if self._prompts:
            found["asked"] = self._asked.decode("utf-8", "replace")
            found["answered"] = self._answered.decode("utf-8", "replace")
        return {name: value for name, value in found.items() if value is not None}


def _gather(kept: bytearray, message: Message) -> None:
    kept += message.get("body", b"")[: MAX_LOGGED - len(kept)]
