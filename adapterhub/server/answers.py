"""Errors in OpenAI's form: one table from what went wrong to what is answered."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    ComputeError,
    DataError,
    EngineClosedError,
    EngineError,
    FingerprintMismatch,
    IntegrityError,
    MissingExtraError,
    NotFoundError,
    RecipeError,
    RefError,
    RegistryError,
    RequestError,
    SignatureError,
    TransferError,
)
from adapterhub.http.errors import HTTPError
from adapterhub.server.access import Forbidden, QueueFull, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterable

_LOG = logging.getLogger(__name__)
_FAILED = "the server could not do this. Its log tells why"
_INVALID = "invalid_request_error"


class _Kind(NamedTuple):
    """How one kind of error is answered."""

    status: int
    type: str
    code: str | None = None


#: The first class that fits decides.
_KINDS: tuple[tuple[type[AdapterHubError], _Kind], ...] = (
    (Unauthorized, _Kind(401, "authentication_error", "invalid_api_key")),
    (Forbidden, _Kind(403, "permission_error", "forbidden")),
    (QueueFull, _Kind(429, "rate_limit_error", "queue_full")),
    (FingerprintMismatch, _Kind(409, _INVALID, "fingerprint_mismatch")),
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


def error_answer(error: Exception) -> JSONResponse:
    """Return the answer to a request that failed."""
    kind = _kind_of(error)
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    elif kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    elif kind.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    elif kind.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        # what is left of the body is not read
        headers["Connection"] = "close"
    if isinstance(error, HTTPError | HTTPException):
        headers.update(error.headers or {})
    return JSONResponse(error_body(error), kind.status, headers)


def error_body(error: Exception) -> dict[str, Any]:
    """Return an error in OpenAI's form; what only the log may hold is left out."""
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


def status_of(error: Exception) -> int:
    """Return the status that an error is answered with."""
    return _kind_of(error).status


def _kind_of(error: Exception) -> _Kind:
    if isinstance(error, HTTPError):
        type_ = "server_error" if error.status >= 500 else _INVALID
        return _Kind(error.status, type_, error.code or None)
    if isinstance(error, HTTPException):
        return _Kind(error.status_code, _INVALID)
    if isinstance(error, ValidationError):
        return _Kind(400, _INVALID)
    if isinstance(error, RegistryError) and error.__cause__ is not None and _is_fault(error):
        return _UNKNOWN
    return next((kind for class_, kind in _KINDS if isinstance(error, class_)), _UNKNOWN)


def _is_fault(error: RegistryError) -> bool:
    """Tell whether the disk or the index is to blame, and not what was asked."""
    return not isinstance(error.__cause__, AdapterHubError) and type(error) is RegistryError


def _message(error: Exception, kind: _Kind) -> str:
    if isinstance(error, ValidationError):
        return _described(error)
    if isinstance(error, HTTPException):
        return str(error.detail)
    plain = isinstance(error, AdapterHubError)
    if not plain or (kind is _UNKNOWN or isinstance(error, ComputeError)):
        return _FAILED
    return str(error)


def _param(error: Exception) -> str | None:
    if isinstance(error, ValidationError):
        return _place(error.errors()[0]["loc"]) or None
    if isinstance(error, RequestError):
        return error.place or None
    return "model" if isinstance(error, NotFoundError | FingerprintMismatch) else None


def _described(error: ValidationError) -> str:
    """Return what is wrong with a body: the place, the problem, and a near name."""
    first = error.errors(include_url=False, include_input=False)[0]
    place, problem = _place(first["loc"]) or "body", first["msg"]
    if first["type"] == "extra_forbidden":
        problem = "is not known here"
    more = error.error_count() - 1
    rest = f" (and {more} more)" if more else ""
    return f"{place}: {problem}{rest}"


def _place(parts: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in parts)[:200]
