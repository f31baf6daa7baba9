"""What one forward pass is about, and the one hidden channel that tells the layers of it.

transformers' modules hand no argument down to their linear layers, so a layer finds the step
that it computes for in a context variable. It is set here and nowhere else, and only while a
forward pass runs.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from adapterhub.errors import EngineError
from adapterhub.kernels.lora.plan import build_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.kernels.lora.plan import LoraPlan


class ForwardContext:
    """The rows of a forward pass, as layers with adapters see them."""

    def __init__(self, uses: Sequence[tuple[int, Blend]]) -> None:
        """Describe a batch.

        Args:
            uses: number of tokens of each row and the blend that they use, in the order of
                the batch.
        """
        self.uses = tuple(uses)
        self._site_sets = tuple({slot.sites for _, blend in uses for slot, _ in blend.slots})
        #: whether a row has norm layers of its own
        self.norms = any(slot.norms for _, blend in uses for slot, _ in blend.slots)
        self._plans: dict[tuple[bool, ...], LoraPlan | None] = {}
        self._site_plans: dict[int, LoraPlan | None] = {}

    def plan(self, site: int, tokens: int | None = None) -> LoraPlan | None:
        """Return which tokens use which rank rows at a site; ``None`` where none does.

        Args:
            site: number of it.
            tokens: that come to the layer; those of the batch, where rows are texts.
        """
        if site not in self._site_plans:
            self._site_plans[site] = self._shared_plan(site)
        return self._site_plans[site]

    def _shared_plan(self, site: int) -> LoraPlan | None:
        # sites that the same adapters have share a plan; mostly all of them do
        key = tuple([site in sites for sites in self._site_sets])
        if key not in self._plans:
            self._plans[key] = build_plan(
                [(count, blend.parts(site)) for count, blend in self.uses]
            )
        return self._plans[key]


class ImageForwardContext(ForwardContext):
    """Pictures of one size: all have as many tokens, and not the same number in every layer.

    A Swin reads a quarter of them after each stage, and in windows; but what belongs to one
    picture always lies together, in the order of the batch.
    """

    def __init__(self, blends: Sequence[Blend]) -> None:
        """Describe a batch.

        Args:
            blends: of each picture.
        """
        super().__init__([(1, blend) for blend in blends])
        self._sized_plans: dict[tuple[tuple[bool, ...], int], LoraPlan | None] = {}

    def plan(self, site: int, tokens: int | None = None) -> LoraPlan | None:
        """Return which tokens use which rank rows at a site; ``None`` where none does.

        Raises:
            EngineError: when pictures do not share the tokens evenly.
        """
        each, rest = divmod(tokens or 0, len(self.uses))
        if rest or not each:
            raise EngineError(f"{tokens} tokens of {len(self.uses)} pictures come to a layer")
        key = (tuple([site in sites for sites in self._site_sets]), each)
        if key not in self._sized_plans:
            self._sized_plans[key] = build_plan(
                [(each, blend.parts(site)) for _, blend in self.uses]
            )
        return self._sized_plans[key]


_STEP: ContextVar[ForwardContext | None] = ContextVar("step", default=None)


def get_forward_context() -> ForwardContext | None:
    """Return the step that a forward pass runs for, or ``None`` outside of any."""
    return _STEP.get()


@contextmanager
def set_forward_context(step: ForwardContext) -> Iterator[None]:
    """Make ``step`` the current one."""
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)
