"""What an engine gives back: pieces of answers while they grow, and whole ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapterhub.engine.sampling.logprobs import TokenLogprobs
    from adapterhub.engine.sequences import FinishReason
    from adapterhub.errors import AdapterHubError


@dataclass(frozen=True, slots=True)
class Delta:
    """What a step added to one answer of a request.

    Args:
        index: of the answer among those of its request.
        token: that was chosen; ``None`` where the answer ended without one.
        text: that can no longer change; may be empty, or hold text of earlier tokens too.
        logprobs: of the token, where the request asks for them.
        finish_reason: where the answer ends with this.
        error: of an answer that ends by one.
    """

    index: int
    token: int | None
    text: str = ""
    logprobs: TokenLogprobs | None = None
    finish_reason: FinishReason | None = None
    error: AdapterHubError | None = None


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One whole answer.

    Args:
        tokens: without the one that ended it.
        text: cut before the stop string, where one ended it.
        finish_reason: ``stop``, ``length``, ``cancelled`` or ``error``.
        logprobs: of each token, that which ended it included; empty where not asked for.
        error: why it ended, where it ended by an error.
    """

    tokens: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...] = ()
    error: AdapterHubError | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All answers to one prompt.

    Args:
        answers: ``n`` of them.
        prompt_tokens: length of the prompt.
        seed: of the random numbers; the same again gives the same draws.
    """

    answers: tuple[CompletionOutput, ...]
    prompt_tokens: int
    seed: int

    @property
    def text(self) -> str:
        """Text of the first answer."""
        return self.answers[0].text

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of the first answer."""
        return self.answers[0].tokens

    @property
    def finish_reason(self) -> FinishReason:
        """How the first answer ended."""
        return self.answers[0].finish_reason

    @property
    def error(self) -> AdapterHubError | None:
        """Of the first answer that ended by one, if any did."""
        return next((answer.error for answer in self.answers if answer.error is not None), None)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since the engine was built, and how full it is now.

    Args:
        steps: forward passes.
        computed_tokens: positions whose keys and values were computed.
        preemptions: rows that gave their blocks back to be computed again.
        loads: times an adapter was put on the device.
        evictions: times one was taken off for another.
        passes: rows that were labelled or embedded.
        running: rows that run.
        waiting: rows that wait.
        resident: adapters on the device.
        fetches: times an adapter was asked for from the source.
        host_adapters: adapters in host memory.
        host_bytes: that they take.
        free_blocks: of the key-value cache.
        cache_bytes: of the key-value cache.
    """

    steps: int
    computed_tokens: int
    preemptions: int
    loads: int
    evictions: int
    passes: int
    running: int
    waiting: int
    resident: int
    fetches: int
    host_adapters: int
    host_bytes: int
    free_blocks: int
    cache_bytes: int
