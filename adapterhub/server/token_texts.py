"""Single tokens as text and as bytes, for reports of their probabilities."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from adapterhub.engine.detokenizer import token_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Tokens whose bytes are remembered.
REMEMBERED = 65536


class TokenTexts:
    """Writes tokens of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        fast: Any = tokenizer
        backend = fast.backend_tokenizer
        self._bytes = lru_cache(REMEMBERED)(lambda token: token_bytes(backend, token))

    def content(self, token: int) -> bytes:
        """Return the bytes of a token."""
        return self._bytes(token)

    def text(self, token: int) -> str:
        """Return the text of a token; bytes that are no whole character show as U+FFFD."""
        return self._bytes(token).decode("utf-8", "replace")
