"""Errors as the Hub's clients read them."""

from __future__ import annotations

import errno
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from adapterhub.errors import ArtifactError, IntegrityError, NotFoundError, RefError
from adapterhub.http.errors import HTTPError

if TYPE_CHECKING:
    from starlette.requests import Request

_LOG = logging.getLogger(__name__)
_SHOWN = 400
_FAILED = "the endpoint could not do this. Its log tells why"
_FULL = "the disk of the endpoint is full; nothing was changed"


def answer_error(_request: Request, error: Exception) -> Response:
    """Answer with what went wrong, as the Hub's clients read it."""
    status, code = _status_of(error)
    text = str(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _LOG.error("%s", error, exc_info=error)
        if not isinstance(error, IntegrityError):
            # the paths of this machine are for its log
            text = _FULL if status == HTTPStatus.INSUFFICIENT_STORAGE else _FAILED
    headers = {"X-Error-Message": _header_text(text)}
    if isinstance(error, HTTPError):
        headers.update(error.headers)
    if code:
        headers["X-Error-Code"] = code
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    # what is left of the body is not read
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        headers["Connection"] = "close"
    return JSONResponse({"error": text}, status, headers)


def _status_of(error: Exception) -> tuple[int, str]:
    if isinstance(error, HTTPError):
        return error.status, error.code
    if isinstance(error, ArtifactError | RefError):
        return HTTPStatus.BAD_REQUEST, ""
    if isinstance(error, NotFoundError):
        return HTTPStatus.NOT_FOUND, "RepoNotFound"
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return HTTPStatus.INSUFFICIENT_STORAGE, ""
    return HTTPStatus.INTERNAL_SERVER_ERROR, ""


def _header_text(text: str) -> str:
    line = " ".join(text.split())[:_SHOWN]
    return line.encode("ascii", "replace").decode("ascii")
