"""A row of text on its way through the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapterhub.engine.slots import Blend

#: Stands for a position of a trained prefix, which has no token.
VIRTUAL = 0xFFFFFFFF


@dataclass(slots=True, eq=False)
class Sequence:
    """One row, its blocks and how far it has come.

    Args:
        number: counted up in the order of arrival.
        prompt: token ids.
        max_tokens: most tokens that are generated.
        stop_ids: tokens that end it; they are not part of the answer.
        adapters: keys and weights, in canonical order; empty for the bare backbone.
        virtual: positions of a trained prefix before the prompt.
    """

    number: int
    prompt: tuple[int, ...]
    max_tokens: int
    stop_ids: frozenset[int]
    adapters: tuple[tuple[str, float], ...] = ()
    virtual: int = 0
    output: list[int] = field(default_factory=list)
    #: positions whose keys and values are in the cache
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    #: names of the contents of its full blocks, as far as they are known
    chain: list[bytes] = field(default_factory=list)
    #: set while it is running
    blend: Blend | None = None
    finished: str = ""

    @property
    def key(self) -> str:
        """What the keys and values of its positions depend on beside its tokens."""
        return "+".join(f"{key}*{weight!r}" for key, weight in self.adapters)

    @property
    def cells(self) -> list[int]:
        """One entry a position: virtual positions, then prompt and answer so far."""
        return [*([VIRTUAL] * self.virtual), *self.prompt, *self.output]

    @property
    def length(self) -> int:
        """Number of its positions."""
        return self.virtual + len(self.prompt) + len(self.output)

    def tokens(self, start: int, end: int) -> list[int]:
        """Return the token ids of positions ``start`` to ``end``, none of them virtual."""
        return [*self.prompt, *self.output][start - self.virtual : end - self.virtual]
