"""What a request says: its caller, repository, parameters and body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.concurrency import run_in_threadpool

from adapterhub.access import Caller, bearer_token
from adapterhub.adapters import strict_json
from adapterhub.errors import ArtifactError
from adapterhub.http.bodies import stream_body
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.records import MAIN, no_repository

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from adapterhub.access import KeyStore
    from adapterhub.hub.server.records import Repository
    from adapterhub.hub.server.settings import HubSettings
    from adapterhub.hub.server.store import RepoStore

#: Encoding of a slash inside one segment of a path.
SLASH = "%2F"


@dataclass(frozen=True, slots=True)
class Hub:
    """One endpoint."""

    store: RepoStore
    keys: KeyStore
    settings: HubSettings
    ticket_key: bytes


def hub_of(request: Request) -> Hub:
    """Return the endpoint that received a request."""
    hub: Hub = request.app.state.hub
    return hub


def caller_of(request: Request) -> Caller:
    """Return the caller of a request."""
    header = request.headers.get("authorization", "")
    if not header:
        return Caller()
    token = bearer_token(header)
    caller = hub_of(request).keys.find(token) if token else None
    if caller is None or not caller.scopes:
        # the clients look for these words
        raise HTTPError(401, "Invalid credentials in Authorization header")
    return caller


def require_login(request: Request) -> Caller:
    """Return the caller of a request that needs a token."""
    caller = caller_of(request)
    if caller.name is None:
        raise _no_token()
    return caller


def require_reader(request: Request) -> Caller:
    """Return the caller of a request that reads."""
    anonymous = hub_of(request).settings.anonymous_read
    return caller_of(request) if anonymous else require_login(request)


def require_write(caller: Caller, owner: str) -> None:
    """Check the right to write the repositories of an owner."""
    if caller.name is None:
        raise _no_token()
    if not caller.may("write", owner):
        raise HTTPError(
            403,
            f"the token of {caller.name} does not allow writing repositories of {owner!r}",
            place=owner,
            hint=f"Use a token with the scope write:{owner}",
        )


def repository_name(request: Request) -> str:
    """Return the name of the repository in the path of a request."""
    return f"{request.path_params['owner']}/{request.path_params['name']}"


def readable(request: Request, name: str | None = None) -> Repository:
    """Return the repository of a request if the caller may read it."""
    caller = require_reader(request)
    hub = hub_of(request)
    found = hub.store.get(name or repository_name(request))
    may = caller.may("read", found.owner)
    if not may and (found.private or not hub.settings.anonymous_read):
        raise no_repository(found.name)
    return found


def writable(request: Request, name: str | None = None) -> tuple[Repository, Caller]:
    """Return the repository of a request and the caller, who may write it."""
    caller = require_login(request)
    found = readable(request, name)
    require_write(caller, found.owner)
    return found, caller


def base_url(request: Request) -> str:
    """Return the address of this endpoint, without a slash.

    It is the configured one, or else the address that received the connection: a client must not
    choose where the links of a response lead, so the headers of the request are not used.
    """
    if configured := hub_of(request).settings.public_url:
        return configured.rstrip("/")
    host, port = request.scope["server"]
    at = f"[{host}]" if ":" in host else host
    return f"{request.scope['scheme']}://{at}:{port}"


def page_url(request: Request, path: str) -> str:
    """Return the URL of a page for people, or its path if the caller uses another address.

    Clients complete a path, and reject a URL whose host is not the one that they use.
    """
    base = base_url(request)
    known = urlsplit(base).netloc == request.headers.get("host", "")
    return f"{base}/{path}" if known else path


def revision_of(request: Request) -> str:
    """Return the branch, tag or commit in the path; main if there is none."""
    return part_of(request, "revision", MAIN)


def path_of(request: Request) -> str:
    """Return the path inside the repository; empty for its root."""
    return part_of(request, "path", "").strip("/")


def part_of(request: Request, key: str, default: str = "") -> str:
    """Return a path parameter, in which slashes may be encoded as ``%2F``."""
    return str(request.path_params.get(key, default)).replace(SLASH, "/")


def is_true(request: Request, key: str) -> bool:
    """Return whether a flag of the query is set."""
    return request.query_params.get(key, "").lower() in ("1", "true")


def page_size(request: Request, largest: int) -> int:
    """Return the requested number of entries on a page, ``largest`` at most."""
    text = request.query_params.get("limit", "")
    if not text:
        return largest
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise HTTPError(400, "must be a whole number of 1 or more", place="limit")
    return min(int(text), largest)


def next_link(request: Request, cursor: str) -> dict[str, str]:
    """Return the header with the address of the next page."""
    kept = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
    path = request.scope["raw_path"].decode("latin-1")
    query = urlencode([*kept, ("cursor", cursor)])
    return {"Link": f'<{base_url(request)}{path}?{query}>; rel="next"'}


def with_json(
    handler: Callable[[Request, dict[str, Any]], Response], *, login: bool = True
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that reads a JSON object and runs ``handler`` in a thread.

    Args:
        handler: Function from the request and its body to the response.
        login: Whether to require a token before the body is read.
    """

    async def endpoint(request: Request) -> Response:
        if login:
            await run_in_threadpool(require_login, request)
        body = await _read_json(request)
        return await run_in_threadpool(handler, request, body)

    return endpoint


def with_form(
    handler: Callable[[Request, dict[str, list[str]]], Response],
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that reads a form or a JSON object of texts, and runs ``handler``."""

    async def endpoint(request: Request) -> Response:
        await run_in_threadpool(require_reader, request)
        if request.headers.get("content-type", "").startswith("application/json"):
            found = (await _read_json(request)).items()
            return await run_in_threadpool(handler, request, {k: _texts(v) for k, v in found})
        try:
            form = parse_qs((await _read(request)).decode("utf-8"), max_num_fields=100_000)
        except ValueError as error:
            raise HTTPError(400, "is not a form", place="body") from error
        return await run_in_threadpool(handler, request, form)

    return endpoint


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        return strict_json.parse_object(content, "body", limit=max(len(content), 1))
    except ArtifactError as error:
        raise HTTPError(400, error.problem, place=error.place) from error


def text_of(body: dict[str, Any], key: str, default: str | None = None) -> str:
    """Return a text of a JSON object."""
    value = body.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise HTTPError(400, "must be text", place=f"body: {key}")
    return value


async def _read(request: Request) -> bytes:
    limit = hub_of(request).settings.max_json
    return b"".join([chunk async for chunk in stream_body(request, limit)])


async def _read_json(request: Request) -> dict[str, Any]:
    content = await _read(request)
    return parse_object(content) if content else {}


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]


def _no_token() -> HTTPError:
    return HTTPError(401, "a token is needed", hint="Set HF_TOKEN, or log in with: hf auth login")
