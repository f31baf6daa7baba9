"""Who may ask for what, how much at once, and whose turn it is."""

from adapterhub.errors import Forbidden, QueueFull, Unauthorized
from adapterhub.server.access.access import Access
from adapterhub.server.access.caller import Caller, Role
from adapterhub.server.access.fairness import FairQueue, Ticket
from adapterhub.server.access.keys import ApiKey, KeyStore, open_keys
from adapterhub.server.access.opening import open_access

__all__ = [
    "Access",
    "ApiKey",
    "Caller",
    "FairQueue",
    "Forbidden",
    "KeyStore",
    "QueueFull",
    "Role",
    "Ticket",
    "Unauthorized",
    "open_access",
    "open_keys",
]
