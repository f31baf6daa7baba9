"""The Hub's own client, as it is used here: with a name, and with bounds on waiting."""

from __future__ import annotations

from importlib.metadata import version

import httpx2
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory

#: Longest wait, in seconds, for a connection, and for the next bytes of an answer.
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0


def hub_api() -> HfApi:
    """Return a client of the Hub that ``HF_ENDPOINT`` names, with the token of the usual places.

    These are ``HF_TOKEN`` and what ``hf auth login`` stored; the token is not kept here. In
    this process the library then waits for no answer for ever, see ``bound_waits``.
    """
    bound_waits()
    return HfApi(library_name="adapterhub", library_version=version("adapterhub"))


def bound_waits() -> None:
    """Let huggingface_hub wait for no answer for ever; it sets no bound for most requests.

    This holds for the whole process, as its ``set_client_factory`` does.
    """
    set_client_factory(_bounded_client)


def _bounded_client() -> httpx2.Client:
    client = default_client_factory()
    client.event_hooks["request"].append(_bound)
    return client


def _bound(request: httpx2.Request) -> None:
    # the library passes "no bound" with each request, so a default of the client is not enough
    waits = request.extensions.get("timeout", {})
    default = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS).as_dict()
    bounds = {kind: default[kind] if waits.get(kind) is None else waits[kind] for kind in default}
    request.extensions = {**request.extensions, "timeout": bounds}
