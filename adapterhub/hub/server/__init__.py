"""An endpoint that speaks the part of the Hub's protocol that its clients use for models.

All but ``app`` and the handlers work without the packages of a server, so that a registry knows
which blobs the endpoint needs wherever it is opened.
"""

from adapterhub.hub.server.serving import serve
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
    "parse_scope",
    "serve",
]
