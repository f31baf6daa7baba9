"""Resolution of LoRA target modules against a model's linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from adapterhub.adapters.peft_format import ALL_LINEAR
from adapterhub.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def resolve_target_modules(
    model: nn.Module, targets: tuple[str, ...], *, exclude: Sequence[str]
) -> tuple[str, ...]:
    """Return the sorted module names that peft must match to adapt the targeted linear layers.

    A name is the last component of a module's path, or its last components where the last one
    alone would also match an excluded module (``output.dense`` beside ``classifier.dense``).

    Args:
        targets: Suffixes of module names, or ``("all-linear",)``.
        exclude: Names of heads and other modules that must not be adapted.
    """
    # bitsandbytes' quantized layers are subclasses of nn.Linear
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    heads = [name for name in linear if _is_excluded(name, exclude)]
    layers = [name for name in linear if not _is_excluded(name, exclude)]
    if not targets:
        raise RecipeError("no module is named", place="adapter.target_modules")
    resolved = set[str]()
    for target in targets:
        matched = [name for name in layers if target == ALL_LINEAR or _matches(name, target)]
        if not matched:
            raise _no_match(model, target, layers)
        parts = 1 if target == ALL_LINEAR else target.count(".") + 1
        resolved.update(_shortest(name, parts, heads) for name in matched)
    return tuple(sorted(resolved))


def _shortest(name: str, parts: int, heads: Collection[str]) -> str:
    components = name.split(".")
    for length in range(parts, len(components) + 1):
        suffix = ".".join(components[-length:])
        if not any(_matches(head, suffix) for head in heads):
            return suffix
    return name


def _matches(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _is_excluded(module: str, exclude: Sequence[str]) -> bool:
    components = module.split(".")
    parents = [".".join(components[:length]) for length in range(1, len(components) + 1)]
    return any(_matches(parent, name) for parent in parents for name in exclude)


def _no_match(model: nn.Module, target: str, layers: Sequence[str]) -> RecipeError:
    exists = any(_matches(name, target) for name, _ in model.named_modules())
    problem = "is not a linear layer of the backbone" if exists else "matches no module"
    known = {name.rpartition(".")[2] for name in layers} | {ALL_LINEAR}
    return RecipeError(
        f"{target!r} {problem}", place="adapter.target_modules", hint=did_you_mean(target, known)
    )
