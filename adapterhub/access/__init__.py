"""API keys, shared by the inference server and the Hub endpoint."""

from adapterhub.access.caller import ALL, Caller, Right, Role, Scope, parse_role, parse_scope
from adapterhub.access.keys import ApiKey, KeyStore, bearer_token, open_keys

__all__ = [
    "ALL",
    "ApiKey",
    "Caller",
    "KeyStore",
    "Right",
    "Role",
    "Scope",
    "bearer_token",
    "open_keys",
    "parse_role",
    "parse_scope",
]
