"""Modules of a model class shared with a loaded base model, and initialisation of the others."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import AutoModel, PreTrainedModel

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Containers whose own ``forward`` is never called; peft can only replace their members.
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


class AbsentModule(nn.Module):
    """Stands where the file has no weights; returns its input."""

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        """Return the first argument."""
        return x


def base_child(model: PreTrainedModel) -> str | None:
    """Return the name of the child that is the base model of a class for a task, if it has one."""
    if isinstance(getattr(model, model.base_model_prefix, None), nn.Module):
        return model.base_model_prefix
    found = [name for name, child in model.named_children() if isinstance(child, PreTrainedModel)]
    return found[0] if len(found) == 1 else None


def model_without_head(model: PreTrainedModel) -> PreTrainedModel:
    """Return the base model of a class that holds encoder and decoder itself, as T5's does.

    Raises:
        ValueError: If transformers has no class for it.
    """
    with torch.device("meta"):
        found: PreTrainedModel = AutoModel.from_config(copy.deepcopy(model.config))
    share_modules(found, model)
    found.config = model.config
    return found


def share_modules(model: PreTrainedModel, base_model: nn.Module) -> None:
    """Replace the modules of a class on the meta device by those of a loaded base model.

    What the base model lacks stays on the meta device. Modules that the class omits, such as a
    pooler that it does not use, are left out, and the base model is not changed.
    """
    name = base_child(model)
    child = None if name is None else getattr(model, name)
    if name is None or child is None:
        _share_children(model, base_model)
    elif _replaces(child, base_model):
        setattr(model, name, base_model)
    elif name == model.base_model_prefix:
        _share_children(child, base_model)
        # layers read settings such as the attention implementation there
        child.config = base_model.config
    else:
        _share_children(model, base_model)


def new_modules(
    model: PreTrainedModel, shared: set[int], place: str, separate: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the paths of modules that share nothing, each with everything below it.

    Args:
        shared: Identities of the tensors of the loaded modules, by ``tensor_ids``.
        separate: Ends of names of modules that must be listed themselves.

    Raises:
        BackboneError: If a parameter belongs to no module that can be stored with an adapter.
    """
    return tuple(_new_paths(model, "", shared, place, separate))


def tensor_ids(modules: Iterable[nn.Module]) -> set[int]:
    """Return the identities of all parameters and buffers of some modules."""
    return {
        id(tensor) for module in modules for tensor in (*module.parameters(), *module.buffers())
    }


def initialize_modules(
    model: PreTrainedModel, shared: set[int], device: torch.device, place: str
) -> None:
    """Initialise what is not shared as the class does, in float32."""
    with torch.no_grad():
        for module, owner in _with_owners(model, model):
            if _new_tensors(module, shared):
                _initialize(module, owner, shared, device, place)


def _replaces(template: nn.Module, module: nn.Module) -> bool:
    """Return whether a loaded module has the parts of a template, and no others.

    A layer that was quantized, or that an adapter wraps, has the template's place.
    """
    if isinstance(module, AbsentModule):
        return False
    if not template._modules or isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return True
    present = {name for name, child in module._modules.items() if child is not None}
    expected = {name for name, child in template._modules.items() if child is not None}
    return (
        isinstance(module, type(template))
        and present == expected
        and all(_replaces(template._modules[name], module._modules[name]) for name in expected)
    )


def _share_children(template: nn.Module, source: nn.Module) -> None:
    for name, child in list(template.named_children()):
        own = getattr(source, name, None)
        if not isinstance(own, nn.Module) or isinstance(own, AbsentModule):
            continue
        if _replaces(child, own):
            setattr(template, name, own)
        else:
            _share_children(child, own)
    for tensors, own_tensors in (
        (template._parameters, source._parameters),
        (template._buffers, source._buffers),
    ):
        for name, tensor in list(tensors.items()):
            own_tensor = own_tensors.get(name)
            if tensor is not None and own_tensor is not None and tensor.shape == own_tensor.shape:
                tensors[name] = own_tensor


def _new_tensors(module: nn.Module, shared: set[int]) -> list[str]:
    tensors = {**module._parameters, **module._buffers}
    return [n for n, tensor in tensors.items() if tensor is not None and id(tensor) not in shared]


def _new_paths(
    module: nn.Module, path: str, shared: set[int], place: str, separate: tuple[str, ...]
) -> Iterator[str]:
    holders = [each for each in module.modules() if _has_parameters(each)]
    new = {id(each) for each in holders if _new_tensors(each, shared)}
    if not new:
        return
    inside = any(name.endswith(separate) for name, _ in module.named_modules() if name)
    replaceable = bool(path) and not isinstance(module, _CONTAINERS) and not inside
    if replaceable and all(id(each) in new for each in holders):
        yield path
        return
    if id(module) in new:
        raise BackboneError(
            f"{type(module).__name__} holds parameters of its own that an adapter can't store: "
            f"{', '.join(_new_tensors(module, shared))}",
            place=place,
            hint="Use another backbone for this task",
        )
    for name, child in module.named_children():
        yield from _new_paths(child, f"{path}.{name}" if path else name, shared, place, separate)


def _has_parameters(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())


def _with_owners(
    module: nn.Module, owner: PreTrainedModel
) -> Iterator[tuple[nn.Module, PreTrainedModel]]:
    """Yield modules after their children, each with the model that initialises it."""
    for child in module.children():
        yield from _with_owners(child, child if isinstance(child, PreTrainedModel) else owner)
    yield module, owner


def _initialize(
    module: Any, owner: PreTrainedModel, shared: set[int], device: torch.device, place: str
) -> None:
    new = _new_tensors(module, shared)
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in new:
            # transformers' initialisation leaves marked tensors as they are
            tensor._is_hf_initialized = True
    for name in new:
        fresh = _unset(module._parameters.get(name, module._buffers.get(name)), device)
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(fresh, requires_grad=fresh.is_floating_point())
        else:
            module._buffers[name] = fresh
    owner._init_weights(module)
    if any(_is_unset(parameter) for parameter in module._parameters.values()):
        if not hasattr(module, "reset_parameters"):
            raise BackboneError(
                f"{type(owner).__name__} does not initialise {type(module).__name__}", place=place
            )
        module.reset_parameters()


def _unset(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if tensor.is_floating_point():
        return torch.full(tensor.shape, math.nan, dtype=torch.float32, device=device)
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)


def _is_unset(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and parameter.is_floating_point() and bool(parameter.isnan().any())
