"""Conversion of the tensors of LoRA and IA³ adapters to the layers of a backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapterhub.adapters.peft_format import (
    EMBEDDING_PARTS,
    LINEAR_PARTS,
    LORA_BIAS_PART,
)
from adapterhub.engine.adapted_layers import OUTPUT_NAME, LoraEmbedding
from adapterhub.engine.lora_linear import LoraLinear, dense_weight
from adapterhub.engine.module_overrides import (
    BASE_LAYER,
    low_rank_product,
    with_magnitude,
)
from adapterhub.engine.overrides_builder import OverridesBuilder, equal, submodule
from adapterhub.engine.parameter_overrides import BASE_WEIGHTS
from adapterhub.engine.prepared_adapter import LoraFactors, OwnWeight, TokenRows
from adapterhub.engine.tensor_names import (
    IA3,
    MAGNITUDE,
    TOKEN_VECTORS,
    computing_keys,
    keys_by_module,
)
from adapterhub.errors import ArtifactError, EngineError, StrictLoadError
from adapterhub.specs import Ia3Spec, LoraSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from torch import Tensor

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.heads import TaskHead

_WHOLE = {name: (name, f"{BASE_LAYER}{name}") for name in ("weight", "bias")}


def lora_factors(
    weights: AdapterWeights,
    layers: AdaptedLayers,
    prefix: str,
    *,
    name: str,
    others: Collection[str] = (),
    head: TaskHead | None = None,
) -> LoraFactors:
    """Return the tensors of an adapter by layer, the LoRA scale folded into ``B``.

    Args:
        weights: Weights as read from an artifact.
        layers: Adapted layers of the backbone.
        prefix: Name of the base model in transformers' class for the task, such as ``model``.
        name: Name of the adapter, for error messages.
        others: Keys of tensors that are read elsewhere, such as those of a head.
        head: Head and task of an adapter that labels.
    """
    spec = weights.spec
    if not isinstance(spec, LoraSpec | Ia3Spec):
        raise EngineError(f"{spec.method} has no low-rank factors", place=name)
    rest = {
        key: weights.tensors[key] for key in computing_keys(weights.tensors) if key not in others
    }
    builder = _FactorsBuilder(spec, layers, prefix)
    # no other thread replaces the backbone's weights while they are read
    with BASE_WEIGHTS:
        modules = keys_by_module(rest, prefix)
        builder.others.targets = modules.keys()
        for path, keys in modules.items():
            parts = {part: rest[key] for part, key in keys.items()}
            builder.unexpected += [keys.get(part, part) for part in builder.add(path, parts)]
        builder.tie_vocabulary(name, generates=head is None)
    if builder.missing or builder.unexpected:
        raise StrictLoadError(name, builder.missing, builder.unexpected)
    if builder.overflows:
        raise ArtifactError(
            "its LoRA scale makes values too large for the compute type",
            place=name,
            hint="Check lora_alpha",
        )
    return builder.factors(head)


class _FactorsBuilder:
    """Collects the tensors of an adapter by layer, and what is missing or does not fit."""

    def __init__(self, spec: LoraSpec | Ia3Spec, layers: AdaptedLayers, prefix: str) -> None:
        self._spec, self._layers, self._prefix = spec, layers, prefix
        self._paths = layers.pairs
        self.others = OverridesBuilder(layers.base_model, self._scale, self._is_target_parameter)
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}
        self._magnitude_scales: dict[int, Tensor] = {}
        self._norms: dict[int, dict[str, Tensor]] = {}
        self._biases: dict[int, Tensor] = {}
        self._input_scales: dict[int, Tensor] = {}
        self._output_scales: dict[int, Tensor] = {}
        self._weights: dict[int, OwnWeight] = {}
        self._rows: dict[int, TokenRows] = {}
        #: weight of an embedding in full that the output layer shares
        self._shared_weight: Tensor | None = None
        #: whether the LoRA scale makes a value too large for the compute type
        self.overflows = False
        self.missing: list[str] = []
        self.unexpected: list[str] = []

    def factors(self, head: TaskHead | None) -> LoraFactors:
        """Return what was collected."""
        spec, output = self._spec, self._layers.output
        own = None if output is None else self._weights.get(output.number)
        return LoraFactors(
            max((len(a) for a, _ in self._pairs.values()), default=1),
            self._pairs,
            self._magnitude_scales,
            self._norms,
            head,
            self._biases,
            self._input_scales,
            self._output_scales,
            self._weights,
            self._rows,
            self.others.overrides(),
            spec.alora_invocation_tokens if isinstance(spec, LoraSpec) else (),
            None if own is None else len(own.weight),
        )

    def add(self, path: str, parts: Mapping[str, Tensor]) -> Iterable[str]:
        """Assign the tensors of a module to its layer; return the parts that do not fit."""
        path = self._output_path(path)
        layer, module = self._paths.get(path), submodule(self._layers.base_model, path)
        if isinstance(layer, LoraEmbedding):
            return self._add_embedding(path, layer, dict(parts))
        if layer is not None:
            return self._add_linear(path, layer, dict(parts))
        if path in self._layers.norms:
            return self._add_norm(path, dict(parts))
        return parts if module is None else self.others.add(path, module, dict(parts))

    def tie_vocabulary(self, name: str, *, generates: bool) -> None:
        """Let the output layer follow an embedding that it shares its weight with."""
        layers, output = self._layers, self._layers.output
        if output is None:
            return
        tied = None if layers.tied is None else layers.embeddings[layers.tied]
        if tied is not None and tied.number in self._rows:
            self._rows.setdefault(output.number, self._rows[tied.number])
        if output.number in self._weights or layers.input_embedding is None:
            return
        embedding = layers.embeddings[layers.input_embedding]
        own = self._weights.get(embedding.number)
        if self._shared_weight is not None:
            self._add_weight(output, self._shared_weight, None, 1.0, (None, None, None))
        elif generates and own is not None and len(own.weight) != embedding.in_features:
            raise EngineError(
                f"has an embedding of {len(own.weight)} tokens, but no output layer of as many",
                place=name,
                hint="Save both in full: name both in peft's modules_to_save",
            )

    def _output_path(self, path: str) -> str:
        """Return ``OUTPUT_NAME`` for the output layer, which some classes call otherwise."""
        outside = "." not in path and submodule(self._layers.base_model, path) is None
        return OUTPUT_NAME if outside and self._layers.output is not None else path

    def _add_linear(
        self, path: str, layer: LoraLinear, parts: dict[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Add the tensors of a linear layer; return those that do not belong to it."""
        if layer is self._layers.output:
            self._add_rows(path, layer, parts)
        if IA3 in parts:
            self._add_scale(layer, parts.pop(IA3), path)
        weight, bias = _pop(parts, *_WHOLE["weight"]), _pop(parts, *_WHOLE["bias"])
        weight = self._changed_weight(path, layer, weight)
        pair = self._pop_pair(path, layer, parts)
        scale, lora_bias = self._scale(path), parts.pop(LORA_BIAS_PART, None)
        added = torch.zeros(1) if lora_bias is None else lora_bias.float() * scale
        own_bias: Tensor | None = getattr(layer.base, "bias", None)
        if bias is not None and (own_bias is None or bias.shape != own_bias.shape):
            parts["bias"] = bias
        elif weight is not None:
            self._add_weight(layer, weight, pair, scale, (bias, own_bias, added))
        else:
            if pair is not None:
                self._add_pair(layer, pair, scale)
            if bias is not None and own_bias is not None:
                added = added.to(own_bias.device) + bias.to(own_bias.device) - own_bias.float()
            if added.any():
                self._biases[layer.number] = added.detach()
        return parts

    def _add_embedding(
        self, path: str, layer: LoraEmbedding, parts: dict[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Add the tensors of an embedding; return those that do not belong to it."""
        self._add_rows(path, layer, parts)
        inside = _WHOLE["weight"][1] in parts
        weight = self._changed_weight(path, layer, _pop(parts, *_WHOLE["weight"]))
        grown = weight is not None and len(weight) != layer.in_features
        # a copy by modules_to_save leaves the output layer as it is
        if weight is not None and path == self._layers.tied and (inside or grown):
            self._shared_weight = weight
        pair = self._pop_pair(path, layer, parts)
        if weight is None and pair is not None:
            self._add_pair(layer, pair, self._scale(path))
        elif weight is not None and not _looks_up(layer.base):
            self.others.replaced[f"{path}.weight"] = weight.to(layer.dtype)
        elif weight is not None:
            self._add_weight(layer, weight, pair, self._scale(path), (None, None, None))
        return parts

    def _add_norm(self, path: str, parts: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """Add the parameters of a norm layer; return those that do not belong to it."""
        norm = self._layers.norms[path]
        found, shapes = {part: tuple(t.shape) for part, t in parts.items()}, norm.shapes
        if self._spec_stores_biases and found.keys() == {"bias"}:
            parts |= {
                name: norm.base.get_parameter(name).detach() for name in shapes.keys() - {"bias"}
            }
            found = {part: tuple(tensor.shape) for part, tensor in parts.items()}
        if found != shapes:
            self.missing += [f"{path}.{part} {s}" for part, s in shapes.items() - found.items()]
            return {f"{part} {s}": parts[part] for part, s in found.items() - shapes.items()}
        if not all(equal(tensor, norm.base.get_parameter(n)) for n, tensor in parts.items()):
            self._norms[norm.number] = {part: tensor.clone() for part, tensor in parts.items()}
        return {}

    def _add_weight(
        self,
        layer: LoraLinear | LoraEmbedding,
        weight: Tensor,
        pair: _Pair | None,
        scale: float,
        biases: tuple[Tensor | None, Tensor | None, Tensor | None],
    ) -> None:
        """Add a whole weight, with LoRA on it merged."""
        dense = weight.float()
        if pair is not None:
            product = low_rank_product(pair.a, pair.b, scale)
            delta = product.t() if isinstance(layer, LoraEmbedding) else product
            dense = dense + delta.to(dense.device)
            if pair.magnitude is not None:
                by_output = dense.t() if isinstance(layer, LoraEmbedding) else dense
                scaled = with_magnitude(by_output, pair.magnitude.to(dense.device))
                dense = scaled.t() if isinstance(layer, LoraEmbedding) else scaled
        stored, own, added = biases
        bias = stored if stored is not None else own
        if bias is not None and len(bias) != len(dense):
            bias = nn.functional.pad(bias, (0, max(len(dense) - len(bias), 0)))[: len(dense)]
        if added is not None and added.any():
            bias = added if bias is None else bias.float() + added.to(bias.device)
        bias = None if bias is None else bias.detach().to(layer.dtype, copy=True)
        self._weights[layer.number] = OwnWeight(dense.to(layer.dtype).contiguous().clone(), bias)

    def _add_pair(self, layer: LoraLinear | LoraEmbedding, pair: _Pair, scale: float) -> None:
        """Add ``A`` and the scaled ``B`` of a layer, and DoRA's factor of its output."""
        up = pair.b.float() * scale
        if pair.magnitude is not None:
            factor = _magnitude_scale(pair.magnitude, _weight(layer), up @ pair.a.float())
            self._magnitude_scales[layer.number] = factor
            up = up * factor.unsqueeze(1).to(up.device)
        # copies, because the tensors may lie in a file that is mapped into memory
        down = pair.a.to(layer.dtype, copy=True)
        turned = up.t().to(layer.dtype, memory_format=torch.contiguous_format, copy=True)
        self._pairs[layer.number] = (down, turned)
        self.overflows = self.overflows or not bool(turned.isfinite().all())

    def _add_scale(self, layer: LoraLinear, scales: Tensor, path: str) -> None:
        """Add IA³'s factors, ``[1, in_features]`` of an input and ``[out_features, 1]`` else."""
        feedforward = scales.shape[0] == 1 and scales.shape[1] == layer.in_features
        if not feedforward and scales.numel() != layer.out_features:
            self.unexpected.append(f"{path}.{IA3} of shape {list(scales.shape)}")
            return
        target = self._input_scales if feedforward else self._output_scales
        target[layer.number] = scales.float().flatten().clone()

    def _add_rows(
        self, path: str, layer: LoraLinear | LoraEmbedding, parts: dict[str, Tensor]
    ) -> None:
        """Add the vectors of single tokens, if there are any that fit."""
        vectors = parts.get(TOKEN_VECTORS)
        indices = self._spec.trainable_token_indices if isinstance(self._spec, LoraSpec) else {}
        named = [ids for each, ids in indices.items() if f".{path}".endswith(f".{each}")]
        ids = named[0] if named else next(iter(indices.values()), ())
        embeds = isinstance(layer, LoraEmbedding)
        width = layer.out_features if embeds else layer.in_features
        if vectors is not None and vectors.shape == (len(ids), width):
            del parts[TOKEN_VECTORS]
            own = vectors.to(layer.dtype, copy=True)
            self._rows[layer.number] = TokenRows(torch.tensor(ids), own)

    def _pop_pair(
        self, path: str, layer: LoraLinear | LoraEmbedding, parts: dict[str, Tensor]
    ) -> _Pair | None:
        """Take a pair out of the tensors of a layer, if it has one that is complete and fits."""
        first, second = _names(layer)
        wanted = {first, second} | ({MAGNITUDE} if getattr(self._spec, "dora", False) else set())
        found = wanted & parts.keys()
        if not found:
            return None
        if found != wanted:
            self.missing += [f"{path}.{part}" for part in sorted(wanted - found)]
            return None
        a, b, magnitude = parts.pop(first), parts.pop(second), parts.pop(MAGNITUDE, None)
        own = self._weights.get(layer.number)
        rows = layer.out_features if own is None else len(own.weight)
        fits = (a.shape[1], b.shape[0]) == (layer.in_features, rows)
        if not fits and not self._is_vocabulary(layer):
            self.unexpected.append(f"{path} of shape {list(a.shape)} and {list(b.shape)}")
            return None
        return _Pair(a, b, magnitude)

    def _is_vocabulary(self, layer: LoraLinear | LoraEmbedding) -> bool:
        return layer is self._layers.output or isinstance(layer, LoraEmbedding)

    def _changed_weight(
        self, path: str, layer: LoraLinear | LoraEmbedding, weight: Tensor | None
    ) -> Tensor | None:
        """Return a whole weight unless it only repeats the backbone's own."""
        if weight is None:
            return None
        if isinstance(getattr(layer, "base", None), Conv1D):
            weight = weight.t()
        own = _weight(layer)
        own = own.t() if isinstance(layer, LoraEmbedding) else own
        if weight.shape == own.shape:
            unchanged = torch.equal(weight.to(own.device, layer.dtype).float(), own)
            return None if unchanged else weight
        if weight.shape[1:] == own.shape[1:] and self._is_vocabulary(layer):
            return weight
        self.unexpected.append(f"{path}.weight of shape {list(weight.shape)}")
        return None

    @property
    def _spec_stores_biases(self) -> bool:
        return getattr(self._spec, "bias", "none") == "all"

    def _is_target_parameter(self, name: str) -> bool:
        targets: Iterable[str] = getattr(self._spec, "target_parameters", ())
        whole = f"{self._prefix}.{name}"
        return any(whole == each or whole.endswith(f".{each}") for each in targets)

    def _scale(self, path: str) -> float:
        if not isinstance(self._spec, LoraSpec):
            return 1.0
        inside = path != OUTPUT_NAME
        return self._spec.scaling_of(f"{self._prefix}.{path}" if inside else path)


class _Pair:
    """``A`` and ``B`` of a layer as peft stores them, and DoRA's magnitude."""

    def __init__(self, a: Tensor, b: Tensor, magnitude: Tensor | None) -> None:
        self.a, self.b, self.magnitude = a, b, magnitude


def _pop(parts: dict[str, Tensor], *names: str) -> Tensor | None:
    found = [parts.pop(name) for name in names if name in parts]
    return found[0] if found else None


def _looks_up(base: Any) -> bool:
    """Return whether an embedding does nothing but look ids up, and multiply by a constant."""
    return type(base).forward is nn.Embedding.forward or hasattr(base, "embed_scale")


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
