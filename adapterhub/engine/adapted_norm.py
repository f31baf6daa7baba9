"""Norm layers that an adapter holds in full (``modules_to_save``), each used by its own rows."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from torch import nn

from adapterhub.engine.forward_context import get_forward_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle


class AdaptedNorm:
    """A norm layer, left where it is, and what adapters have in its place.

    Args:
        base: the norm layer.
        number: of the site, which steps and slots know it by.
        heads_first: whether it gets ``[1, heads, tokens, width]``, as Gemma's norms of queries
            and keys do, and not ``[1, tokens, ...]``.
    """

    def __init__(self, base: nn.Module, number: int, *, heads_first: bool) -> None:
        self.base = base
        self.number = number
        self._axis = 2 if heads_first else 1
        #: first rank row of an adapter to its own layer
        self._own: dict[int, nn.Module] = {}
        self._hook: RemovableHandle | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Its parameters by name."""
        return {name: tuple(value.shape) for name, value in self.base.named_parameters()}

    def hold(self, row: int, parameters: Mapping[str, Tensor]) -> None:
        """Take in an adapter's layer; its rows are known by its first rank row."""
        own = copy.copy(self.base)
        own._forward_hooks = OrderedDict()
        own._parameters = {
            name: nn.Parameter(parameters[name].to(value.device, value.dtype), requires_grad=False)
            for name, value in self.base.named_parameters()
        }
        self._own[row] = own
        if self._hook is None:
            self._hook = self.base.register_forward_hook(self._replace)

    def forget_rows(self, row: int) -> None:
        """Drop an adapter's layer."""
        self._own.pop(row, None)
        if not self._own:
            self.close()

    def close(self) -> None:
        """Leave the layer as it was."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _replace(self, _base: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        step = get_forward_context()
        plan = step.plan(self.number) if step is not None else None
        if plan is None:
            return None
        for start, end, parts in plan.runs:
            # an adapter with norm layers is never blended, so it is the only part
            own = self._own[parts[0].start]
            place = output.narrow(self._axis, start, end - start)
            place.copy_(own(args[0].narrow(self._axis, start, end - start)))
        return output
