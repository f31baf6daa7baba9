"""Who may ask for what, how much at once, and whose turn it is."""

from adapterhub.errors import Forbidden, QueueFull, Unauthorized
from adapterhub.server.access.access import Access
from adapterhub.server.access.fairness import FairQueue, Ticket
from adapterhub.server.access.opening import open_access

__all__ = [
    "Access",
    "FairQueue",
    "Forbidden",
    "QueueFull",
    "Ticket",
    "Unauthorized",
    "open_access",
]
