"""Structured outputs: text that follows a JSON schema or a regular expression.

llguidance (Microsoft; also a backend of vLLM, SGLang and llama.cpp) computes the masks. It follows
the grammar while text is generated instead of building an automaton over the vocabulary first, so
a new schema costs milliseconds; it rejects features that it does not support instead of ignoring
them; and it needs no other package, while xgrammar needs Triton.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapterhub.errors import EngineError, MissingExtraError, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLMatcher
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from adapterhub.engine.sampling.params import SamplingParams

#: Largest schemas and expressions, in bytes.
MAX_SCHEMA_BYTES = 64 * 1024
MAX_REGEX_BYTES = 4 * 1024
#: Number of compiled schemas and expressions in the cache.
_CACHED = 64
#: Most states of the lexer of one answer, 1 to 2 kB each.
_LEXER_STATES = 50_000
#: White space in JSON; without a bound, a model may generate it without end.
_WHITESPACE = r"[\x20\x0A\x09]{0,16}"
#: They override the options that a schema itself sets.
_JSON_OPTIONS = {"whitespace_pattern": _WHITESPACE, "lenient": False, "coerce_one_of": False}


class Constraint:
    """The state of one answer in a schema or a regular expression."""

    def __init__(self, matcher: LLMatcher, width: int, place: str) -> None:
        self._matcher = matcher
        self._width = width
        self._place = place

    @property
    def finished(self) -> bool:
        """Whether the text is complete, so that only an end-of-text token may follow."""
        return self._matcher.is_stopped()

    def mask(self) -> Tensor:
        """Return which tokens may come next, bool ``[vocab_size]``."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.zeros(self._width, np.bool_)
        bits = np.unpackbits(packed, bitorder="little")[: self._width]
        allowed[: len(bits)] = bits
        return torch.from_numpy(allowed)

    def advance(self, token: int) -> None:
        """Advance by a token that the mask allows."""
        if not self._matcher.consume_token(token):
            problem = f"token {token} is not allowed here: {_first_line(self._matcher)}"
            raise EngineError(problem, place=self._place)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(_first_line(self._matcher), place=self._place)


class ConstraintCompiler:
    """Compiles and caches the constraints of requests for one tokenizer.

    Creating one reads the tokenizer's vocabulary, which takes about a second.

    Args:
        tokenizer: Fast tokenizer.
        eos_ids: Tokens that end a text; the tokenizer's own by default.
        vocabulary: Width of the logits; the number of the tokenizer's tokens by default. Tokens
            past the tokenizer's are never allowed.
        name: Name of the backbone, for error messages.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        eos_ids: Sequence[int] = (),
        vocabulary: int | None = None,
        name: str = "",
    ) -> None:
        try:
            import llguidance.hf
        except ImportError as error:
            raise MissingExtraError("llguidance", "serve") from error
        ends = list(eos_ids) or None
        try:
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, eos_token=ends)
        except ValueError as error:
            problem = f"the tokenizer cannot be constrained: {error}"
            raise EngineError(problem, place=name) from error
        self._width = vocabulary or self._tokenizer.vocab_size
        self._compiled = lru_cache(maxsize=_CACHED)(self._compile)

    def compile(self, params: SamplingParams) -> Constraint | None:
        """Return a new constraint for one answer, or ``None`` for a request without one."""
        if isinstance(params.json_schema, str):
            place, text = "json_schema", params.json_schema
        elif params.regex is not None:
            place, text = "regex", params.regex
        else:
            return None
        return Constraint(self._compiled(place, text).deep_copy(), self._width, place)

    def _compile(self, place: str, text: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        grammar = _json_grammar(text) if place == "json_schema" else _regex_grammar(text)
        limits = LLParserLimits(max_lexer_states=_LEXER_STATES, verbose_errors=False)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        # that no text matches shows only at the first token
        Constraint(matcher.deep_copy(), self._width, place).mask()
        return matcher


def _json_grammar(text: str) -> str:
    from llguidance import LLMatcher

    _check_size("json_schema", text, MAX_SCHEMA_BYTES)
    options: Any = _JSON_OPTIONS
    try:
        return LLMatcher.grammar_from_json_schema(text, overrides=options)
    except ValueError as error:
        raise RequestError(f"is not a JSON schema: {error}", place="json_schema") from error


def _regex_grammar(text: str) -> str:
    from llguidance import LLMatcher

    _check_size("regex", text, MAX_REGEX_BYTES)
    return LLMatcher.grammar_from_regex(text)


def _check_size(place: str, text: str, most: int) -> None:
    size = len(text.encode(errors="surrogatepass"))
    if size > most:
        raise RequestError(f"has {size} bytes, at most {most} are allowed", place=place)


def _first_line(matcher: LLMatcher) -> str:
    return matcher.get_error().partition("\n<state>")[0].strip()
