"""A private Hub: an endpoint with the part of the Hub's protocol that clients use for models.

``RepoStore`` works without starlette, so that ``adapterhub gc`` can keep the blobs that it uses.
"""

from adapterhub.hub.server.serving import serve
from adapterhub.hub.server.settings import HubSettings
from adapterhub.hub.server.store import RepoStore

__all__ = ["HubSettings", "RepoStore", "serve"]
