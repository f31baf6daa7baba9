"""Models of requests with their aliases resolved, so that all replicas of a server agree."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adapterhub.errors import AdapterHubError
from adapterhub.refs import parse_blend

if TYPE_CHECKING:
    from collections.abc import Collection

    from adapterhub.registry import Registry


def pin_model(body: bytes, registry: Registry, bases: Collection[str]) -> tuple[bytes, str]:
    """Replace the ``model`` of a JSON body by references with digests; reads the registry.

    What cannot be resolved stays, so that the replica responds with its error.

    Args:
        body: Body of a request, JSON or not.
        registry: Registry that the replicas use too.
        bases: Names of the backbones, which need no adapter.

    Returns:
        The body, and the digests of its adapters, separated by commas; empty without adapters.
    """
    document = _object(body)
    model = document.get("model")
    if not isinstance(model, str) or model in bases:
        return body, ""
    try:
        parts = parse_blend(model)
        found = [(registry.resolve(ref), ref, weight) for ref, weight in parts]
    except AdapterHubError:
        return body, ""
    refs = [f"{version.name}@{version.digest}" for version, _, _ in found]
    weighted = [
        ref if weight == 1.0 else f"{ref}*{weight!r}"
        for ref, (_, _, weight) in zip(refs, found, strict=True)
    ]
    document["model"] = "+".join(weighted)
    digests = ",".join(version.digest for version, _, _ in found)
    return json.dumps(document).encode(), digests


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
