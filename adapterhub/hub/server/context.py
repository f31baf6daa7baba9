"""What every handler has: the store, the settings, and who calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from adapterhub.access import Caller, bearer_token
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.errors import no_repository

if TYPE_CHECKING:
    from starlette.requests import Request

    from adapterhub.access import KeyStore
    from adapterhub.hub.server.records import Repository
    from adapterhub.hub.server.settings import HubSettings
    from adapterhub.hub.server.store import RepoStore


@dataclass(frozen=True, slots=True)
class Hub:
    """One endpoint.

    Args:
        store: of the repositories.
        keys: API keys that it accepts.
        settings: of the endpoint.
        ticket_key: signs links for uploads.
    """

    store: RepoStore
    keys: KeyStore
    settings: HubSettings
    ticket_key: bytes


def hub_of(request: Request) -> Hub:
    """Return the endpoint that a request came to."""
    hub: Hub = request.app.state.hub
    return hub


async def caller_of(request: Request) -> Caller:
    """Return who makes a request.

    Raises:
        HTTPError: when the token is not known.
    """
    header = request.headers.get("authorization", "")
    if not header:
        return Caller()
    token = bearer_token(header)
    caller = await run_in_threadpool(hub_of(request).keys.find, token) if token else None
    if caller is None or not caller.scopes:
        # the clients know these words
        raise HTTPError(401, "Invalid credentials in Authorization header")
    return caller


async def require_login(request: Request) -> Caller:
    """Return who makes a request that needs a token.

    Raises:
        HTTPError: when there is none, or it is not known.
    """
    caller = await caller_of(request)
    if caller.name is None:
        raise _no_token()
    return caller


async def require_reader(request: Request) -> Caller:
    """Return who makes a request that reads something.

    Raises:
        HTTPError: when a token is needed and there is none.
    """
    if hub_of(request).settings.anonymous_read:
        return await caller_of(request)
    return await require_login(request)


def name_of(request: Request) -> str:
    """Return the name of the repository that a request is about."""
    return f"{request.path_params['owner']}/{request.path_params['name']}"


async def readable(request: Request, name: str | None = None) -> Repository:
    """Return the repository that a request is about, where the caller may read it.

    Raises:
        HTTPError: as if there were none, when the caller may not.
    """
    caller = await require_reader(request)
    hub = hub_of(request)
    found = await run_in_threadpool(hub.store.get, name or name_of(request))
    may = caller.may("read", found.owner)
    if not may and (found.private or not hub.settings.anonymous_read):
        raise no_repository(found.name)
    return found


async def writable(request: Request, name: str | None = None) -> tuple[Repository, Caller]:
    """Return the repository that a request is about and the caller, who may write it.

    Raises:
        HTTPError: when the caller may not.
    """
    caller = await require_login(request)
    found = await readable(request, name)
    require_write(caller, found.owner)
    return found, caller


def require_write(caller: Caller, owner: str) -> None:
    """Require the right to write an owner's repositories.

    Raises:
        HTTPError: when the caller does not have it.
    """
    if caller.name is None:
        raise _no_token()
    if not caller.may("write", owner):
        raise HTTPError(
            403,
            f"the token of {caller.name} may not write repositories of {owner!r}",
            place=owner,
            hint=f"Use a token with the scope write:{owner}",
        )


def base_url(request: Request) -> str:
    """Return the address that the caller reached this endpoint at, without a slash."""
    return str(request.base_url).rstrip("/")


def _no_token() -> HTTPError:
    return HTTPError(401, "a token is needed", hint="Set HF_TOKEN, or log in with: hf auth login")
