"""A row of text on its way through the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.constraints import Constraint
    from adapterhub.engine.detokenizer import IncrementalDetokenizer
    from adapterhub.engine.sampling.logprobs import TokenLogprobs
    from adapterhub.engine.sampling.state import SamplingState
    from adapterhub.errors import AdapterHubError

#: Stands for a position of a trained prefix, which has no token.
VIRTUAL = 0xFFFFFFFF

#: Why an answer ended: by an end token or a stop string, by its length, by its client, by a fault.
FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(slots=True, eq=False)
class Sequence:
    """One row, its blocks and how far it has come.

    Args:
        number: counted up in the order of arrival.
        prompt: token ids.
        state: its settings, tokens and random stream.
        adapters: keys and weights, in canonical order; empty for the bare backbone.
        virtual: positions of a trained prefix before the prompt; known when it is settled.
        stream: its text, where text is wanted.
        constraint: that its text follows, if any.
    """

    number: int
    prompt: tuple[int, ...]
    state: SamplingState
    adapters: tuple[tuple[str, float], ...] = ()
    virtual: int = 0
    stream: IncrementalDetokenizer | None = None
    constraint: Constraint | None = None
    #: pieces of its text so far
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    #: positions whose keys and values are in the cache
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    #: names of the contents of its full blocks, as far as they are known
    chain: list[bytes] = field(default_factory=list)
    #: whether its adapters were there once and can serve it
    settled: bool = False
    #: rows that came later and started while this one waited for nothing but the device
    overtaken: int = 0
    #: set while it is running
    blend: Blend | None = None
    finished: FinishReason | None = None
    error: AdapterHubError | None = None

    @property
    def output(self) -> list[int]:
        """Tokens of the answer so far, the one that ended it included."""
        return self.state.tokens

    @property
    def key(self) -> str:
        """What the keys and values of its positions depend on beside its tokens."""
        return "+".join(f"{key}*{weight!r}" for key, weight in self.adapters)

    @property
    def length(self) -> int:
        """Number of its positions."""
        return self.virtual + len(self.prompt) + len(self.output)

    def cells(self, start: int, end: int) -> list[int]:
        """Return what stands at positions ``start`` to ``end``: token ids, or ``VIRTUAL``."""
        if start >= self.virtual:
            return self.tokens(start, end)
        return [VIRTUAL] * (min(end, self.virtual) - start) + self.tokens(
            self.virtual, max(end, self.virtual)
        )

    def tokens(self, start: int, end: int) -> list[int]:
        """Return the token ids of positions ``start`` to ``end``, none of them virtual."""
        first, last = start - self.virtual, end - self.virtual
        own = len(self.prompt)
        if first >= own:
            return self.output[first - own : last - own]
        return [*self.prompt[first:last], *self.output[: max(last - own, 0)]]
