"""Translation of the errors of huggingface_hub into ``TransferError``."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2
from huggingface_hub import get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)

from adapterhub.errors import TransferError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG_IN = "Log in with: hf auth login, or set HF_TOKEN; HF_ENDPOINT sets the Hub"
_UNCHANGED = "Nothing was changed here; run the same command again"
#: Largest length of a server's message that is shown, in characters.
_SHOWN = 300
_CONFLICT = (
    "was changed by someone else at the same time",
    "Look at what is there now, then run the same command again",
)
#: Problem and hint for each HTTP status; those of an error class below have priority.
_STATUSES: dict[int, tuple[str, str]] = {
    400: ("does not accept the request", ""),
    401: ("needs a token, or rejects this one", _LOG_IN),
    403: (
        "does not allow this with your token",
        "Ask its owner for access, or use a token that has it",
    ),
    404: ("does not have it", "Check the address"),
    408: ("timed out", _UNCHANGED),
    409: _CONFLICT,
    412: _CONFLICT,
    413: ("rejects a file as too large", "Ask its operator for a higher limit"),
    429: ("receives too many requests", "Wait {wait}, then run the same command again"),
}
_SERVER_FAULT = ("failed", f"{_UNCHANGED} later")
_CLASSES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        GatedRepoError,
        "requires you to accept its terms first",
        "Accept them on its page, and log in with: hf auth login",
    ),
    (
        RevisionNotFoundError,
        "has no such revision",
        "Omit '@' and the revision for the newest one",
    ),
    (RemoteEntryNotFoundError, "does not have this file", "It may have changed; run it again"),
    (
        RepositoryNotFoundError,
        "does not have the repository, or not for your token",
        f"Check the address. {_LOG_IN}",
    ),
)


@contextmanager
def translate_hub_errors(place: str) -> Iterator[None]:
    """Translate the errors of the client library."""
    try:
        yield
    except _KNOWN as error:
        raise _translated(error, place) from error


def _translated(error: BaseException, place: str) -> TransferError:
    # the library reports that its cache does not have the file either; the cause is the error
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return _translated(error.__cause__, place)
    if isinstance(error, HfHubHTTPError):
        return _of_response(error, place)
    if isinstance(error, OfflineModeIsEnabled):
        problem, hint = "HF_HUB_OFFLINE is set", "Unset it"
    elif isinstance(error, httpx2.TimeoutException):
        problem = "the Hub does not respond in time"
        hint = f"{_UNCHANGED}, with a larger HF_HUB_DOWNLOAD_TIMEOUT on a slow connection"
    elif isinstance(error, httpx2.HTTPError):
        problem = f"the Hub cannot be reached: {_first_line(error)}"
        hint = f"Check the connection, and HF_ENDPOINT if you set it. {_UNCHANGED}"
    elif "Consistency check failed" in str(error):
        problem, hint = "a file has another length than announced", _UNCHANGED
    else:
        problem, hint = _first_line(error), _UNCHANGED
    return TransferError(problem, place=place, hint=hint)


def _of_response(error: HfHubHTTPError, place: str) -> TransferError:
    status = error.response.status_code
    problem, hint = (
        _SERVER_FAULT if status >= 500 else _STATUSES.get(status, ("rejects the request", ""))
    )
    for kind, known, advice in _CLASSES:
        if isinstance(error, kind):
            problem, hint = known, advice
            break
    text = _without_tokens(" ".join((error.server_message or "").split()))[:_SHOWN]
    message = f" ({text})" if text else ""
    return TransferError(
        f"the Hub says {status}, it {problem}{message}",
        place=place,
        hint=hint.format(wait=_wait(error)),
        status=status,
    )


def _wait(error: HfHubHTTPError) -> str:
    seconds = error.response.headers.get("Retry-After", "")
    return f"{seconds} seconds" if seconds.isdigit() else "a minute"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return _without_tokens(lines[0][:_SHOWN]) if lines else type(error).__name__


def _without_tokens(text: str) -> str:
    """Return ``text`` without tokens, passwords in URLs, and their queries, which may sign them."""
    token = get_token()
    if token:
        text = text.replace(token, "…")
    return _QUERY.sub(r"\1?…", _PASSWORD.sub(r"\1…@", _TOKEN.sub("…", text)))


#: Name and password, and query, of a URL.
_PASSWORD = re.compile(r"(https?://)[^\s/@]+@")
_QUERY = re.compile(r"(https?://[^\s?]+)\?[^\s'\")]+")
_TOKEN = re.compile(r"\b(?:hf|ahk?)_[\w-]{8,}|Bearer\s+\S+")
_KNOWN: tuple[type[BaseException], ...] = (
    HfHubHTTPError,
    httpx2.HTTPError,
    XetDownloadError,
    OSError,
    ValueError,
)
