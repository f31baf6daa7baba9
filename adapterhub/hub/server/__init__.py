"""An endpoint that speaks the part of the Hub's protocol that its clients use for models."""

from adapterhub.hub.server.app import create_app, serve
from adapterhub.hub.server.settings import HubSettings
from adapterhub.hub.server.store import RepoStore
from adapterhub.hub.server.tokens import ALL, Caller, Scope, TokenInfo, Tokens, parse_scope

__all__ = [
    "ALL",
    "Caller",
    "HubSettings",
    "RepoStore",
    "Scope",
    "TokenInfo",
    "Tokens",
    "create_app",
    "parse_scope",
    "serve",
]
