"""Checks of an adapter's tensors against its configuration and against a model.

Keys are peft's (``get_peft_model_state_dict``): LoRA under ``base_model.model.<module>``, a
prefix as ``prompt_embeddings`` with its heads under ``base_model.<module>``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from adapterhub.adapters.peft_format import (
    BIAS_KEY,
    EMBEDDING_PARTS,
    IA3_KEY,
    LINEAR_PARTS,
    LORA_BIAS_PART,
    LORA_KEY,
    TOKENS_KEY,
    WEIGHT_KEY,
    in_saved_module,
)
from adapterhub.errors import ArtifactError, StrictLoadError, did_you_mean
from adapterhub.specs import AdapterSpec, Ia3Spec, LoraSpec, PrefixSpec, PromptSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


PROMPT_KEY = "prompt_embeddings"
DTYPES = frozenset({"float32", "float16", "bfloat16"})
#: Heads that peft adds to ``modules_to_save`` for ``SEQ_CLS``, ``TOKEN_CLS`` and
#: ``QUESTION_ANS``.
PEFT_HEADS = ("classifier", "score", "qa_outputs")


class TensorLike(Protocol):
    """A tensor, or its description in the header of a file."""

    @property
    def dtype(self) -> Any:
        """Type of the values."""

    @property
    def shape(self) -> Sequence[int]:
        """Sizes of the dimensions."""

    def dim(self) -> int:
        """Return the number of dimensions."""


def check_tensors(
    spec: AdapterSpec,
    saved_modules: Sequence[str],
    tensors: Mapping[str, TensorLike],
    *,
    place: str,
) -> None:
    """Check keys, shapes and types of an adapter's tensors against its spec.

    Args:
        saved_modules: Names of modules stored in full (``modules_to_save``).
    """
    for key, tensor in tensors.items():
        _check_dtype(tensor, f"{place}: {key}")
    full = (*saved_modules, *PEFT_HEADS)
    adapting = {key: tensor for key, tensor in tensors.items() if not _in_full(key, full)}
    match spec:
        case PrefixSpec() | PromptSpec():
            _check_prompt(spec.num_virtual_tokens, adapting, place)
        case Ia3Spec():
            _check_ia3(spec, adapting, place)
        case LoraSpec():
            _check_lora(spec, _without_copies(spec, adapting), place)


def check_tensors_match(
    place: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, TensorLike]
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


def _check_dtype(tensor: TensorLike, place: str) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ArtifactError(
            f"has type {dtype}", place=place, hint=f"Known: {', '.join(sorted(DTYPES))}"
        )


def _in_full(key: str, full: Sequence[str]) -> bool:
    if not key.startswith("base_model.") or LORA_KEY.fullmatch(key):
        return False
    return in_saved_module(key, full)


def _check_prompt(num_tokens: int, tensors: Mapping[str, TensorLike], place: str) -> None:
    for key in sorted(tensors.keys() - {PROMPT_KEY}):
        raise _unexpected(key, tensors, place)
    if PROMPT_KEY not in tensors:
        raise ArtifactError(f"has no tensor {PROMPT_KEY!r}", place=place)
    shape = tensors[PROMPT_KEY].shape
    if len(shape) != 2 or shape[0] != num_tokens:
        raise ArtifactError(
            f"has shape {list(shape)}, the configuration says {num_tokens} tokens",
            place=f"{place}: {PROMPT_KEY}",
        )


def _check_ia3(spec: Ia3Spec, tensors: Mapping[str, TensorLike], place: str) -> None:
    for key, tensor in tensors.items():
        match = IA3_KEY.fullmatch(key)
        if match is None or not _is_target(match["module"], spec.target_modules):
            raise _unexpected(key, tensors, place)
        axis = 0 if _is_target(match["module"], spec.feedforward_modules) else 1
        if tensor.dim() != 2 or tensor.shape[axis] != 1:
            wanted = "[1, in_features]" if axis == 0 else "[out_features, 1]"
            raise ArtifactError(
                f"has shape {list(tensor.shape)}, must be {wanted}", place=f"{place}: {key}"
            )
    modules = [match["module"] for match in map(IA3_KEY.fullmatch, tensors) if match]
    _check_all_targets(spec.target_modules, modules, place)


def _without_copies(spec: LoraSpec, tensors: Mapping[str, TensorLike]) -> dict[str, TensorLike]:
    """Return the tensors without layers in full: of the vocabulary, and biases if they have any.

    The engine compares them to the backbone's own.
    """
    return {
        key: tensor
        for key, tensor in tensors.items()
        if not (tensor.dim() == 2 and WEIGHT_KEY.fullmatch(key))
        and not (spec.bias != "none" and BIAS_KEY.fullmatch(key) and not LORA_KEY.fullmatch(key))
    }


def _check_lora(spec: LoraSpec, tensors: Mapping[str, TensorLike], place: str) -> None:
    modules: dict[str, dict[str, TensorLike]] = {}
    for key, tensor in tensors.items():
        if spec.trainable_token_indices and (match := TOKENS_KEY.fullmatch(key)):
            _check_tokens(spec, match["module"], tensor, f"{place}: {key}")
            continue
        match = LORA_KEY.fullmatch(key)
        if match is None or not (
            spec.target_parameters or _is_target(match["module"], spec.target_modules)
        ):
            raise _unexpected(key, tensors, place)
        modules.setdefault(match["module"], {})[match["part"]] = tensor
    for module in sorted(modules):
        _check_pair(spec, module, modules[module], f"{place}: {module}")
    _check_all_targets(spec.target_modules, modules, place)


def _check_all_targets(targets: Sequence[str], modules: Iterable[str], place: str) -> None:
    for target in targets:
        if not any(_is_target(module, (target,)) for module in modules):
            raise ArtifactError(f"has no tensor for the target module {target!r}", place=place)


def _check_tokens(spec: LoraSpec, module: str, tensor: TensorLike, place: str) -> None:
    indices = spec.trainable_token_indices
    counts = [len(ids) for name, ids in indices.items() if _is_target(module, (name,))]
    # a list of tokens belongs to the input embedding, whatever its name
    count = counts[0] if counts else len(next(iter(indices.values())))
    if tensor.dim() != 2 or tensor.shape[0] != count:
        raise ArtifactError(
            f"has shape {list(tensor.shape)}, the configuration says {count} tokens", place=place
        )


def _check_pair(spec: LoraSpec, module: str, parts: Mapping[str, TensorLike], place: str) -> None:
    embeds = any(part.startswith("lora_embedding") for part in parts)
    first, second = EMBEDDING_PARTS if embeds else LINEAR_PARTS
    wanted = {first, second}
    if spec.dora:
        wanted.add("lora_magnitude_vector")
    # peft ignores the setting for embeddings
    if spec.lora_bias and not embeds:
        wanted.add(LORA_BIAS_PART)
    if wanted != parts.keys():
        found, needed = ", ".join(sorted(parts)), ", ".join(sorted(wanted))
        raise ArtifactError(f"has {found}, the configuration requires {needed}", place=place)
    _check_ranks(spec, module, (parts[first], parts[second]), place)
    for part in ("lora_magnitude_vector", LORA_BIAS_PART):
        if part in parts and tuple(parts[part].shape) != (parts[second].shape[0],):
            name = "magnitude" if "magnitude" in part else "bias"
            raise ArtifactError(
                f"the {name} has shape {list(parts[part].shape)}, "
                f"B has {list(parts[second].shape)}",
                place=place,
            )


def _check_ranks(
    spec: LoraSpec, module: str, pair: tuple[TensorLike, TensorLike], place: str
) -> None:
    rank = spec.rank_of(module)
    down, up = (tensor.shape for tensor in pair)
    matrices = len(down) == 2 and len(up) == 2
    # the factors of a mixture's experts are stacked along the rank
    experts = bool(spec.target_parameters) and matrices and down[0] % rank == 0 == up[1] - down[0]
    if not matrices or not (experts or (down[0] == rank and up[1] == rank)):
        raise ArtifactError(
            f"A has shape {list(down)} and B {list(up)}, the configuration says rank {rank}",
            place=place,
        )


def _is_target(module: str, targets: Sequence[str]) -> bool:
    return any(
        target in ("all-linear", module) or module.endswith(f".{target}") for target in targets
    )


def _unexpected(key: str, tensors: Mapping[str, TensorLike], place: str) -> ArtifactError:
    return ArtifactError(
        "does not belong to an adapter of this configuration",
        place=f"{place}: {key}",
        hint=did_you_mean(key, tensors.keys() - {key}) if len(tensors) <= 12 else "",
    )
