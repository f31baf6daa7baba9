"""What every answer says beside its content: what answered, how much it read and wrote."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterable

    from adapterhub.server.context import Server
    from adapterhub.server.models import Model

DIGEST_HEADER = "x-adapter-digest"
FINGERPRINT_HEADER = "x-backbone-fingerprint"


def headers_of(models: Iterable[Model]) -> dict[str, str]:
    """Return the headers that tell which adapters answered."""
    digests = dict.fromkeys(part.digest for model in models for part in model.parts)
    return {DIGEST_HEADER: ",".join(digests)}


def provenance(server: Server, model: Model) -> dict[str, Any]:
    """Return which adapters and which backbone answered."""
    return {
        "adapters": model.described(),
        "backbone_fingerprint": server.backbone.fingerprint,
    }


def usage(prompt: int, answer: int) -> dict[str, int]:
    """Return the tokens of a request."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


def opening(server: Server, model: Model, kind: str, prefix: str) -> dict[str, Any]:
    """Return what an answer, and every piece of it, begins with.

    Args:
        server: that answers.
        model: as asked for.
        kind: value of ``object``.
        prefix: of the id.
    """
    return {
        "id": f"{prefix}-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model.text,
        "system_fingerprint": server.backbone.fingerprint,
    }
