"""Export to llama.cpp: a LoRA adapter, or a whole model, as a GGUF file."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gguf
import torch

from adapterhub.adapters.peft_format import LORA_KEY
from adapterhub.errors import ArtifactError
from adapterhub.integrations.gguf_layout import GgufLayout
from adapterhub.integrations.gguf_tokenizer import write_tokenizer
from adapterhub.specs import LoraSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.tasks.base import HeadKind

_MERGED = "Export the whole model with --merged"
#: Largest value of float16.
_FLOAT16_MAX = 65504.0


def check_generates(head: HeadKind, task: str, place: str) -> None:
    """Require a task that llama.cpp can compute.

    Raises:
        ArtifactError: For a head of its own, or an encoder-decoder.
    """
    if head == "causal_lm":
        return
    if head == "seq2seq_lm":
        problem, hint = "has an encoder-decoder as backbone", "Merge it with adapterhub merge"
    else:
        problem = f"has a head for {task}, which llama.cpp and Ollama can't compute"
        hint = "Export it with --format onnx, or merge it with adapterhub merge"
    raise ArtifactError(problem, place=place, hint=hint)


def write_gguf_adapter(
    path: Path, artifact: Artifact, config: Any, *, name: str, tied: bool
) -> None:
    """Write a LoRA adapter for llama.cpp, in float32.

    llama.cpp multiplies each product by ``adapter.lora.alpha / rank``; where a module has another
    scale, its ``B`` is multiplied by the rest.

    Args:
        path: File to write.
        artifact: Verified artifact.
        config: transformers' configuration of the backbone.
        name: Name of the adapter.
        tied: Whether the output layer of the backbone is its embedding.

    Raises:
        ArtifactError: If llama.cpp can't apply the adapter beside a model.
    """
    spec = artifact.weights.spec
    factors = _linear_factors(artifact, spec, name, tied=tied)
    layout = GgufLayout.of(config, name)
    # without an alpha llama.cpp scales by 1
    alpha = float(getattr(spec, "alpha", 0.0)) or 1.0
    with _writer(path, layout) as writer:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_description(artifact.digest)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for module, (down, up, scale) in factors.items():
            target = layout.name_of(module, name)
            rest = scale * down.shape[0] / alpha
            writer.add_tensor(f"{target}.weight.lora_a", _array(down, torch.float32, name))
            rows = layout.rows(module, up.float() * rest)
            writer.add_tensor(f"{target}.weight.lora_b", _array(rows, torch.float32, name))


def write_gguf_model(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    backbone: Path,
    *,
    name: str,
) -> None:
    """Write a whole model for llama.cpp: matrices in float16, vectors in float32.

    Args:
        path: File to write.
        model: transformers' causal LM, in float32.
        tokenizer: Its tokenizer.
        backbone: Folder of the backbone that the tokenizer is from.
        name: Name of the model.

    Raises:
        ArtifactError: If the architecture is not exported, or a weight is too large for float16.
        BackboneError: If the tokenizer is not exported.
    """
    config: Any = model.config
    layout = GgufLayout.of(config, name)
    with _writer(path, layout) as writer:
        writer.add_type(gguf.GGUFType.MODEL)
        layout.write_parameters(writer, name)
        write_tokenizer(writer, tokenizer, backbone, config.vocab_size)
        for extra, tensor in layout.extra_tensors(name).items():
            writer.add_tensor(extra, _array(tensor, torch.float32, name))
        # a tied output layer is listed once, as the embedding, and llama.cpp ties it again
        for key, parameter in model.named_parameters():
            module = key.removesuffix(".weight").removesuffix(".bias")
            dtype = torch.float32 if parameter.dim() == 1 else torch.float16
            rows = layout.rows(module, parameter.detach())
            writer.add_tensor(layout.name_of(key, name), _array(rows, dtype, name))


def _linear_factors(
    artifact: Artifact, spec: Any, place: str, *, tied: bool
) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Return ``A``, ``B`` and the scale of each module of a LoRA that llama.cpp can apply."""
    if not isinstance(spec, LoraSpec):
        raise _refused(f"llama.cpp applies LoRA adapters only, this is {spec.method!r}", place)
    if spec.dora:
        raise _refused("llama.cpp has no DoRA", place)
    if spec.target_parameters:
        raise _refused("changes parameters of experts", place)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in artifact.weights.tensors.items():
        match = LORA_KEY.fullmatch(key)
        if match is None or match["part"] not in ("lora_A.weight", "lora_B.weight"):
            raise _refused(f"llama.cpp's adapters have no place for {key!r}", place)
        parts.setdefault(match["module"], {})[match["part"]] = tensor
    if tied and "lm_head" in parts:
        raise _refused("changes an output layer that is tied to the embedding", place)
    return {
        module: (own["lora_A.weight"], own["lora_B.weight"], spec.scaling_of(module))
        for module, own in sorted(parts.items())
    }


def _refused(problem: str, place: str) -> ArtifactError:
    return ArtifactError(problem, place=place, hint=_MERGED)


@contextmanager
def _writer(path: Path, layout: GgufLayout) -> Iterator[gguf.GGUFWriter]:
    """Yield a writer of a file, whose contents are written at the end."""
    writer = gguf.GGUFWriter(path, layout.arch_name)
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _array(tensor: Tensor, dtype: torch.dtype, place: str) -> NDArray[Any]:
    if dtype == torch.float16 and float(tensor.abs().max()) > _FLOAT16_MAX:
        raise ArtifactError("a weight is too large for float16", place=place)
    found: NDArray[Any] = tensor.detach().to("cpu", dtype).contiguous().numpy()
    return found
