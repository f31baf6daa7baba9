"""State that all routes of a server share, and the authenticated call that a route handles."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers

from adapterhub.engine.detokenizer import token_bytes
from adapterhub.errors import Forbidden
from adapterhub.http.errors import HTTPError
from adapterhub.refs import parse_blend
from adapterhub.server.prompts import ChatPrompts, TokenTexts
from adapterhub.server.request_log import add_log_fields

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from adapterhub.access import Caller
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.async_engine import AsyncEngine
    from adapterhub.hub.loader import AdapterLoader
    from adapterhub.registry import Registry
    from adapterhub.server.access import Access
    from adapterhub.server.metrics import Metrics
    from adapterhub.server.models import AdapterNames, ResolvedModel
    from adapterhub.server.prompts import TaskPrompts
    from adapterhub.server.settings import ServerSettings


#: Documents the API key, which ``AuthenticatedRoute`` checks.
_API_KEY = HTTPBearer(auto_error=False, scheme_name="key", description="API key")


@dataclass
class Server:
    """One backbone behind HTTP, stored in ``app.state.server``.

    Args:
        engine: Engine that computes.
        registry: Local registry.
        loader: Loader that fetches adapters from the registry.
        backbone: Backbone that is served.
        settings: Settings of the server.
        access: Authentication, rate limits and fair admission.
        metrics: Counters for Prometheus and the page.
        names: Table of adapter names.
        tasks: Prompts of instruction-tuned adapters.
        draining: Whether the server is shutting down.
        pulling: Addresses of adapters that are being pulled from a Hub.
    """

    engine: AsyncEngine
    registry: Registry
    loader: AdapterLoader
    backbone: Backbone
    settings: ServerSettings
    access: Access
    metrics: Metrics
    names: AdapterNames
    tasks: TaskPrompts
    draining: bool = False
    pulling: set[str] = field(default_factory=set)

    @cached_property
    def chats(self) -> ChatPrompts:
        """Conversations as prompts."""
        reader = self.engine.prompt_processor
        return ChatPrompts(self.backbone.tokenizer, reader)

    @cached_property
    def tokens(self) -> TokenTexts:
        """Single tokens as text."""
        return TokenTexts(self.backbone.tokenizer)

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token."""
        backend: Any = self.backbone.tokenizer.backend_tokenizer
        return max(len(token_bytes(backend, token)) for token in backend.get_vocab().values())

    @property
    def max_position_embeddings(self) -> int:
        """Most tokens that the backbone reads."""
        config = self.backbone.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", 0) or 2**31)

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return min(self.max_position_embeddings, self.settings.kv_cache_tokens)

    def check_not_draining(self) -> None:
        """Check that new requests are accepted."""
        if self.draining:
            raise HTTPError(503, "the server is shutting down", code="draining")


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request."""

    server: Server
    caller: Caller

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
        scope["state"]["call"] = Call(server, caller)
        # reading lists and statistics does not count
        counts = scope["method"] == "POST"
        with server.access.counted(caller) if counts else nullcontext():
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
