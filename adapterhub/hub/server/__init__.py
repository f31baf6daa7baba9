"""An endpoint that speaks the part of the Hub's protocol that its clients use for models.

All but ``app`` and the handlers work without the packages of a server, so that a registry knows
which blobs the endpoint needs wherever it is opened.
"""

from adapterhub.hub.server.serving import serve
from adapterhub.hub.server.settings import HubSettings
from adapterhub.hub.server.store import RepoStore

__all__ = ["HubSettings", "RepoStore", "serve"]
