"""Modules of a model that an adapter changes: LoRA targets, and modules stored in full."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapterhub.adapters.peft_format import ALL_LINEAR
from adapterhub.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

#: ``self.NAME.weight`` where it is read whole, and not its type, place or shape alone.
_WEIGHT_READ = re.compile(
    r"self\.(\w+)\.weight\b(?!\.(?:dtype|device|shape|_is_hf_initialized)\b|\[)"
)


def resolve_target_modules(
    model: nn.Module,
    targets: tuple[str, ...],
    *,
    exclude: Sequence[str],
    lost: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the sorted module names that peft must match to adapt the targeted linear layers.

    A name is the last component of a module's path, or its last components where the last one
    alone would also match a module that is not adapted (``output.dense`` beside
    ``classifier.dense``).

    Args:
        targets: Suffixes of module names, or ``("all-linear",)``.
        exclude: Paths of heads and other modules that must not be adapted.
        lost: Paths of layers whose adapter peft does not load; ``all-linear`` leaves them out.

    Raises:
        RecipeError: If a target matches no layer, or one of ``lost``.
    """
    # bitsandbytes' quantized layers are subclasses of nn.Linear
    linear = [name for name, module in model.named_modules() if is_linear_layer(module)]
    heads = [name for name in linear if any(_is_inside(name, path) for path in exclude)]
    unfit = sorted(_read_by_weight(model) & {*linear}.difference(heads))
    skipped = {*heads, *unfit, *lost}
    layers = [name for name in linear if name not in skipped]
    # a layer of an nn.Sequential has a number for a name, as a block of the model has
    others = _suffixes(name for name, _ in model.named_modules() if name not in {*layers})
    if not targets:
        raise RecipeError("no module is named", place="adapter.target_modules")
    resolved = set[str]()
    for target in targets:
        _check_loadable(target, layers, lost, others)
        matched = [name for name in layers if target == ALL_LINEAR or _matches(name, target)]
        if not matched:
            raise _no_match(model, target, layers, unfit)
        parts = 1 if target == ALL_LINEAR else target.count(".") + 1
        resolved.update(_shortest(name, parts, others) for name in matched)
    return tuple(sorted(resolved))


def check_target_parameters(model: nn.Module, names: Sequence[str]) -> None:
    """Check that each name is the end of a parameter's name, as peft matches them."""
    known = [name for name, _ in model.named_parameters()]
    for name in names:
        if not any(_matches(each, name) for each in known):
            ends = {".".join(each.split(".")[-2:]) for each in known}
            raise RecipeError(
                f"{name!r} matches no parameter",
                place="adapter.target_parameters",
                hint=did_you_mean(name, ends),
            )


def saved_module_names(model: nn.Module, paths: Sequence[str], prefix: str) -> list[str]:
    """Return names by which peft finds the modules at some paths, and nothing else.

    peft compares the ends of names, and leaves out of LoRA whatever a name occurs in.

    Args:
        paths: Paths of modules that are trained and stored in full.
        prefix: Path of ``model`` in the model that peft searches, with a dot at the end.
    """
    modules = [name for name, _ in model.named_modules(remove_duplicate=False)]
    return [_saved_name(modules, path, paths, prefix) for path in paths]


def _saved_name(modules: Sequence[str], path: str, paths: Sequence[str], prefix: str) -> str:
    components = f"{prefix}{path}".split(".")
    names = [".".join(components[-length:]) for length in range(1, len(components) + 1)]
    wanted = {f"{prefix}{each}" for each in paths}
    for name in names:
        inside = re.compile(rf"(^|.*\.){name}($|\..*)")
        found = {f"{prefix}{module}" for module in modules}
        matched = {each for each in found if each.endswith(name)}
        excluded = (module for module in modules if inside.match(module))
        if matched <= wanted and all(any(_is_inside(m, p) for p in paths) for m in excluded):
            return name
    raise RecipeError(
        f"peft can't tell the head's module {path!r} from others of the backbone",
        place="backbone.name",
        hint="Use another backbone for this task",
    )


def is_linear_layer(module: nn.Module) -> bool:
    """Return whether a module maps vectors to vectors by one matrix.

    An architecture's own subclass may return something else, such as a router of experts.
    """
    if not isinstance(module, nn.Linear | Conv1D):
        return False
    if not type(module).forward.__module__.startswith("transformers.models."):
        return True
    linear: Any = module
    weight: torch.Tensor = linear.weight
    vector = torch.zeros(1, linear.in_features, dtype=weight.dtype, device=weight.device)
    try:
        with torch.no_grad():
            found = linear(vector)
    except (RuntimeError, TypeError):
        # it takes groups of vectors, or other arguments as well
        return False
    return isinstance(found, torch.Tensor) and tuple(found.shape) == (1, linear.out_features)


def _read_by_weight(model: nn.Module) -> set[str]:
    """Return the names of modules whose parent reads their weight, past any adapter on them."""
    reads: dict[type[nn.Module], set[str]] = {}
    found = set[str]()
    for name, module in model.named_modules():
        kind = type(module)
        if kind not in reads:
            reads[kind] = _weights_read(kind)
        found.update(f"{name}.{child}" if name else child for child in reads[kind])
    return found


def _weights_read(parent: type[nn.Module]) -> set[str]:
    found = set[str]()
    for name, method in inspect.getmembers(parent, inspect.isfunction):
        own = method.__module__ == parent.__module__ or ".models." in method.__module__
        if own and "init" not in name:
            try:
                found.update(_WEIGHT_READ.findall(inspect.getsource(method)))
            except (OSError, TypeError):
                continue
    return found


def _shortest(name: str, parts: int, others: Collection[str]) -> str:
    """Return the end of a name, of some parts at least, that no other module's name has."""
    components = name.split(".")
    ends = (".".join(components[-length:]) for length in range(parts, len(components) + 1))
    return next((end for end in ends if end not in others), name)


def _suffixes(names: Iterable[str]) -> set[str]:
    found = set[str]()
    for name in names:
        components = name.split(".")
        found.update(".".join(components[start:]) for start in range(len(components)))
    return found


def _matches(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _is_inside(module: str, path: str) -> bool:
    return module == path or module.startswith(f"{path}.")


def _check_loadable(
    target: str, layers: Sequence[str], lost: Collection[str], others: Collection[str]
) -> None:
    found = [name for name in lost if _matches(name, target)]
    if found:
        known = sorted({_shortest(name, 1, others) for name in layers})
        raise RecipeError(
            f"{target!r} matches {found[0]!r}, whose adapter peft does not load back",
            place="adapter.target_modules",
            hint=f"Name others: {', '.join(known)}" if known else "Use another backbone",
        )


def _no_match(
    model: nn.Module, target: str, layers: Sequence[str], unfit: Sequence[str]
) -> RecipeError:
    known = {name.rpartition(".")[2] for name in layers} | {ALL_LINEAR}
    if target == ALL_LINEAR or any(_matches(name, target) for name in unfit):
        problem = (
            "finds no linear layer that can be adapted"
            if target == ALL_LINEAR
            else "can't be adapted: the backbone reads the weight instead of calling the layer"
        )
        others = sorted(known - {ALL_LINEAR})
        hint = f"Layers that can: {', '.join(others)}" if others else "Use another backbone"
        return RecipeError(f"{target!r} {problem}", place="adapter.target_modules", hint=hint)
    exists = any(_matches(name, target) for name, _ in model.named_modules())
    problem = "is not a linear layer of the backbone" if exists else "matches no module"
    return RecipeError(
        f"{target!r} {problem}", place="adapter.target_modules", hint=did_you_mean(target, known)
    )
