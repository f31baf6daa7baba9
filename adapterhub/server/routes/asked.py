"""What the task routes share: rows with their models, and answers as a list."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.responses import JSONResponse

from adapterhub.data.images import ImageFile
from adapterhub.errors import RequestError
from adapterhub.server.describing import headers_of
from adapterhub.server.fanning import for_each

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.responses import Response

    from adapterhub.server.context import Call
    from adapterhub.server.models import Model
    from adapterhub.server.schemas.tasks import Rows


#: Tokens that a picture counts for: those of a ViT that reads 224 pixels a side, 14 at once.
PICTURE_COST = 256


class Asked(NamedTuple):
    """A row on its way to its answer."""

    model: Model
    row: dict[str, Any]

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """As the engine takes them.

        Raises:
            RequestError: when there are none.
        """
        if self.model.adapters is None:
            raise RequestError(
                "the backbone alone has no head",
                place="model",
                hint="Name an adapter that was trained for it",
            )
        return self.model.adapters

    @property
    def cost(self) -> int:
        """About the tokens of the row; a picture counts as a text of some length."""
        return sum(_cost_of(value) for value in self.row.values()) + 1


def _cost_of(value: str | list[str] | ImageFile) -> int:
    if isinstance(value, ImageFile):
        return PICTURE_COST
    return sum(len(part) for part in value) // 4


def find_model(call: Call, name: str) -> Model:
    """Return what a request asks for, if its caller may; called on a thread.

    Raises:
        NotFoundError: with near names, when an adapter is unknown.
        Forbidden: when the caller may not ask for it.
    """
    model = call.server.models.find(name)
    call.server.access.check_adapter(call.caller, model.refs)
    return model


def asked_rows(call: Call, body: Rows, row_of: Callable[[Any], dict[str, Any]]) -> list[Asked]:
    """Resolve the model of each row; called on a thread.

    Args:
        call: of the request.
        body: of the request.
        row_of: makes a row of an input.

    Raises:
        NotFoundError: as ``find_model``.
        Forbidden: as ``find_model``.
    """
    find = lru_cache(None)(lambda name: find_model(call, name))
    return [Asked(find(name), row_of(each)) for name, each in body.pairs()]


async def answer_each(
    call: Call,
    asked: Sequence[Asked],
    answer: Callable[[Asked], Awaitable[dict[str, Any]]],
    *,
    counted: bool = False,
) -> Response:
    """Answer all rows of a request, so that they share batches.

    Args:
        call: of the request.
        asked: its rows.
        answer: makes what is told of one row.
        counted: whether ``answer`` tells the metrics what was used.
    """
    began = time.perf_counter()
    found = await for_each(asked, answer)
    seconds = time.perf_counter() - began
    data = []
    for index, (one, told) in enumerate(zip(asked, found, strict=True)):
        if not counted:
            call.server.metrics.used(one.model.names, 0, 0, seconds)
        data.append({"index": index, "model": one.model.text, "digest": one.model.digests, **told})
    content = {
        "object": "list",
        "data": data,
        "backbone_fingerprint": call.server.backbone.fingerprint,
    }
    return JSONResponse(content, headers=headers_of(one.model for one in asked))
