"""A prompt with settings, made ready for the engine: tokens, text stream, constraint.

Everything here may run on any thread, so that a server keeps it off the one that computes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from os.path import isabs
from pathlib import PurePath
from threading import Lock
from typing import TYPE_CHECKING, Any

from adapterhub.engine.answers import answer_of
from adapterhub.engine.constraints import ConstraintCompiler
from adapterhub.engine.detokenizer import IncrementalDetokenizer
from adapterhub.engine.outputs import RequestOutput
from adapterhub.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.constraints import Constraint
    from adapterhub.engine.sampling.params import SamplingParams
    from adapterhub.engine.sequences import Sequence


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPrompt:
    """A request before it joins the engine.

    Args:
        tokens: of the prompt.
        params: settings.
        streams: the text of each answer, empty.
        constraints: of each answer, standing at their beginning; ``None`` where there is none.
    """

    tokens: tuple[int, ...]
    params: SamplingParams
    streams: tuple[IncrementalDetokenizer, ...]
    constraints: tuple[Constraint | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A request in the engine: one row for each of its answers.

    Args:
        rows: in the order of answers.
        seed: of the random numbers.
    """

    rows: tuple[Sequence, ...]
    seed: int

    @property
    def finished(self) -> bool:
        """Whether all answers are."""
        return all(row.finished is not None for row in self.rows)

    def completion(self) -> RequestOutput:
        """Return the answers.

        Raises:
            ValueError: when one of them is not finished.
        """
        answers = tuple(answer_of(row) for row in self.rows)
        return RequestOutput(answers, len(self.rows[0].prompt), self.seed)


class PromptProcessor:
    """Makes requests ready; safe for use from several threads."""

    def __init__(self, backbone: Backbone) -> None:
        """Read for a backbone's tokenizer."""
        # a fast tokenizer, as every task requires it
        self._tokenizer: Any = backbone.tokenizer
        # of a folder its last part: messages may go to clients of a server
        self._name = PurePath(backbone.name).name if isabs(backbone.name) else backbone.name
        self._vocabulary = int(backbone.config.vocab_size)
        self.end_ids = _end_ids(backbone)
        self._compiler: ConstraintCompiler | None = None
        self._lock = Lock()

    def read(self, prompt: str | Rows[int], params: SamplingParams) -> PreparedPrompt:
        """Make a request ready.

        Args:
            prompt: text, tokenized as it stands, or token ids.
            params: settings.

        Raises:
            RequestError: when there is no prompt, a token id is none of the vocabulary, or the
                schema or expression can't be followed.
            MissingExtraError: when it asks for constrained text without the extra ``serve``.
        """
        tokens = self._tokens(prompt)
        streams = tuple(
            IncrementalDetokenizer(self._tokenizer, params.stop, min_tokens=params.min_tokens)
            for _ in range(params.n)
        )
        return PreparedPrompt(tokens, params, streams, self._constraints(params))

    def encode(self, text: str, *, special_tokens: bool = True) -> tuple[int, ...]:
        """Return the tokens of a text.

        Args:
            text: to be tokenized.
            special_tokens: add those that begin and end a text, where the tokenizer has any.
        """
        # the tokenizer's own settings change while it works
        with self._lock:
            encoding = self._tokenizer(text, add_special_tokens=special_tokens, verbose=False)
        return tuple(encoding["input_ids"])

    def _tokens(self, prompt: str | Rows[int]) -> tuple[int, ...]:
        tokens = self.encode(prompt) if isinstance(prompt, str) else tuple(prompt)
        if not tokens:
            raise RequestError("is empty", place="prompt")
        for token in tokens:
            if not isinstance(token, int) or not 0 <= token < self._vocabulary:
                raise RequestError(f"{token!r:.80} is no token of the vocabulary", place="prompt")
        return tokens

    def _constraints(self, params: SamplingParams) -> tuple[Constraint | None, ...]:
        if not params.constrained:
            return (None,) * params.n
        with self._lock:
            if self._compiler is None:
                self._compiler = ConstraintCompiler(
                    self._tokenizer,
                    eos_ids=sorted(self.end_ids),
                    vocabulary=self._vocabulary,
                    name=self._name,
                )
            return tuple(self._compiler.compile(params) for _ in range(params.n))


def reads_pictures() -> RequestError:
    """Return why texts are refused by a backbone that reads pictures."""
    return RequestError(
        "the backbone reads pictures, and no texts", place="model", hint="Let it classify pictures"
    )


def request_seed(params: SamplingParams) -> int:
    """Return the seed of a request, drawn where it names none."""
    return secrets.randbits(63) if params.seed is None else params.seed


def _end_ids(backbone: Backbone) -> frozenset[int]:
    """Return the tokens by which a backbone ends a text: its own and its tokenizer's."""
    found: list[Any] = [backbone.tokenizer.eos_token_id, *_as_list(backbone.config.eos_token_id)]
    found += _as_list(_generation_ends(backbone))
    return frozenset(int(token) for token in found if token is not None)


def _generation_ends(backbone: Backbone) -> Any:
    from transformers import GenerationConfig

    if not (backbone.path / "generation_config.json").is_file():
        return None
    return GenerationConfig.from_pretrained(backbone.path).eos_token_id


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
