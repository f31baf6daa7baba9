"""Tokenization of prompts and preparation of what each answer needs.

Everything here may run on any thread, so that a server keeps it off the engine's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from os.path import isabs
from pathlib import PurePath
from threading import Lock
from typing import TYPE_CHECKING, Any

from adapterhub.engine.constraints import ConstraintCompiler
from adapterhub.engine.detokenizer import IncrementalDetokenizer
from adapterhub.engine.generation_defaults import generation_defaults
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import RequestError
from adapterhub.tasks.table import reads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.constraints import Constraint
    from adapterhub.tasks.base import BackboneKind, TargetFrame
    from adapterhub.tasks.token_rules import TokenRules
    from adapterhub.tasks.transcription import SpeechWindow


#: Ids are 32-bit words; whether they are in the vocabulary depends on the adapters.
_MOST_TOKENS = 2**31


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPrompt:
    """A tokenized prompt with its sampling parameters.

    Args:
        tokens: Token ids of the prompt; of an encoder-decoder what its encoder reads, or its
            decoder beside a recording.
        target_frame: Special tokens around the answer of an encoder-decoder; ``None`` for those of
            the request's adapter.
        is_source: Whether an encoder reads the tokens, so that they are no part of the answer's
            sequence.
        media: Returns what the encoder of a model of recordings reads.
        num_source_positions: Number of positions of that encoder.
        rules: Excludes tokens that may not come next.
    """

    tokens: tuple[int, ...]
    params: SamplingParams
    detokenizers: tuple[IncrementalDetokenizer | None, ...]
    constraints: tuple[Constraint | None, ...]
    target_frame: TargetFrame | None = None
    is_source: bool = False
    media: Callable[[], Tensor] | None = None
    num_source_positions: int = 0
    rules: TokenRules | None = None


class PromptProcessor:
    """Prepares prompts for one backbone; safe for use from several threads."""

    def __init__(self, backbone: Backbone) -> None:
        # a fast tokenizer, as every task requires it
        self._tokenizer: Any = backbone.tokenizer
        # only the last part of a folder: messages may go to clients of a server
        self._name = PurePath(backbone.name).name if isabs(backbone.name) else backbone.name
        self.vocab_size = _vocab_size(backbone)
        self._reads_source = backbone.kind == "encoder-decoder"
        #: of an encoder-decoder's checkpoint
        self.defaults = generation_defaults(backbone) if self._reads_source else None
        self.end_ids = _end_ids(backbone)
        self._compiler: ConstraintCompiler | None = None
        self._lock, self._compiling = Lock(), Lock()

    def prepare(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        target_frame: TargetFrame | None = None,
    ) -> PreparedPrompt:
        """Prepare a prompt.

        Args:
            prompt: Text, to which no chat template is applied, or token ids.
            params: Sampling parameters.
            target_frame: Special tokens around the answer of an encoder-decoder; ``None`` for
                those of the request's adapter.
        """
        self._check_beams(params)
        if self.defaults is not None:
            params = self.defaults.complete(params)
        tokens = self._tokens(prompt)
        detokenizers = tuple(
            IncrementalDetokenizer(self._tokenizer, params.stop, min_tokens=params.min_tokens)
            for _ in range(params.n)
        )
        constraints = self._constraints(params)
        return PreparedPrompt(
            tokens, params, detokenizers, constraints, target_frame, self._reads_source
        )

    def _check_beams(self, params: SamplingParams) -> None:
        if (params.num_beams or 1) > 1 and not self._reads_source:
            raise RequestError(
                "beams are for backbones with an encoder and a decoder",
                place="num_beams",
                hint="Set it to 1",
            )

    def encode(self, text: str, *, special_tokens: bool = True) -> tuple[int, ...]:
        """Return the token ids of a text.

        Args:
            text: Text to tokenize.
            special_tokens: Whether to add the tokenizer's tokens for begin and end of text.
        """
        # the tokenizer's own settings change while it works
        try:
            with self._lock:
                encoding = self._tokenizer(text, add_special_tokens=special_tokens, verbose=False)
        except TypeError as error:
            # the tokenizer takes no text that has no UTF-8
            problem = "has a lone surrogate, which is no character"
            raise RequestError(problem, place="text") from error
        return tuple(encoding["input_ids"])

    def _tokens(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        tokens = self.encode(prompt) if isinstance(prompt, str) else tuple(prompt)
        if not tokens:
            raise RequestError("is empty", place="prompt")
        for token in tokens:
            if not isinstance(token, int) or not 0 <= token < _MOST_TOKENS:
                raise unknown_token(token)
        return tokens

    def _constraints(self, params: SamplingParams) -> tuple[Constraint | None, ...]:
        if not params.constrained:
            return (None,) * params.n
        with self._compiling:
            if self._compiler is None:
                self._compiler = ConstraintCompiler(
                    self._tokenizer,
                    eos_ids=sorted(self.end_ids),
                    vocabulary=self.vocab_size,
                    name=self._name,
                )
            return tuple(self._compiler.compile(params) for _ in range(params.n))


def window_prompt(window: SpeechWindow) -> PreparedPrompt:
    """Return the prompt of a window of a recording, whose answer is its transcript."""
    params = SamplingParams(
        temperature=window.temperature,
        seed=window.seed,
        max_tokens=window.max_tokens,
        stop_token_ids=window.stop_ids,
        num_beams=window.num_beams,
        logprobs=0 if window.logprobs else None,
    )
    return PreparedPrompt(
        window.prompt,
        params,
        (None,),
        (None,),
        media=window.features,
        num_source_positions=window.num_positions,
        rules=window.rules,
    )


def unknown_token(token: object) -> RequestError:
    """Return the error for what is no token id of the backbone or of the request's adapter."""
    return RequestError(f"{token!r:.80} is not a token id of the vocabulary", place="prompt")


def reads_no_texts(kind: BackboneKind) -> RequestError:
    """Return the error for a text that is sent to a backbone of images or recordings."""
    read = reads(kind)
    return RequestError(
        f"the backbone reads {read}, not texts", place="model", hint=f"Classify {read} with it"
    )


def _vocab_size(backbone: Backbone) -> int:
    # an architecture that reads characters has no vocabulary
    found = getattr(backbone.config.get_text_config(), "vocab_size", None)
    return int(found or len(backbone.tokenizer))


def _end_ids(backbone: Backbone) -> frozenset[int]:
    """Return the end-of-text tokens of a backbone and its tokenizer."""
    from transformers import GenerationConfig

    configured = getattr(backbone.config.get_text_config(), "eos_token_id", None)
    found: list[Any] = [backbone.tokenizer.eos_token_id, *_as_list(configured)]
    if (backbone.path / "generation_config.json").is_file():
        found += _as_list(GenerationConfig.from_pretrained(backbone.path).eos_token_id)
    return frozenset(int(token) for token in found if token is not None)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
