"""The client of the Hub, with timeouts."""

from __future__ import annotations

from importlib.metadata import version

import httpx2
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory

#: Timeouts in seconds for a connection, and for the next bytes of a response.
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0


def hub_api() -> HfApi:
    """Return a client of the Hub in ``HF_ENDPOINT``, with the token of the usual places.

    These are ``HF_TOKEN`` and the login of ``hf auth login``. Sets the timeouts of the process, see
    ``set_timeouts``.
    """
    set_timeouts()
    return HfApi(library_name="adapterhub", library_version=version("adapterhub"))


def set_timeouts() -> None:
    """Set timeouts for all requests of huggingface_hub, most of which have none.

    They apply to the whole process, as does its ``set_client_factory``.
    """
    set_client_factory(_client_with_timeouts)


def _client_with_timeouts() -> httpx2.Client:
    client = default_client_factory()
    client.event_hooks["request"].append(_add_timeouts)
    return client


def _add_timeouts(request: httpx2.Request) -> None:
    # the library disables timeouts per request, so a default of the client has no effect
    timeouts = request.extensions.get("timeout", {})
    default = httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT).as_dict()
    given = {kind: value for kind, value in timeouts.items() if value is not None}
    request.extensions = {**request.extensions, "timeout": default | given}
