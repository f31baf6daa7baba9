"""Starting the endpoint."""

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
    """Serve a registry until the process is told to stop.

    Args:
        registry_root: the home folder that holds the registry, as for ``Registry``.
        host: address to listen on.
        port: to listen on; 0 for any that is free.
        settings: of the endpoint.

    Raises:
        MissingExtraError: when uvicorn or starlette is not installed.
        RegistryError: when the registry can't be opened.
    """
    try:
        import uvicorn

        from adapterhub.hub.server.app import create_app
    except ImportError as error:
        raise MissingExtraError("uvicorn", "serve") from error
    settings = settings or HubSettings()
    store = RepoStore(registry_root, settings)
    if taken_in := store.take_in_all():
        _LOG.info("%d versions of the registry are repositories now", taken_in)
    app = create_app(store, open_keys(store.registry), settings)
    uvicorn.run(app, host=host, port=port, log_level="info", server_header=False)
