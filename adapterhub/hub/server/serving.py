"""Start of the endpoint."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from adapterhub.access import open_keys
from adapterhub.errors import MissingExtraError
from adapterhub.hub.server.settings import HubSettings
from adapterhub.hub.server.store import RepoStore

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger(__name__)


def serve(
    registry_root: Path | None, host: str, port: int, settings: HubSettings | None = None
) -> None:
    """Serve a registry until the process is terminated.

    Args:
        registry_root: Home folder of the registry, as for ``Registry``.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        settings: Settings of the endpoint.
    """
    try:
        import uvicorn

        from adapterhub.hub.server.app import create_app
    except ImportError as error:
        raise MissingExtraError("uvicorn", "serve") from error
    settings = settings or HubSettings()
    store = RepoStore(registry_root, settings)
    if added := store.add_all_versions():
        _LOG.info("added %d versions of the registry as revisions", added)
    app = create_app(store, open_keys(store.registry), settings)
    uvicorn.run(app, host=host, port=port, log_level="info", server_header=False)
