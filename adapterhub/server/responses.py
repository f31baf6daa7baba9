"""What responses have in common: provenance, usage, and streams of server-sent events."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from starlette.responses import Response

from adapterhub.server.error_responses import error_body

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from starlette.types import Receive, Scope, Send

    from adapterhub.server.context import Server
    from adapterhub.server.models import ResolvedModel

DIGEST_HEADER = "x-adapter-digest"
FINGERPRINT_HEADER = "x-backbone-fingerprint"
_DONE = b"data: [DONE]\n\n"


def digest_header(models: Iterable[ResolvedModel]) -> dict[str, str]:
    """Return the header with the digests of the adapters that were used."""
    digests = dict.fromkeys(part.digest for model in models for part in model.parts)
    return {DIGEST_HEADER: ",".join(digests)}


def provenance(server: Server, model: ResolvedModel) -> dict[str, Any]:
    """Return the adapters and the backbone that were used."""
    return {
        "adapters": model.provenance(),
        "backbone_fingerprint": server.backbone.fingerprint,
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the token counts of a request in OpenAI's form."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def envelope(server: Server, model: ResolvedModel, kind: str, prefix: str) -> dict[str, Any]:
    """Return the fields with which a response of OpenAI's form, and each of its chunks, begins."""
    return {
        "id": f"{prefix}-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": server.backbone.fingerprint,
    }


def event(document: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    content = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + content.encode("utf-8", "replace") + b"\n\n"


class EventStream(Response):
    """Response of server-sent events that ends with ``[DONE]``.

    An error after the start is sent as an event in OpenAI's form.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        # proxies would buffer events otherwise
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            try:
                async for content in events:
                    await send(_body(content, more=True))
            except Exception as error:  # noqa: BLE001, sent to the client and logged
                await send(_body(event(error_body(error)), more=True))
        await send(_body(_DONE, more=False))


def _body(content: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}
