"""Tokenization of requests: bounded by size, in the caller's turn, on one thread.

No token has more bytes than the longest one, so a text with so many bytes that it can't fit is
refused before it is tokenized.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from adapterhub.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from adapterhub.server.context import Call
    from adapterhub.server.loaded_backbone import LoadedBackbone
    from adapterhub.server.models import ResolvedModel

_T = TypeVar("_T")
#: Bytes of the texts of a request that are tokenized at once; more wait in the fair queue first.
_CHUNK = 16 * 1024
#: Bytes of text that count as one token in the fair queue.
_BYTES_PER_TOKEN = 4


async def tokenize(call: Call, model: ResolvedModel, size: int, function: Callable[[], _T]) -> _T:
    """Call a function that tokenizes, in the turn of the caller if the text is long.

    Args:
        call: Authenticated request.
        model: Model of the request.
        size: Bytes of the text.
        function: Function that tokenizes it.
    """
    turn = call.admit(model, size / _BYTES_PER_TOKEN) if size > _CHUNK else nullcontext()
    async with turn:
        return await model.loaded.engine.tokenize(size, function)


async def tokenize_texts(
    call: Call,
    model: ResolvedModel,
    texts: Sequence[str | list[int]],
    limit: int,
    place: str,
) -> list[tuple[int, ...]]:
    """Return the token ids of each text; token ids stay what they are.

    Args:
        call: Authenticated request.
        model: Model of the request.
        texts: Texts or token ids.
        limit: Most tokens of a text.
        place: Field of the request, for errors.
    """
    encode = model.loaded.engine.prompt_processor.encode
    sizes = [check_size(model.loaded, text, limit, place) for text in texts]

    def encode_all(chunk: range) -> list[tuple[int, ...]]:
        found = (texts[at] for at in chunk)
        return [encode(text) if isinstance(text, str) else tuple(text) for text in found]

    tokens: list[tuple[int, ...]] = []
    for chunk in _chunks(sizes):
        size = sum(sizes[chunk.start : chunk.stop])
        tokens += await tokenize(call, model, size, partial(encode_all, chunk))
    return tokens


def check_size(loaded: LoadedBackbone, text: Any, limit: int, place: str) -> int:
    """Return the bytes of a text, 0 of token ids.

    Raises:
        RequestError: If it must have more than ``limit`` tokens.
    """
    if not isinstance(text, str):
        return 0
    # most texts are so short that their bytes need not be counted
    if len(text) <= _CHUNK // 4:
        return len(text)
    size = len(text.encode("utf-8", "surrogatepass"))
    most = limit * loaded.longest_token
    if size > most:
        raise RequestError(
            f"has {size} bytes; {limit} tokens have at most {most}",
            place=place,
            hint="Shorten it",
        )
    return size


def _chunks(sizes: Sequence[int]) -> Iterator[range]:
    """Yield consecutive texts that are tokenized together: small ones, or a single one."""
    start = total = 0
    for at, size in enumerate(sizes):
        if at > start and total + size > _CHUNK:
            yield range(start, at)
            start, total = at, 0
        total += size
    yield range(start, len(sizes))
