"""A base model with its first layers only, which has one of each kind.

Layers of the same structure compute the same function of their weights, so a forward pass over a
few of them shows what all of them would, in a fraction of the time and with less rounding.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Fewest layers, so that what one layer mixes up reaches another.
FEWEST_LAYERS = 2


def num_distinct_layers(base_model: Any) -> int:
    """Return the length of the shortest prefix of layers that has all kinds of layers."""
    lists = _layer_lists(base_model)
    if not lists:
        return 0
    kinds: set[Any] = set()
    last, count = 0, len(lists[0])
    settings = vars(base_model.config.get_text_config()).values()
    # one entry per layer, such as its type, which some models read from the configuration
    named = [each for each in settings if isinstance(each, list | tuple) and len(each) == count]
    for index in range(count):
        kind = (
            *(_structure(layers[index]) for layers in lists),
            *(repr(each[index]) for each in named),
        )
        if kind not in kinds:
            kinds.add(kind)
            last = index
    return max(last + 1, FEWEST_LAYERS)


@contextmanager
def shallow(base_model: Any, layers: int) -> Iterator[None]:
    """Leave out all layers but the first ones inside the block.

    Args:
        layers: Number of layers to keep; all of them if 0.
    """
    lists = _layer_lists(base_model) if layers else []
    if not lists or layers >= len(lists[0]):
        yield
        return
    config = base_model.config.get_text_config()
    whole = [dict(each._modules) for each in lists]
    count = config.num_hidden_layers
    try:
        config.num_hidden_layers = layers
        for each, modules in zip(lists, whole, strict=True):
            each._modules = dict(list(modules.items())[:layers])
        yield
    finally:
        config.num_hidden_layers = count
        for each, modules in zip(lists, whole, strict=True):
            each._modules = modules


def _layer_lists(base_model: Any) -> list[nn.ModuleList]:
    """Return the outermost lists with one entry per layer."""
    count = getattr(base_model.config.get_text_config(), "num_hidden_layers", None)
    return list(_lists_of(base_model, count)) if isinstance(count, int) else []


def _lists_of(module: nn.Module, length: int) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) == length:
            yield child
        else:
            yield from _lists_of(child, length)


def _structure(layer: nn.Module) -> tuple[Any, ...]:
    """Return what distinguishes a layer beside its weights and its number."""
    return tuple(
        (
            name,
            type(module).__name__,
            tuple((key, tuple(p.shape)) for key, p in module.named_parameters(recurse=False)),
            tuple(sorted(_settings(module).items())),
        )
        for name, module in layer.named_modules()
    )


def _settings(module: nn.Module) -> dict[str, str]:
    return {
        name: repr(value)
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | type(None))
        and name not in ("layer_idx", "layer_id", "layer_number", "training")
    }
