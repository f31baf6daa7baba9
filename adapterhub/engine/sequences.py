"""Generation requests and their sequences, one per answer."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapterhub.engine.adapter_slots import BASE_MODEL, NEVER, blend_runs
from adapterhub.engine.outputs import CompletionDelta, CompletionOutput, RequestOutput
from adapterhub.engine.sampling.state import SamplingState
from adapterhub.errors import AdapterHubError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Sequence as SequenceOf

    from torch import Tensor

    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.constraints import Constraint
    from adapterhub.engine.detokenizer import IncrementalDetokenizer
    from adapterhub.engine.outputs import FinishReason
    from adapterhub.engine.prompts import PreparedPrompt
    from adapterhub.engine.sampling.sampler import SampledToken, TokenLogprobs
    from adapterhub.tasks.base import TargetFrame
    from adapterhub.tasks.token_rules import ProcessorRules, TokenRules

#: Takes the place of a token id for the virtual tokens of a prefix.
VIRTUAL = 0xFFFFFFFF


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens of one answer, their KV-cache blocks and the progress of the computation.

    Args:
        number: Number in order of arrival.
        prompt: Token ids of the prompt.
        state: Sampling state of the answer.
        adapters: Keys and weights, in canonical order; empty for the base model.
        num_virtual_tokens: Number of virtual tokens before the prompt, set by validation.
        detokenizer: Detokenizer, where text is wanted.
        constraint: Constraint of the text.
        target_frame: Special tokens around the answer of an encoder-decoder, if the request names
            them.
        media: Returns what the encoder of a model of recordings reads; the prompt is its decoder's.
        num_source_positions: Number of positions of that encoder, which the decoder attends to.
        rules: Excludes tokens that may not come next; of a text's checkpoint, set by validation.
    """

    number: int
    prompt: tuple[int, ...]
    state: SamplingState
    adapters: tuple[tuple[str, float], ...] = ()
    num_virtual_tokens: int = 0
    detokenizer: IncrementalDetokenizer | None = None
    constraint: Constraint | None = None
    target_frame: TargetFrame | None = None
    media: Callable[[], Tensor] | None = None
    num_source_positions: int = 0
    rules: TokenRules | ProcessorRules | None = None
    #: texts of the deltas so far
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    #: number of tokens whose keys and values are in the cache
    num_computed_tokens: int = 0
    blocks: list[int] = field(default_factory=list)
    #: hashes of its full blocks, as far as they are computed
    block_hashes: list[bytes] = field(default_factory=list)
    #: whether its adapters were in host memory once and can serve it
    validated: bool = False
    #: whether it is generated on the padded path, and only together with its own adapters; both
    #: are set by validation
    padded: bool = False
    exclusive: bool = False
    #: first position at which its adapters are active; set by validation
    active_from: int = 0
    #: what the decoder of an encoder-decoder reads before the answer; set by validation
    decoder_prompt: tuple[int, ...] = ()
    #: number of outputs of its adapter's own output layer, else ``None``; set by validation
    vocab_size: int | None = None
    #: number of later sequences that started while this one waited only for rank slots
    overtaken: int = 0
    #: set while it is running
    blend: Blend | None = None
    finish_reason: FinishReason | None = None
    error: AdapterHubError | None = None

    @property
    def output_tokens(self) -> list[int]:
        """Token ids of the answer so far, including the end token."""
        return self.state.tokens

    @property
    def adapter_key(self) -> str:
        """The adapters and weights as text, on which keys and values depend."""
        key = "+".join(f"{key}*{weight!r}" for key, weight in self.adapters)
        return f"{key}@{self.active_from}" if self.active_from else key

    @property
    def length(self) -> int:
        """Number of virtual, prompt and output tokens."""
        return self.num_virtual_tokens + len(self.prompt) + len(self.output_tokens)

    def runs(self, start: int, end: int) -> list[tuple[int, Blend]]:
        """Return the number of tokens and the blend of each run from ``start`` to ``end``."""
        blend = self.blend or BASE_MODEL
        if not self.active_from:
            return [(end - start, blend)]
        return blend_runs(blend, start, end, self.active_from)

    def token_ids(self, start: int, end: int) -> list[int]:
        """Return the token ids from ``start`` to ``end``, ``VIRTUAL`` for virtual tokens."""
        virtual, prompt = self.num_virtual_tokens, len(self.prompt)
        first, last = max(start - virtual, 0), max(end - virtual, 0)
        if first >= prompt:
            return self.output_tokens[first - prompt : last - prompt]
        head = [VIRTUAL] * (min(end, virtual) - start)
        return [*head, *self.prompt[first:last], *self.output_tokens[: max(last - prompt, 0)]]

    def set_allowed_tokens(self) -> None:
        """Let the constraint decide which tokens may come next; an error is kept."""
        if self.constraint is not None:
            try:
                self.state.allowed = self.constraint.mask()
            except AdapterHubError as error:
                self.error = error

    def append(self, sampled: SampledToken) -> CompletionDelta:
        """Append a sampled token, or end the sequence by its error."""
        error = self.error or sampled.error
        if error is not None or sampled.token is None:
            return self.fail(error or AdapterHubError("no token was sampled"))
        try:
            reason = self._append(sampled.token)
        except AdapterHubError as found:
            return self.fail(found)
        text = self._text(sampled.token, reason)
        if self.detokenizer is not None and self.detokenizer.stopped is not None:
            reason = "stop"
        self.finish_reason = reason
        if sampled.logprobs is not None:
            self.logprobs.append(sampled.logprobs)
        return CompletionDelta(self.state.index, sampled.token, text, sampled.logprobs, reason)

    def fail(self, error: AdapterHubError) -> CompletionDelta:
        """End the sequence by an error."""
        self.error, self.finish_reason = error, "error"
        return CompletionDelta(self.state.index, None, finish_reason="error", error=error)

    def cancel(self) -> CompletionDelta:
        """End the sequence because its request was cancelled."""
        self.finish_reason = "cancelled"
        return CompletionDelta(self.state.index, None, finish_reason="cancelled")

    def output(self) -> CompletionOutput:
        """Return the whole answer."""
        if self.finish_reason is None:
            raise ValueError("the sequence is not finished")
        tokens = self.output_tokens
        if self.finish_reason == "stop" and tokens and tokens[-1] in self.state.end_ids:
            tokens = tokens[:-1]
        text, logprobs = "".join(self.texts), tuple(self.logprobs)
        return CompletionOutput(tuple(tokens), text, self.finish_reason, logprobs, self.error)

    def _append(self, token: int) -> FinishReason | None:
        reason = self.state.append(token)
        if self.constraint is not None and token not in self.state.end_ids:
            self.constraint.advance(token)
            if self.constraint.finished:
                return "stop"
        return reason

    def _text(self, token: int, reason: FinishReason | None) -> str:
        """Return the text that a token adds; an end token adds none."""
        if self.detokenizer is None:
            return ""
        ends = reason == "stop" and token in self.state.end_ids
        text = "" if ends else self.detokenizer.push([token])
        if reason is not None:
            text += self.detokenizer.finish()
        self.texts.append(text)
        return text


def first_active(prompt: SequenceOf[int], invocation: SequenceOf[int]) -> int:
    """Return the position in a prompt from which an adapter is active.

    Args:
        prompt: Token ids of the prompt.
        invocation: Token ids from whose last occurrence on the adapter is active; without any it
            is active everywhere.
    """
    size = len(invocation)
    if not size:
        return 0
    wanted = tuple(invocation)
    starts = range(len(prompt) - size, -1, -1)
    return next((at for at in starts if tuple(prompt[at : at + size]) == wanted), NEVER)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A generation request.

    Args:
        sequences: Sequence of each answer.
        seed: Seed of the random numbers.
    """

    sequences: tuple[Sequence, ...]
    seed: int

    @property
    def finished(self) -> bool:
        """Whether all answers are finished."""
        return all(sequence.finish_reason is not None for sequence in self.sequences)

    def output(self) -> RequestOutput:
        """Return the answers."""
        outputs = tuple(sequence.output() for sequence in self.sequences)
        return RequestOutput(outputs, len(self.sequences[0].prompt), self.seed)


def new_request(
    prompt: PreparedPrompt,
    adapters: tuple[tuple[str, float], ...],
    numbers: Iterator[int],
    *,
    end_ids: frozenset[int],
) -> Request:
    """Return a request with a sequence for each answer.

    Args:
        prompt: Prepared prompt.
        adapters: Keys and weights, in canonical order; empty for the base model.
        numbers: Numbers of the sequences, in order of arrival.
        end_ids: End-of-text tokens of the backbone.
    """
    params = prompt.params
    seed = secrets.randbits(63) if params.seed is None else params.seed
    sequences = [
        Sequence(
            next(numbers),
            prompt.tokens,
            SamplingState(
                params,
                () if prompt.is_source else prompt.tokens,
                eos_ids=end_ids,
                seed=seed,
                index=index,
            ),
            adapters,
            detokenizer=prompt.detokenizers[index],
            constraint=prompt.constraints[index],
            target_frame=prompt.target_frame,
            media=prompt.media,
            num_source_positions=prompt.num_source_positions,
            rules=prompt.rules,
        )
        for index in range(params.n)
    ]
    return Request(tuple(sequences), seed)
