"""Start of the endpoint."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from adapterhub.access import open_keys
from adapterhub.errors import MissingExtraError
from adapterhub.http.sockets import bind
from adapterhub.hub.server.settings import HubSettings
from adapterhub.hub.server.store import RepoStore

if TYPE_CHECKING:
    from pathlib import Path

    import uvicorn

    from adapterhub.access import KeyStore

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
    except ImportError as error:
        raise MissingExtraError("uvicorn", "serve") from error
    settings = settings or HubSettings()
    sockets = bind(host, port)
    store = RepoStore(registry_root, settings)
    if added := store.add_all_versions():
        _LOG.info("added %d versions of the registry as revisions", added)
    config = listening(store, open_keys(store.registry), host=host, port=port)
    uvicorn.Server(config).run(sockets)


def listening(store: RepoStore, keys: KeyStore, *, host: str, port: int) -> uvicorn.Config:
    """Return uvicorn's configuration of the endpoint over a store."""
    import uvicorn
    from uvicorn.config import LOGGING_CONFIG

    from adapterhub.http.connections import uvicorn_options
    from adapterhub.hub.server.app import create_app

    options = uvicorn_options(store.settings.connections, "info")
    options |= {"access_log": True, "log_config": LOGGING_CONFIG, "proxy_headers": False}
    logging.getLogger("uvicorn.access").addFilter(_hide_query)
    app = create_app(store, keys, store.settings)
    return uvicorn.Config(app, host=host, port=port, **options)


def _hide_query(record: logging.LogRecord) -> bool:
    """Remove the query of a request from its log line: that of an upload link is a secret."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            each.partition("?")[0] if isinstance(each, str) else each for each in record.args
        )
    return True
