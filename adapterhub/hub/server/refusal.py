"""What the endpoint answers when it does not do what was asked."""

from __future__ import annotations

import errno
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    IntegrityError,
    NotFoundError,
    RefError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

_LOG = logging.getLogger(__name__)
_SHOWN = 400
_FAILED = "the endpoint could not do this. Its log tells why"
_FULL = "the disk of the endpoint is full; nothing was changed"
#: Tells the clients of which commit an answer is.
COMMIT_HEADER = "X-Repo-Commit"


class Refusal(AdapterHubError):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        problem: as in ``AdapterHubError``.
        code: value of ``X-Error-Code``, which the clients tell errors apart by.
        place: as in ``AdapterHubError``.
        hint: as in ``AdapterHubError``.
        headers: of the answer, beside those of every error.
    """

    def __init__(
        self,
        status: int,
        problem: str,
        *,
        code: str = "",
        place: str = "",
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        super().__init__(problem, place=place, hint=hint)


def no_repository(name: str) -> Refusal:
    """Return the answer for a repository that is not there or not to be seen."""
    return Refusal(404, "repository not found", code="RepoNotFound", place=name)


def no_revision(name: str, revision: str) -> Refusal:
    """Return the answer for a revision that is not there."""
    return Refusal(404, f"has no revision {revision!r}", code="RevisionNotFound", place=name)


def no_entry(path: str, sha: str = "") -> Refusal:
    """Return the answer for a file that is not there; ``sha`` is of the revision."""
    headers = {COMMIT_HEADER: sha} if sha else {}
    problem = "is not in this revision"
    return Refusal(404, problem, code="EntryNotFound", place=path, headers=headers)


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
    if isinstance(error, Refusal):
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
    if isinstance(error, Refusal):
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
