"""State that all routes of a server share, and the authenticated call that a route handles."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers

from adapterhub.errors import Forbidden
from adapterhub.http.errors import HTTPError
from adapterhub.refs import parse_blend
from adapterhub.server.request_log import add_log_fields

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from starlette.types import Receive, Scope, Send

    from adapterhub.access import Caller
    from adapterhub.hub.loader import AdapterLoader
    from adapterhub.registry import Registry
    from adapterhub.server.access import Access
    from adapterhub.server.backbones import Backbones
    from adapterhub.server.metrics import Metrics
    from adapterhub.server.models import AdapterNames, ResolvedModel
    from adapterhub.server.served_backbone import ServedBackbone
    from adapterhub.server.settings import ServerSettings


#: Documents the API key, which ``AuthenticatedRoute`` checks.
_API_KEY = HTTPBearer(auto_error=False, scheme_name="key", description="API key")


@dataclass
class Server:
    """Backbones behind HTTP, stored in ``app.state.server``.

    Args:
        backbones: Backbones that are served.
        registry: Local registry.
        loader: Loader that fetches adapters from the registry.
        settings: Settings of the server.
        access: Authentication, rate limits and fair admission.
        metrics: Counters for Prometheus and the page.
        names: Table of model names.
        draining: Whether the server is shutting down.
        pulling: Addresses of adapters that are being pulled from a Hub.
    """

    backbones: Backbones
    registry: Registry
    loader: AdapterLoader
    settings: ServerSettings
    access: Access
    metrics: Metrics
    names: AdapterNames
    draining: bool = False
    pulling: set[str] = field(default_factory=set)

    @contextmanager
    def calling(self, caller: Caller) -> Iterator[Call]:
        """Provide the call of a caller, whose backbones stay loaded while the block runs."""
        call = Call(self, caller)
        try:
            yield call
        finally:
            call.release()

    def check_not_draining(self) -> None:
        """Check that new requests are accepted."""
        if self.draining:
            raise HTTPError(503, "the server is shutting down", code="draining")


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request.

    Args:
        server: Server that handles it.
        caller: Caller of the request.
        held: Backbones that stay loaded until the response was sent.
    """

    server: Server
    caller: Caller
    held: list[ServedBackbone] = field(default_factory=list)

    async def open(self, name: str) -> ResolvedModel:
        """Return the model of the request, with its backbone loaded until the request ends."""
        model = await asyncio.to_thread(self.resolve, name)
        await self.hold(model.served)
        return model

    async def hold(self, served: ServedBackbone) -> None:
        """Load a backbone if necessary, and keep it loaded until the request ends."""
        if served not in self.held:
            await served.acquire()
            self.held.append(served)

    def admit(
        self, model: ResolvedModel, cost: float, *, places: int = 1
    ) -> AbstractAsyncContextManager[None]:
        """Wait in the fair queue, and occupy places of the engines; see ``Access.admit``."""
        return self.server.access.admit(
            self.caller,
            model.label,
            cost,
            places=places,
            model=model.name if model.parts else "",
        )

    def release(self) -> None:
        """End the use of all backbones."""
        while self.held:
            self.held.pop().release()

    def resolve(self, name: str) -> ResolvedModel:
        """Return the model of the request; call it on a thread.

        Permission is checked first, so that a key learns nothing of what it may not use.
        """
        self.check_allowed(name)
        return self.server.names.resolve(name, self.caller.allows)

    def check_allowed(self, name: str) -> None:
        """Check that the caller may use every adapter of a model, or of the parts of a blend."""
        if not self.server.names.is_base(name):
            refs = [ref for ref, _ in parse_blend(name)]
            self.server.access.check_adapters(self.caller, refs)

    def check_unrestricted(self, what: str) -> None:
        """Check that the key is not limited to some adapters."""
        if self.caller.adapters is not None:
            raise Forbidden(
                f"{what} needs a key for all adapters",
                hint="Create one with: adapterhub key create NAME --role manage",
            )


class AuthenticatedRoute(APIRoute):
    """Route that authenticates the caller and applies the limits of its key.

    This precedes the parsing of the body, and the limits hold until the response was sent.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request of an authenticated caller."""
        server: Server = scope["app"].state.server
        server.check_not_draining()
        caller = server.access.caller(Headers(scope=scope))
        add_log_fields(scope, key=caller.key_id)
        # reading lists and statistics does not count
        counts = scope["method"] == "POST"
        with (
            server.access.counted(caller) if counts else nullcontext(),
            server.calling(caller) as call,
        ):
            scope["state"]["call"] = call
            await super().handle(scope, receive, send)


def authenticated_router(tag: str, prefix: str = "") -> APIRouter:
    """Return a router whose routes require an API key, if the server does."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=AuthenticatedRoute,
        dependencies=[Depends(_API_KEY)],
    )


async def _current_call(request: Request) -> Call:
    call: Call = request.state.call
    return call


async def _managing_call(request: Request) -> Call:
    call: Call = request.state.call
    call.server.access.require_manage(call.caller)
    return call


async def _server_of(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


#: Call of a caller with the role use or manage.
CallDep = Annotated[Call, Depends(_current_call)]
#: Call of a caller with the role manage.
ManageCallDep = Annotated[Call, Depends(_managing_call)]
#: The server, for routes without authentication.
ServerDep = Annotated[Server, Depends(_server_of)]
