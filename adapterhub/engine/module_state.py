"""What the modules of a model keep between forward passes, outside of the cache.

Some of transformers' classes keep a recurrent state, the largest position so far or the offsets of
a batch as attributes of their modules. Groups of sequences that take turns would overwrite each
other's, so each group gets its own.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

#: Attributes and buffers of a module by name.
_Attributes: TypeAlias = "dict[str, Any]"
#: A module and the name of what it keeps there, to the value.
KeptState: TypeAlias = "dict[tuple[nn.Module, str], Any]"

_SIMPLE = (torch.Tensor, int, float, type(None))


class ModuleState:
    """Finds and exchanges what modules keep between forward passes.

    Args:
        model: Model in the state in which every group begins.
    """

    def __init__(self, model: nn.Module) -> None:
        # adapted layers change when adapters are loaded, which concerns all groups
        own = [
            each for each in model.modules() if type(each).__module__.startswith("transformers.")
        ]
        self._modules = own
        self._fresh = [_attributes(module) for module in self._modules]
        #: modules to look at after every pass; all others are looked at after a first pass
        self._watched = {index for index, each in enumerate(self._modules) if each._buffers}

    @contextmanager
    def of(self, kept: KeptState, *, first: bool) -> Iterator[None]:
        """Let modules have what a group kept inside the block, and what they began with after it.

        Args:
            kept: State of the group, which is updated.
            first: Whether this is the first pass of the group.
        """
        for (module, name), value in kept.items():
            _set(module, name, value)
        try:
            yield
        finally:
            everything = range(len(self._modules)) if first else sorted(self._watched)
            for index in everything:
                self._take(index, kept)

    def _take(self, index: int, kept: KeptState) -> None:
        """Move what a module keeps now to ``kept``."""
        module, fresh = self._modules[index], self._fresh[index]
        for name, value in _attributes(module).items():
            before = fresh.get(name)
            if value is before or (not isinstance(value, torch.Tensor) and value == before):
                continue
            kept[module, name] = value
            self._watched.add(index)
            _set(module, name, before)


def holds_sequences(kept: KeptState) -> bool:
    """Return whether modules keep tensors that may be of single sequences; buffers never are."""
    return any(
        isinstance(value, torch.Tensor) and name not in module._buffers
        for (module, name), value in kept.items()
    )


def _attributes(module: nn.Module) -> _Attributes:
    own = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, _SIMPLE) and name != "training"
    }
    return own | module._buffers


def _set(module: nn.Module, name: str, value: Any) -> None:
    if name in module._buffers:
        module._buffers[name] = value
    else:
        vars(module)[name] = value
