"""What the engine returns: deltas of answers, whole outputs and statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from adapterhub.engine.sampling.sampler import TokenLogprobs
    from adapterhub.errors import AdapterHubError

#: End token or stop string, ``max_tokens``, cancelled by the client, error.
FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class CompletionDelta:
    """Addition of one step to one answer of a request.

    Args:
        index: Index of the answer in its request.
        token: Token id, or ``None`` where the answer ended without one.
        text: Text that can no longer change; may be empty or include text of earlier tokens.
        logprobs: Log-probabilities of the token, if requested.
        finish_reason: Reason, where the answer ends with this delta.
        error: Error that ended the answer.
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
        tokens: Token ids, without the end token.
        text: Text, cut before the stop string that ended it.
        finish_reason: Reason why the answer ended.
        logprobs: Log-probabilities of each token including the end token, if requested.
        error: Error that ended the answer.
    """

    tokens: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...] = ()
    error: AdapterHubError | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All answers of a request.

    Args:
        outputs: The ``n`` answers.
        prompt_tokens: Number of tokens of the prompt.
        seed: Seed of the random numbers; the same seed gives the same draws again.
    """

    outputs: tuple[CompletionOutput, ...]
    prompt_tokens: int
    seed: int

    @classmethod
    def failed(cls, error: AdapterHubError, n: int) -> Self:
        """Return ``n`` answers of a request that could not be added."""
        return cls((CompletionOutput((), "", "error", error=error),) * n, 0, 0)

    @property
    def text(self) -> str:
        """Text of the first answer."""
        return self.outputs[0].text

    @property
    def tokens(self) -> tuple[int, ...]:
        """Token ids of the first answer."""
        return self.outputs[0].tokens

    @property
    def finish_reason(self) -> FinishReason:
        """Reason why the first answer ended."""
        return self.outputs[0].finish_reason

    @property
    def error(self) -> AdapterHubError | None:
        """First error among the answers, if any."""
        return next((output.error for output in self.outputs if output.error is not None), None)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the engine was built and its current load.

    Args:
        steps: Forward passes of generation.
        computed_tokens: Tokens whose keys and values were computed.
        preemptions: Sequences that were preempted, to be computed again.
        loads: Adapters loaded to the device.
        evictions: Adapters evicted from the device.
        pooled: Sequences of pooling requests that were computed.
        running: Sequences that are running.
        waiting: Sequences and pooling requests that are waiting.
        resident: Adapters on the device.
        free_rank_slots: Rank slots on the device that no adapter uses.
        fetches: Adapters fetched from the source.
        host_adapters: Adapters in host memory.
        host_bytes: Bytes of these adapters.
        free_blocks: Free blocks of the KV cache.
        cache_bytes: Bytes of the KV cache.
    """

    steps: int
    computed_tokens: int
    preemptions: int
    loads: int
    evictions: int
    pooled: int
    running: int
    waiting: int
    resident: int
    free_rank_slots: int
    fetches: int
    host_adapters: int
    host_bytes: int
    free_blocks: int
    cache_bytes: int
