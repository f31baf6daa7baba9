"""Incremental detokenization with whole characters and stop strings."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Protocol

from tokenizers import decoders

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

#: Tokens of single bytes in a tokenizer with byte fallback.
_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))


class _Decoder(Protocol):
    """Incremental decoder of one kind of tokenizer."""

    def push(self, token: int) -> str:
        """Add a token; return the text that no later token can change."""

    def finish(self) -> str:
        """Return the text that was held back."""


class IncrementalDetokenizer:
    """Decodes the tokens of one answer to text deltas.

    All deltas together are ``tokenizer.decode(ids, skip_special_tokens=True)`` without clean-up
    of spaces (which would change text that has been sent), cut before the stop string that is
    complete first; of two that end together, before the longer one. The distribution of tokens
    over calls makes no difference.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str] = (), *, min_tokens: int = 0
    ) -> None:
        self._decoder = _decoder_for(tokenizer)
        self._stop = tuple(stop)
        self._unstopped = min_tokens
        self._held = ""
        #: stop string that ended the text
        self.stopped: str | None = None

    def push(self, token_ids: Iterable[int]) -> str:
        """Add tokens; return the new text that can no longer change, empty after a stop string."""
        return "".join([self._push(token) for token in token_ids if self.stopped is None])

    def finish(self) -> str:
        """Return the text that was held back, once no token follows."""
        if self.stopped is not None:
            return ""
        text = self._release(self._decoder.finish())
        rest, self._held = self._held, ""
        return text + rest

    def _push(self, token: int) -> str:
        text = self._decoder.push(token)
        if self._unstopped > 0:
            self._unstopped -= 1
            return text
        return self._release(text) if text else ""

    def _release(self, new: str) -> str:
        text = self._held + new
        # the held text may be the beginning of a stop string, so a stop string that ends in the
        # new text is found in both together
        found = [
            (place + len(stop), place, stop)
            for stop in self._stop
            if (place := text.find(stop)) >= 0
        ]
        if found:
            _, place, self.stopped = min(found)
            self._held = ""
            return text[:place]
        keep = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[keep:]
        return text[:keep]


class _ByteLevel:
    """Decoder of byte-level tokenizers such as GPT-2's: exact, and reads each token once."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._special = _special_ids(backend)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        if token in self._special:
            return ""
        return self._utf8.decode(_token_bytes(self._backend.id_to_token(token) or ""))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _Window:
    """Decoder of all other tokenizers: the difference that a token makes to the text before it.

    A single-byte token is held back until a token of another kind follows, because the tokenizer
    decodes a run of them as a whole.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._special = _special_ids(backend)
        #: tokens whose text was returned, as context, and those whose text was not yet
        self._sent: list[int] = []
        self._new: list[int] = []

    def push(self, token: int) -> str:
        written = self._backend.id_to_token(token)
        # unknown ids have no text and do not end a run of bytes
        if token in self._special or written is None:
            return ""
        self._new.append(token)
        return "" if written in _BYTE_TOKENS else self.finish()

    def finish(self) -> str:
        before = self._backend.decode(self._sent)
        text = self._backend.decode(self._sent + self._new)[len(before) :]
        if text:
            self._sent, self._new = self._new, []
        return text


def token_bytes(backend: Tokenizer, token: int) -> bytes:
    """Return the bytes of one token, empty for an unknown one."""
    written = backend.id_to_token(token) or ""
    if isinstance(backend.decoder, decoders.ByteLevel):
        return _token_bytes(written)
    if written in _BYTE_TOKENS:
        return bytes([int(written[3:5], 16)])
    return written.replace("\u2581", " ").encode()


def _decoder_for(tokenizer: PreTrainedTokenizerFast) -> _Decoder:
    backend = tokenizer.backend_tokenizer
    kind = _ByteLevel if isinstance(backend.decoder, decoders.ByteLevel) else _Window
    return kind(backend)


def _special_ids(backend: Tokenizer) -> frozenset[int]:
    added = backend.get_added_tokens_decoder()
    return frozenset(token for token, entry in added.items() if entry.special)


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's characters for bytes; printable bytes represent themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _token_bytes(token: str) -> bytes:
    try:
        return bytes([_BYTES[letter] for letter in token])
    except KeyError:
        # an added token is written as it is
        return token.encode()


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of ``text`` are the beginning of ``stop``."""
    lengths = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
