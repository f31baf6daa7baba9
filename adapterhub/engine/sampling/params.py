"""Sampling parameters of a request."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapterhub.errors import RequestError
from adapterhub.tasks.base import MAX_BEAMS

#: Limits of the cost of one request.
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_LOGPROBS = 20
MAX_ANSWERS = 128
#: Between them logits stay within float32.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-8, 100.0
MIN_REPETITION, MAX_REPETITION = 0.01, 100.0
_UINT64 = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling parameters of one request, checked when they are created.

    Args:
        temperature: Divisor of the logits; 0 selects the most likely token, and then ``top_k``,
            ``top_p`` and ``min_p`` have no effect.
        top_k: Number of most likely tokens that are kept, with ties; 0 disables it.
        top_p: Probability that the most likely tokens kept reach together, Holtzman et al. 2020
            (arXiv:1904.09751); 1 disables it.
        min_p: Probability of kept tokens relative to the most likely one, Nguyen et al. 2024
            (arXiv:2407.01082); 0 disables it.
        repetition_penalty: Divisor of positive and factor of negative logits of tokens in prompt
            or answer, Keskar et al. 2019 (arXiv:1909.05858); 1 disables it.
        presence_penalty: Value subtracted from the logit of each token that the answer contains.
        frequency_penalty: Value subtracted once per occurrence of the token in the answer.
        seed: Seed of the random numbers, 0 to 2**64 - 1; ``None`` draws one.
        stop: Strings that end the text and are cut off.
        stop_token_ids: Tokens that end the text in addition to the backbone's own.
        ignore_eos: Whether to continue after the backbone's end-of-text token.
        max_tokens: Most tokens of an answer.
        min_tokens: Number of tokens before which no token or string ends the text.
        n: Number of answers.
        logprobs: Number of most likely tokens whose log-probabilities are reported with the
            sampled token's; ``None`` reports none.
        json_schema: JSON schema of the answer; a mapping is stored as text.
        regex: Regular expression that the whole answer matches.
        num_beams: Beams of an encoder-decoder's search for the likeliest answer, as in
            transformers; 1 for none. A search needs temperature 0. ``None`` takes the
            backbone's own number where the request allows a search.
        length_penalty: Exponent of the length that the score of a beam is divided by; above 0
            longer answers are preferred. ``None`` takes the backbone's own.

    Raises:
        RequestError: If a value is out of range or two of them exclude each other.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    max_tokens: int = 256
    min_tokens: int = 0
    n: int = 1
    logprobs: int | None = None
    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None
    num_beams: int | None = None
    length_penalty: float | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_counts()
        for name in ("stop", "stop_token_ids"):
            object.__setattr__(self, name, _items(name, getattr(self, name)))
        self._check_stops()
        if not isinstance(self.ignore_eos, bool):
            raise _wrong("ignore_eos", "true or false", self.ignore_eos)
        self._check_constraint()
        self._check_pairs()

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is selected."""
        return self.temperature == 0

    @property
    def penalized(self) -> bool:
        """Whether there is a penalty."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    @property
    def constrained(self) -> bool:
        """Whether the text follows a schema or a regular expression."""
        return self.json_schema is not None or self.regex is not None

    def _check_numbers(self) -> None:
        _number("temperature", self.temperature, 0, MAX_TEMPERATURE)
        if 0 < self.temperature < MIN_TEMPERATURE:
            wanted = f"0 or at least {MIN_TEMPERATURE}"
            raise _wrong(
                "temperature", wanted, self.temperature, hint="0 selects the most likely token"
            )
        _number("top_p", self.top_p, 0, 1, above=True)
        _number("min_p", self.min_p, 0, 1)
        _number("repetition_penalty", self.repetition_penalty, MIN_REPETITION, MAX_REPETITION)
        if self.length_penalty is not None:
            _number("length_penalty", self.length_penalty, -10, 10)
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)

    def _check_counts(self) -> None:
        _count("top_k", self.top_k, 0)
        _count("max_tokens", self.max_tokens, 1)
        _count("min_tokens", self.min_tokens, 0)
        _count("n", self.n, 1, MAX_ANSWERS)
        if self.num_beams is not None:
            _count("num_beams", self.num_beams, 1, MAX_BEAMS)
        if self.seed is not None:
            _count("seed", self.seed, 0, _UINT64 - 1)
        if self.logprobs is not None:
            _count("logprobs", self.logprobs, 0, MAX_LOGPROBS)

    def _check_stops(self) -> None:
        if len(self.stop) > MAX_STOPS:
            raise _wrong("stop", f"at most {MAX_STOPS} strings", len(self.stop))
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise _wrong("stop", "strings that are not empty", text)
            if len(text) > MAX_STOP_LENGTH:
                raise _wrong("stop", f"strings of at most {MAX_STOP_LENGTH} characters", len(text))
        for token in self.stop_token_ids:
            _count("stop_token_ids", token, 0)

    def _check_constraint(self) -> None:
        if isinstance(self.json_schema, Mapping):
            object.__setattr__(self, "json_schema", _schema_text(self.json_schema))
        for name, value in (("json_schema", self.json_schema), ("regex", self.regex)):
            if value is not None and not isinstance(value, str):
                raise _wrong(name, "text", value)

    def _check_pairs(self) -> None:
        if self.json_schema is not None and self.regex is not None:
            raise _exclude(self, "json_schema", "regex", "An answer follows one of them")
        if self.min_tokens > self.max_tokens:
            raise _exclude(self, "min_tokens", "max_tokens", "Raise max_tokens or lower min_tokens")
        if self.greedy and self.n > 1:
            raise _exclude(self, "temperature", "n", "At temperature 0 all answers are the same")
        kind = "json_schema" if self.regex is None else "regex"
        if self.constrained and self.min_tokens:
            raise _exclude(self, "min_tokens", kind, "A constrained text ends where it is complete")
        if (self.num_beams or 1) > 1:
            self._check_beams()
        if self.constrained and self.ignore_eos:
            raise _exclude(self, "ignore_eos", kind, "A constrained text ends where it is complete")

    def _check_beams(self) -> None:
        """Reject what a search by transformers does not have."""
        if not self.greedy:
            raise _exclude(self, "num_beams", "temperature", "Set temperature to 0")
        names = ("repetition_penalty", "presence_penalty", "frequency_penalty", "stop", "logprobs")
        defaults = SamplingParams()
        for name in (*names, "json_schema", "regex", "ignore_eos"):
            if getattr(self, name) != getattr(defaults, name):
                raise _exclude(self, "num_beams", name, f"Remove {name}, or set num_beams to 1")


def _number(name: str, value: Any, least: float, most: float, *, above: bool = False) -> None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    fits = plain and math.isfinite(value) and least <= value <= most
    if not fits or (above and value == least):
        start = f"above {least}" if above else f"at least {least}"
        raise _wrong(name, f"a number {start} and at most {most}", value)


def _count(name: str, value: Any, least: int, most: int | None = None) -> None:
    plain = isinstance(value, int) and not isinstance(value, bool)
    if not plain or value < least or (most is not None and value > most):
        end = "" if most is None else f" and at most {most}"
        raise _wrong(name, f"a whole number of at least {least}{end}", value)


def _items(name: str, value: Any) -> tuple[Any, ...]:
    # the characters of a string would be taken for its items
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _wrong(name, "a list", value)
    return tuple(value)


def _schema_text(schema: Mapping[str, Any]) -> str:
    try:
        # the order of keys is kept: properties are generated in it
        return json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"is not JSON: {error}", place="json_schema") from error


def _wrong(name: str, wanted: str, found: object, *, hint: str = "") -> RequestError:
    return RequestError(f"must be {wanted}, found {found!r:.80}", place=name, hint=hint)


def _exclude(params: SamplingParams, one: str, other: str, hint: str) -> RequestError:
    first, second = getattr(params, one), getattr(params, other)
    return RequestError(
        f"{one} {first!r:.80} and {other} {second!r:.80} exclude each other", place=one, hint=hint
    )
