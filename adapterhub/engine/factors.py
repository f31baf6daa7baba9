"""From an artifact's tensors to what the engine's tables hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from adapterhub.adapters.peft_format import EMBEDDING_PARTS, LINEAR_PARTS, LORA_KEY
from adapterhub.engine.adapter_slots import LoraFactors
from adapterhub.engine.heads import head_tensors
from adapterhub.engine.lora_embedding import LoraEmbedding
from adapterhub.engine.lora_linear import dense_weight
from adapterhub.errors import EngineError, StrictLoadError
from adapterhub.specs import LoraSpec

_MAGNITUDE = "lora_magnitude_vector"
#: The layer that peft's own stands around, which it stores beside LoRA on an embedding.
_BASE = ".base_layer"

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.heads import TaskHead
    from adapterhub.engine.lora_linear import LoraLinear


def lora_scale(spec: LoraSpec) -> float:
    """Return ``s`` of ``y = W x + s B A x``; see ``LoraSpec``."""
    return spec.alpha / (math.sqrt(spec.rank) if spec.rslora else spec.rank)


def lora_factors(
    weights: AdapterWeights,
    sites: AdaptedLayers,
    prefix: str,
    *,
    name: str,
    others: Collection[str] = (),
    reader: TaskHead | None = None,
) -> LoraFactors:
    """Return the matrices of a LoRA adapter by site, the scale folded into ``B``.

    Args:
        weights: as read from an artifact.
        sites: of the backbone.
        prefix: what the body is called in transformers' class for the task, e.g. ``model``.
        name: of the adapter, for messages.
        others: keys that are read elsewhere, such as a head's.
        reader: how it labels texts, where it does.

    Raises:
        EngineError: when it is of a kind that is not served.
        StrictLoadError: when a tensor has no place, or a pair is not complete.
    """
    spec = weights.spec
    if not isinstance(spec, LoraSpec):
        raise EngineError(f"{spec.method} has no low-rank factors", place=name)
    reading = _Reading(spec, sites, prefix, name)
    for key, tensor in weights.tensors.items():
        if key not in others:
            reading.take(key, tensor)
    reading.check_norms()
    pairs: dict[int, tuple[Tensor, Tensor]] = {}
    gains: dict[int, Tensor] = {}
    for path, found in reading.parts.items():
        site = reading.pairs[path]
        if not reading.is_whole(path, found):
            continue
        first, second = _names(site)
        a, b = found[first], found[second]
        scaled = b.float() * lora_scale(spec)
        if spec.dora:
            gain = _gain(found[_MAGNITUDE], _weight(site), scaled @ a.float())
            gains[site.number] = gain
            scaled = scaled * gain.unsqueeze(1)
        # copies, because the tensors may lie in a file that is mapped into memory
        pairs[site.number] = (
            a.to(site.dtype, copy=True),
            scaled.t().to(site.dtype, memory_format=torch.contiguous_format, copy=True),
        )
    if reading.missing or reading.unexpected:
        raise StrictLoadError(name, reading.missing, reading.unexpected)
    norms = {
        sites.norms[path].number: {part: tensor.clone() for part, tensor in found.items()}
        for path, found in reading.norms.items()
    }
    return LoraFactors(spec.rank, pairs, gains, norms, reader)


class _Reading:
    """The tensors of an adapter, sorted by the module that they belong to."""

    def __init__(self, spec: LoraSpec, sites: AdaptedLayers, prefix: str, name: str) -> None:
        self.pairs = sites.pairs
        self._sites = sites
        self._dora = spec.dora
        self._start = f"{prefix}."
        self._name = name
        self.parts: dict[str, dict[str, Tensor]] = {}
        self.norms: dict[str, dict[str, Tensor]] = {}
        self.missing: list[str] = []
        self.unexpected: list[str] = []

    def take(self, key: str, tensor: Tensor) -> None:
        """Put a tensor where it belongs.

        Raises:
            EngineError: when it is a copy of a layer that is not served.
        """
        match = LORA_KEY.fullmatch(key)
        if match is not None:
            path = match["module"].removeprefix(self._start)
            if path in self.pairs:
                self.parts.setdefault(path, {})[match["part"]] = tensor
                return
        else:
            module, _, part = key.removeprefix("base_model.model.").rpartition(".")
            path = module.removeprefix(self._start)
            if path in self._sites.norms:
                self.norms.setdefault(path, {})[part] = tensor
                return
            if self._is_known_copy(path, tensor):
                return
        self.unexpected.append(key)

    def check_norms(self) -> None:
        """Require that norm layers are whole."""
        for path, found in self.norms.items():
            shapes = {part: tuple(tensor.shape) for part, tensor in found.items()}
            wanted = self._sites.norms[path].shapes
            self.missing += [f"{path}.{part} {s}" for part, s in wanted.items() - shapes.items()]
            self.unexpected += [f"{path}.{part} {s}" for part, s in shapes.items() - wanted.items()]

    def is_whole(self, path: str, found: Mapping[str, Tensor]) -> bool:
        """Return whether a pair is complete and fits its layer, noting what is wrong if not."""
        site = self.pairs[path]
        first, second = _names(site)
        wanted = {first, second} | ({_MAGNITUDE} if self._dora else set())
        if found.keys() != wanted:
            self.missing += [f"{path}.{part}" for part in sorted(wanted - found.keys())]
            self.unexpected += [f"{path}.{part}" for part in sorted(found.keys() - wanted)]
            return False
        a, b = found[first], found[second]
        if (a.shape[1], b.shape[0]) != (site.in_features, site.out_features):
            self.unexpected.append(f"{path} of shape {list(a.shape)} and {list(b.shape)}")
            return False
        return True

    def _is_known_copy(self, path: str, tensor: Tensor) -> bool:
        """Return whether a tensor only repeats a layer of the backbone."""
        site = self.pairs.get(path.removesuffix(_BASE))
        if site is None:
            return False
        if not path.endswith(_BASE):
            raise EngineError(
                f"holds a whole copy of {path!r}, which is not served",
                place=self._name,
                hint="Adapt it by LoRA: name it in target_modules, not in modules_to_save",
            )
        own = _weight(site).t() if isinstance(site, LoraEmbedding) else _weight(site)
        if tensor.shape != own.shape or not torch.equal(
            tensor.to(own.device, site.dtype).float(), own
        ):
            raise EngineError(
                f"was trained beside another {path.removesuffix(_BASE)!r} than the backbone's",
                place=self._name,
                hint="Its vocabulary was changed; such an adapter is not served",
            )
        return True


def _names(site: LoraLinear | LoraEmbedding) -> tuple[str, str]:
    return EMBEDDING_PARTS if isinstance(site, LoraEmbedding) else LINEAR_PARTS


def _weight(site: LoraLinear | LoraEmbedding) -> Tensor:
    """Return what a site multiplies by, ``[out, in]`` in float32; of an embedding one-hot rows."""
    if isinstance(site, LoraEmbedding):
        return site.base.weight.detach().float().t()
    return dense_weight(site.base)


def _gain(magnitude: Tensor, weight: Tensor, delta: Tensor) -> Tensor:
    """Return ``m / |W + s B A|`` by output; Liu et al. 2024 (arXiv:2402.09353), equation 5."""
    return magnitude.float() / torch.linalg.norm(weight + delta.to(weight.device), dim=1)


def prepared_size(weights: AdapterWeights, dtype: torch.dtype) -> int:
    """Return the bytes of an adapter once its tensors are in a compute type.

    DoRA's magnitudes become factors of the layer's output in float32, and heads are in float32.
    Copies of the backbone's own layers are compared and not kept.
    """
    head = head_tensors(weights).keys
    return sum(
        tensor.numel() * (4 if key.endswith(_MAGNITUDE) or key in head else dtype.itemsize)
        for key, tensor in weights.tensors.items()
        if not key.rpartition(".")[0].endswith(_BASE)
    )
