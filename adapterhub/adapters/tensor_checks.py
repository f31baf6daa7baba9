"""Checks of an adapter's tensors against its configuration and against a model.

Keys are peft's (``get_peft_model_state_dict``): LoRA under ``base_model.model.<module>``, a
prefix as ``prompt_embeddings`` with its heads under ``base_model.<module>``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.adapters.peft_format import BASE_LAYER_KEY, EMBEDDING_PARTS, LINEAR_PARTS, LORA_KEY
from adapterhub.errors import ArtifactError, StrictLoadError, did_you_mean
from adapterhub.specs import AdapterSpec, LoraSpec, PrefixSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

PROMPT_KEY = "prompt_embeddings"
DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
#: Heads that peft adds to ``modules_to_save`` for ``SEQ_CLS``, ``TOKEN_CLS`` and
#: ``QUESTION_ANS``.
PEFT_HEADS = ("classifier", "score", "qa_outputs")


def check_tensors(
    spec: AdapterSpec,
    saved_modules: Sequence[str],
    tensors: Mapping[str, Tensor],
    *,
    place: str,
    values: bool = True,
) -> None:
    """Check keys, shapes, types and values of an adapter's tensors against its spec.

    Args:
        saved_modules: Names of modules stored in full (``modules_to_save``).
        values: Check every value for NaN and infinity, which reads the tensors.
    """
    for key, tensor in tensors.items():
        _check_dtype(tensor, f"{place}: {key}")
        if values:
            _check_values(tensor, f"{place}: {key}")
    full = (*saved_modules, *PEFT_HEADS)
    adapting = {key: tensor for key, tensor in tensors.items() if not _in_full(key, full)}
    if isinstance(spec, PrefixSpec):
        _check_prefix(spec, adapting, place)
        return
    # peft stores an embedding itself beside the LoRA on it; the engine compares it to its own
    lora = {k: tensor for k, tensor in adapting.items() if not _is_base(k, spec.target_modules)}
    _check_lora(spec, lora, place)


def check_tensors_match(
    place: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, Tensor]
) -> None:
    """Require that tensors and model match one to one, in names and shapes.

    Raises:
        StrictLoadError: With missing and unexpected tensors; a tensor of another shape counts as
            both, with its shapes.
    """
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    for key in expected.keys() & found.keys():
        if tuple(expected[key]) != tuple(found[key].shape):
            missing.append(f"{key} of shape {list(expected[key])}")
            unexpected.append(f"{key} of shape {list(found[key].shape)}")
    if missing or unexpected:
        raise StrictLoadError(place, missing, unexpected)


def _check_dtype(tensor: Tensor, place: str) -> None:
    if tensor.dtype not in DTYPES:
        known = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in DTYPES))
        raise ArtifactError(
            f"has type {str(tensor.dtype).removeprefix('torch.')}",
            place=place,
            hint=f"Known: {known}",
        )


def _check_values(tensor: Tensor, place: str) -> None:
    # a finite sum excludes NaN and infinity, and takes a third of the time of checking each value
    if torch.isfinite(tensor.sum(dtype=torch.float32)):
        return
    if not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise ArtifactError(
            f"{bad} of {tensor.numel()} values are NaN or infinite",
            place=place,
            hint="The training run diverged or the file is damaged",
        )


def _in_full(key: str, full: Sequence[str]) -> bool:
    prefix, _, path = key.partition(".")
    if prefix != "base_model" or LORA_KEY.fullmatch(key):
        return False
    module = path.rpartition(".")[0]
    return any(f".{name}." in f".{module}." for name in full)


def _check_prefix(spec: PrefixSpec, tensors: Mapping[str, Tensor], place: str) -> None:
    for key in sorted(tensors.keys() - {PROMPT_KEY}):
        raise _unexpected(key, tensors, place)
    if PROMPT_KEY not in tensors:
        raise ArtifactError(f"has no tensor {PROMPT_KEY!r}", place=place)
    shape = tensors[PROMPT_KEY].shape
    if len(shape) != 2 or shape[0] != spec.num_virtual_tokens:
        raise ArtifactError(
            f"has shape {list(shape)}, the configuration says {spec.num_virtual_tokens} tokens",
            place=f"{place}: {PROMPT_KEY}",
        )


def _check_lora(spec: LoraSpec, tensors: Mapping[str, Tensor], place: str) -> None:
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = LORA_KEY.fullmatch(key)
        if match is None or not _is_target(match["module"], spec.target_modules):
            raise _unexpected(key, tensors, place)
        modules.setdefault(match["module"], {})[match["part"]] = tensor
    for module in sorted(modules):
        _check_pair(spec, modules[module], f"{place}: {module}")
    for target in spec.target_modules:
        if not any(_is_target(module, (target,)) for module in modules):
            raise ArtifactError(f"has no tensor for the target module {target!r}", place=place)


def _check_pair(spec: LoraSpec, parts: Mapping[str, Tensor], place: str) -> None:
    embeds = any(part.startswith("lora_embedding") for part in parts)
    first, second = EMBEDDING_PARTS if embeds else LINEAR_PARTS
    wanted = {first, second}
    if spec.dora:
        wanted.add("lora_magnitude_vector")
    if wanted != parts.keys():
        found, needed = ", ".join(sorted(parts)), ", ".join(sorted(wanted))
        raise ArtifactError(f"has {found}, the configuration requires {needed}", place=place)
    down, up = parts[first].shape, parts[second].shape
    if len(down) != 2 or len(up) != 2 or down[0] != spec.rank or up[1] != spec.rank:
        raise ArtifactError(
            f"A has shape {list(down)} and B {list(up)}, the configuration says rank {spec.rank}",
            place=place,
        )
    if spec.dora and tuple(parts["lora_magnitude_vector"].shape) != (up[0],):
        shape = list(parts["lora_magnitude_vector"].shape)
        raise ArtifactError(f"the magnitude has shape {shape}, B has {list(up)}", place=place)


def _is_target(module: str, targets: Sequence[str]) -> bool:
    return any(
        target in ("all-linear", module) or module.endswith(f".{target}") for target in targets
    )


def _is_base(key: str, targets: Sequence[str]) -> bool:
    match = BASE_LAYER_KEY.fullmatch(key)
    return match is not None and _is_target(match["module"], targets)


def _unexpected(key: str, tensors: Mapping[str, Tensor], place: str) -> ArtifactError:
    return ArtifactError(
        "does not belong to an adapter of this configuration",
        place=f"{place}: {key}",
        hint=did_you_mean(key, tensors.keys() - {key}) if len(tensors) <= 12 else "",
    )
