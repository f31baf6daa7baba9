"""Responses: errors, provenance, usage, and streams of server-sent events."""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    BackboneError,
    ComputeError,
    DataError,
    EngineClosedError,
    EngineError,
    FingerprintMismatch,
    Forbidden,
    IntegrityError,
    MissingExtraError,
    NotFoundError,
    QueueFull,
    RecipeError,
    RefError,
    RegistryError,
    RequestError,
    SignatureError,
    TransferError,
    Unauthorized,
)
from adapterhub.http.errors import HTTPError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from starlette.types import Receive, Scope, Send

    from adapterhub.server.models import ResolvedModel

DIGEST_HEADER = "x-adapter-digest"
FINGERPRINT_HEADER = "x-backbone-fingerprint"
_DONE = b"data: [DONE]\n\n"
_LOG = logging.getLogger(__name__)
_FAILED = "the server failed. Its log has the reason"
_INVALID = "invalid_request_error"


class _Kind(NamedTuple):
    """Status and OpenAI's fields of one kind of error."""

    status: int
    type: str
    code: str | None = None


#: The first matching class decides.
_KINDS: tuple[tuple[type[AdapterHubError], _Kind], ...] = (
    (Unauthorized, _Kind(401, "authentication_error", "invalid_api_key")),
    (Forbidden, _Kind(403, "permission_error", "forbidden")),
    (QueueFull, _Kind(429, "rate_limit_error", "queue_full")),
    (FingerprintMismatch, _Kind(409, _INVALID, "fingerprint_mismatch")),
    # an adapter that is loaded names another one
    (BackboneError, _Kind(409, _INVALID, "backbone_mismatch")),
    (NotFoundError, _Kind(404, _INVALID, "model_not_found")),
    (RefError, _Kind(400, _INVALID, "invalid_reference")),
    (IntegrityError, _Kind(500, "server_error", "damaged_adapter")),
    (SignatureError, _Kind(403, "permission_error", "signature")),
    (RegistryError, _Kind(409, _INVALID, "conflict")),
    (RequestError, _Kind(400, _INVALID)),
    (DataError, _Kind(400, _INVALID)),
    (RecipeError, _Kind(400, _INVALID)),
    (ArtifactError, _Kind(422, _INVALID, "unusable_adapter")),
    (EngineClosedError, _Kind(503, "server_error", "closing")),
    (ComputeError, _Kind(500, "server_error", "compute_failed")),
    (EngineError, _Kind(400, _INVALID)),
    (TransferError, _Kind(502, "server_error", "hub")),
    (MissingExtraError, _Kind(501, "server_error", "missing_extra")),
)
_UNKNOWN = _Kind(500, "server_error")


def error_response(error: Exception) -> JSONResponse:
    """Return the response to a request that raised an exception."""
    error = _original(error)
    kind = _kind_of(error)
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    elif kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    elif kind.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPError | HTTPException):
        headers.update(error.headers or {})
    return JSONResponse(error_body(error), kind.status, headers)


def error_body(error: Exception) -> dict[str, Any]:
    """Return an error in OpenAI's form; details that only the log may hold are left out."""
    kind = _kind_of(error)
    if kind.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _LOG.error("%s", error, exc_info=error)
    return {
        "error": {
            "message": _message(error, kind),
            "type": kind.type,
            "param": _param(error),
            "code": kind.code,
        }
    }


def _original(error: Exception) -> Exception:
    # FastAPI wraps what reading a body raises
    cause = error.__cause__
    wrapped = isinstance(error, HTTPException) and isinstance(cause, HTTPError)
    return cause if wrapped and isinstance(cause, Exception) else error


def _kind_of(error: Exception) -> _Kind:
    if isinstance(error, HTTPError):
        type_ = "server_error" if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR else _INVALID
        return _Kind(error.status, type_, error.code or None)
    if isinstance(error, HTTPException):
        return _Kind(error.status_code, _INVALID)
    if isinstance(error, RequestValidationError):
        return _Kind(400, _INVALID)
    if type(error) is RegistryError and _has_foreign_cause(error):
        return _UNKNOWN
    return next((kind for class_, kind in _KINDS if isinstance(error, class_)), _UNKNOWN)


def _has_foreign_cause(error: RegistryError) -> bool:
    """Return whether the disk or the index failed, rather than the request being wrong."""
    return error.__cause__ is not None and not isinstance(error.__cause__, AdapterHubError)


def _message(error: Exception, kind: _Kind) -> str:
    if isinstance(error, RequestValidationError):
        return _validation_message(error)
    if isinstance(error, HTTPException):
        return str(error.detail)
    if not isinstance(error, AdapterHubError) or kind is _UNKNOWN or kind.code == "compute_failed":
        return _FAILED
    return str(error)


def _param(error: Exception) -> str | None:
    if isinstance(error, RequestValidationError):
        return _field(_first_problem(error)) or None
    if isinstance(error, RequestError):
        return error.place or None
    return "model" if isinstance(error, NotFoundError | FingerprintMismatch) else None


def _validation_message(error: RequestValidationError) -> str:
    """Return the first problem of a request with its field, and the number of further ones."""
    first, others = _first_problem(error), error.errors()[1:]
    if first["type"] == "json_invalid":
        return f"body: is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
    if isinstance(error.body, bytes):
        return "body: must be sent with the header Content-Type: application/json"
    unknown = first["type"] == "extra_forbidden"
    problem = "is an unknown field" if unknown else first["msg"].removeprefix("Value error, ")
    rest = f" (and {len(others)} more)" if others else ""
    return f"{_field(first) or first['loc'][0]}: {problem}{rest}"


def _first_problem(error: RequestValidationError) -> Mapping[str, Any]:
    """Return the first problem that is not only of a form that the field has not."""
    problems: list[Mapping[str, Any]] = list(error.errors())
    return next((each for each in problems if not each["type"].endswith("_type")), problems[0])


def _field(problem: Mapping[str, Any]) -> str:
    """Return the path of a field, without the word that says where in the request it is."""
    return "" if problem["type"] == "json_invalid" else ".".join(map(str, problem["loc"][1:]))[:200]


def digest_header(models: Iterable[ResolvedModel]) -> dict[str, str]:
    """Return the headers with the digests of the adapters and backbones that were used."""
    models = list(models)
    digests = dict.fromkeys(part.digest for model in models for part in model.parts)
    fingerprints = dict.fromkeys(model.served.fingerprint for model in models)
    return {DIGEST_HEADER: ",".join(digests), FINGERPRINT_HEADER: ",".join(fingerprints)}


def provenance(model: ResolvedModel) -> dict[str, Any]:
    """Return the adapters and the backbone that were used."""
    return {
        "adapters": model.provenance(),
        "backbone_fingerprint": model.served.fingerprint,
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the token counts of a request in OpenAI's form."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def envelope(model: ResolvedModel, kind: str, prefix: str) -> dict[str, Any]:
    """Return the fields with which a response of OpenAI's form, and each of its chunks, begins."""
    return {
        "id": f"{prefix}-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": model.served.fingerprint,
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
