"""Conversion of the tensors of a LoRA artifact to the numbered layers of a backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.adapters.peft_format import EMBEDDING_PARTS, LINEAR_PARTS, LORA_KEY
from adapterhub.engine.adapted_layers import LoraEmbedding
from adapterhub.engine.heads import head_tensors
from adapterhub.engine.lora_linear import dense_weight
from adapterhub.engine.prepared_adapter import LoraFactors
from adapterhub.errors import EngineError, StrictLoadError
from adapterhub.specs import LoraSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.heads import TaskHead
    from adapterhub.engine.lora_linear import LoraLinear

_MAGNITUDE = "lora_magnitude_vector"
#: The layer inside peft's own, which peft stores beside LoRA on an embedding.
_BASE = ".base_layer"


def lora_factors(
    weights: AdapterWeights,
    layers: AdaptedLayers,
    prefix: str,
    *,
    name: str,
    others: Collection[str] = (),
    head: TaskHead | None = None,
) -> LoraFactors:
    """Return the factors of a LoRA adapter by layer, the LoRA scale folded into ``B``.

    Args:
        weights: Weights as read from an artifact.
        layers: Adapted layers of the backbone.
        prefix: Name of the base model in transformers' class for the task, such as ``model``.
        name: Name of the adapter, for error messages.
        others: Keys of tensors that are read elsewhere, such as those of a head.
        head: Head and task of an adapter that labels.
    """
    spec = weights.spec
    if not isinstance(spec, LoraSpec):
        raise EngineError(f"{spec.method} has no low-rank factors", place=name)
    tensors = _LayerTensors(spec, layers, prefix, name)
    for key, tensor in weights.tensors.items():
        if key not in others:
            tensors.add(key, tensor)
    tensors.check_norms()
    pairs: dict[int, tuple[Tensor, Tensor]] = {}
    magnitude_scales: dict[int, Tensor] = {}
    for path, found in tensors.pairs.items():
        if tensors.is_complete(path, found):
            layer = layers.pairs[path]
            pair, scale = _pair(spec, layer, found)
            pairs[layer.number] = pair
            if scale is not None:
                magnitude_scales[layer.number] = scale
    if tensors.missing or tensors.unexpected:
        raise StrictLoadError(name, tensors.missing, tensors.unexpected)
    norms = {
        layers.norms[path].number: {part: tensor.clone() for part, tensor in found.items()}
        for path, found in tensors.norms.items()
    }
    return LoraFactors(spec.rank, pairs, magnitude_scales, norms, head)


def _pair(
    spec: LoraSpec, layer: LoraLinear | LoraEmbedding, found: Mapping[str, Tensor]
) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """Return ``A`` and the scaled ``B`` of a layer, and DoRA's factor of its output."""
    first, second = _names(layer)
    a, b, scale = found[first], found[second].float() * spec.scaling, None
    if spec.dora:
        scale = _magnitude_scale(found[_MAGNITUDE], _weight(layer), b @ a.float())
        b = b * scale.unsqueeze(1)
    # copies, because the tensors may lie in a file that is mapped into memory
    down = a.to(layer.dtype, copy=True)
    up = b.t().to(layer.dtype, memory_format=torch.contiguous_format, copy=True)
    return (down, up), scale


class _LayerTensors:
    """The tensors of an adapter by the module that they belong to."""

    def __init__(self, spec: LoraSpec, layers: AdaptedLayers, prefix: str, name: str) -> None:
        self._layers, self._paths = layers, layers.pairs
        self._dora = spec.dora
        self._start = f"{prefix}."
        self._name = name
        self.pairs: dict[str, dict[str, Tensor]] = {}
        self.norms: dict[str, dict[str, Tensor]] = {}
        self.missing: list[str] = []
        self.unexpected: list[str] = []

    def add(self, key: str, tensor: Tensor) -> None:
        """Assign a tensor to its module."""
        match = LORA_KEY.fullmatch(key)
        if match is not None:
            path = match["module"].removeprefix(self._start)
            if path in self._paths:
                self.pairs.setdefault(path, {})[match["part"]] = tensor
                return
        else:
            module, _, part = key.removeprefix("base_model.model.").rpartition(".")
            path = module.removeprefix(self._start)
            if path in self._layers.norms:
                self.norms.setdefault(path, {})[part] = tensor
                return
            if self._is_unchanged_copy(path, tensor):
                return
        self.unexpected.append(key)

    def check_norms(self) -> None:
        """Record norm layers whose parameters are incomplete or have another shape."""
        for path, found in self.norms.items():
            shapes = {part: tuple(tensor.shape) for part, tensor in found.items()}
            wanted = self._layers.norms[path].shapes
            self.missing += [f"{path}.{part} {s}" for part, s in wanted.items() - shapes.items()]
            self.unexpected += [f"{path}.{part} {s}" for part, s in shapes.items() - wanted.items()]

    def is_complete(self, path: str, found: Mapping[str, Tensor]) -> bool:
        """Return whether a pair is complete and fits its layer; record what does not."""
        layer = self._paths[path]
        first, second = _names(layer)
        wanted = {first, second} | ({_MAGNITUDE} if self._dora else set())
        if found.keys() != wanted:
            self.missing += [f"{path}.{part}" for part in sorted(wanted - found.keys())]
            self.unexpected += [f"{path}.{part}" for part in sorted(found.keys() - wanted)]
            return False
        a, b = found[first], found[second]
        if (a.shape[1], b.shape[0]) != (layer.in_features, layer.out_features):
            self.unexpected.append(f"{path} of shape {list(a.shape)} and {list(b.shape)}")
            return False
        return True

    def _is_unchanged_copy(self, path: str, tensor: Tensor) -> bool:
        """Return whether a tensor only repeats a layer of the backbone."""
        layer = self._paths.get(path.removesuffix(_BASE))
        if layer is None:
            return False
        if not path.endswith(_BASE):
            raise EngineError(
                f"holds a full copy of {path!r}, which is not supported",
                place=self._name,
                hint="Adapt it by LoRA: name it in target_modules, not in modules_to_save",
            )
        own = _weight(layer).t() if isinstance(layer, LoraEmbedding) else _weight(layer)
        if tensor.shape != own.shape or not torch.equal(
            tensor.to(own.device, layer.dtype).float(), own
        ):
            raise EngineError(
                f"was trained with another {path.removesuffix(_BASE)!r} than the backbone's",
                place=self._name,
                hint="Its vocabulary was changed; such an adapter is not supported",
            )
        return True


def _names(layer: LoraLinear | LoraEmbedding) -> tuple[str, str]:
    return EMBEDDING_PARTS if isinstance(layer, LoraEmbedding) else LINEAR_PARTS


def _weight(layer: LoraLinear | LoraEmbedding) -> Tensor:
    """Return the weight of a layer, float32 ``[out_features, in_features]``."""
    if isinstance(layer, LoraEmbedding):
        return layer.base.weight.detach().float().t()
    return dense_weight(layer.base)


def _magnitude_scale(magnitude: Tensor, weight: Tensor, delta: Tensor) -> Tensor:
    """Return ``m / |W + s B A|`` by output; Liu et al. 2024 (arXiv:2402.09353), equation 5."""
    return magnitude.float() / torch.linalg.norm(weight + delta.to(weight.device), dim=1)


def prepared_size(weights: AdapterWeights, dtype: torch.dtype) -> int:
    """Return the bytes of an adapter in a compute type.

    DoRA's magnitudes become factors of the layer's output in float32, and heads are in float32.
    Copies of the backbone's own layers are compared and not kept.
    """
    head = head_tensors(weights).keys
    return sum(
        tensor.numel() * (4 if key.endswith(_MAGNITUDE) or key in head else dtype.itemsize)
        for key, tensor in weights.tensors.items()
        if not key.rpartition(".")[0].endswith(_BASE)
    )
