"""The adapters of each token of a forward pass, for layers that receive no extra argument.

transformers' modules hand no argument down to their linear layers, so an adapted layer reads
the context of its forward pass from the one context variable of this package. It is set only
while a forward pass runs.
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
    """Number of tokens and blend of each sequence of a forward pass, in batch order."""

    def __init__(self, uses: Sequence[tuple[int, Blend]]) -> None:
        """Describe a batch."""
        self.uses = tuple(uses)
        self._layer_sets = tuple({slot.layers for _, blend in uses for slot, _ in blend.slots})
        #: whether an adapter of the batch replaces norm layers
        self.norms = any(slot.norms for _, blend in uses for slot, _ in blend.slots)
        self._plans: dict[tuple[tuple[bool, ...], int], LoraPlan | None] = {}
        self._layer_plans: dict[int, LoraPlan | None] = {}

    def plan(self, layer: int, num_tokens: int | None = None) -> LoraPlan | None:
        """Return which tokens use which rank slots in a layer, or ``None`` where none does.

        Args:
            layer: Number of the adapted layer.
            num_tokens: Number of tokens that the layer received; of the batch where the
                sequences are texts.
        """
        if layer not in self._layer_plans:
            self._layer_plans[layer] = self._shared_plan(layer)
        return self._layer_plans[layer]

    def _shared_plan(self, layer: int, repeat: int = 1) -> LoraPlan | None:
        # layers that the same adapters change share a plan; mostly all of them do
        key = (tuple([layer in layers for layers in self._layer_sets]), repeat)
        if key not in self._plans:
            uses = [(count * repeat, blend.slices(layer)) for count, blend in self.uses]
            self._plans[key] = build_plan(uses)
        return self._plans[key]


class ImageForwardContext(ForwardContext):
    """Blend of each image of a batch of images of one size.

    All images have the same number of tokens, which differs between layers: Swin merges tokens
    after each stage and reads them in windows. The tokens of one image always lie together, in
    batch order.
    """

    def __init__(self, blends: Sequence[Blend]) -> None:
        """Describe a batch."""
        super().__init__([(1, blend) for blend in blends])

    def plan(self, layer: int, num_tokens: int | None = None) -> LoraPlan | None:
        """Return which tokens use which rank slots in a layer, or ``None`` where none does."""
        per_image, rest = divmod(num_tokens or 0, len(self.uses))
        if rest or not per_image:
            raise EngineError(
                f"a layer received {num_tokens} tokens of {len(self.uses)} images, "
                "which is no whole number per image"
            )
        return self._shared_plan(layer, per_image)


_CONTEXT: ContextVar[ForwardContext | None] = ContextVar("forward_context", default=None)


def get_forward_context() -> ForwardContext | None:
    """Return the context of the running forward pass, or ``None`` outside of one."""
    return _CONTEXT.get()


@contextmanager
def set_forward_context(context: ForwardContext) -> Iterator[None]:
    """Make a context the current one while the block runs."""
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)
