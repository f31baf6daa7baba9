"""Checks of adapters against the backbone, and their conversion to its layers and compute type."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from adapterhub.adapters.peft_format import EMBEDDING_PARTS, LINEAR_PARTS, LORA_KEY
from adapterhub.adapters.tensor_checks import PROMPT_KEY
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.adapter_config import check_prefix_fits
from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.backbones.heads import head_model_class
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.engine.adapted_layers import LoraEmbedding
from adapterhub.engine.adapter_task import task_of
from adapterhub.engine.heads import HeadBuilder, TaskHead
from adapterhub.engine.lora_linear import dense_weight
from adapterhub.engine.prepared_adapter import LoraFactors, PrefixStates
from adapterhub.errors import EngineError, StrictLoadError
from adapterhub.kernels.attention.kv_cache import cache_shape
from adapterhub.specs import LoraSpec, PrefixSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.lora_linear import LoraLinear
    from adapterhub.engine.prepared_adapter import PreparedAdapter
    from adapterhub.tasks.base import Task

_MAGNITUDE = "lora_magnitude_vector"
#: The layer inside peft's own, which peft stores beside LoRA on an embedding.
_BASE = ".base_layer"


class AdapterPreparer:
    """Checks and converts adapters of one backbone; safe for use from several threads."""

    def __init__(self, backbone: Backbone, layers: AdaptedLayers) -> None:
        # a tokenizer changes its settings while it works, and that of prompts is used by others
        self._backbone = replace(backbone, preprocessor=deepcopy(backbone.preprocessor))
        self._layers = layers
        self._heads = HeadBuilder(backbone)
        self._dtype = torch_dtype(backbone.quantization.compute_dtype)

    def artifact(
        self, artifact: Artifact, *, name: str = "", force: bool = False
    ) -> PreparedAdapter:
        """Prepare an artifact.

        Args:
            artifact: Verified artifact.
            name: Name for error messages; the digest by default.
            force: Whether to accept an adapter that was trained on another backbone.
        """
        name = name or artifact.digest
        wanted = artifact.manifest.backbone.fingerprint
        check_fingerprint(self._backbone.fingerprint, name, wanted, force=force)
        return self.weights(artifact.weights, task_of(artifact.manifest, self._backbone), name=name)

    def weights(self, weights: AdapterWeights, task: Task | None, *, name: str) -> PreparedAdapter:
        """Prepare weights that do not come from an artifact."""
        head, keys = self._head(weights, task, name)
        if isinstance(weights.spec, PrefixSpec):
            check_prefix_fits(self._backbone.kind, self._backbone.name)
            rest = {each: tensor for each, tensor in weights.tensors.items() if each not in keys}
            alone = AdapterWeights(weights.spec, rest)
            shape = cache_shape(self._backbone.config)
            return _prefix_states(alone, shape, self._dtype, name=name, head=head)
        prefix = self._base_model_prefix(task)
        return lora_factors(weights, self._layers, prefix, name=name, others=keys, head=head)

    def _head(
        self, weights: AdapterWeights, task: Task | None, name: str
    ) -> tuple[TaskHead | None, frozenset[str]]:
        """Return the head of an adapter, if it has one, and the keys of its tensors."""
        if task is None:
            return None, frozenset()
        head = self._heads.read(weights, task, name=name)
        if head is None:
            return None, frozenset()
        return TaskHead(task, head), self._heads.keys(weights, task)

    def size(self, artifact: Artifact) -> int:
        """Return the bytes of host memory that an artifact takes once it is prepared."""
        return prepared_size(artifact.weights, self._dtype)

    def _base_model_prefix(self, task: Task | None) -> str:
        """Return the name of the base model in transformers' class for a task."""
        backbone, found = self._backbone, self._backbone.base_model.base_model_prefix
        if task is not None and task.head != "causal_lm":
            # Llama's class for question answering calls it "transformer", all others "model"
            found = head_model_class(backbone.config, task.head, backbone.name).base_model_prefix
        return str(found or "model")


def num_virtual_tokens(adapters: Sequence[PreparedAdapter], weights: Sequence[float]) -> int:
    """Return the number of virtual tokens of the adapters of a request, 0 without any."""
    prefixes = []
    for adapter, weight in zip(adapters, weights, strict=True):
        if not isinstance(adapter, LoraFactors):
            prefixes.append((adapter, weight))
        elif len(adapters) > 1 or weight != 1.0:
            _check_can_blend(adapter)
    if len(prefixes) > 1 or any(weight != 1.0 for _, weight in prefixes):
        raise EngineError(
            "a request can use one prefix adapter, with weight 1, be it of prefix or prompt tuning",
            place="adapters",
            hint="Concatenate prefixes beforehand; LoRA adapters may be blended beside one",
        )
    return prefixes[0][0].length if prefixes else 0


def _check_can_blend(factors: LoraFactors) -> None:
    """Require an adapter whose weighted sum with others is exact: LoRA pairs and added biases."""
    problems = {
        "DoRA multiplies the backbone's own output": factors.magnitude_scales,
        "IA³ multiplies activations": {**factors.input_scales, **factors.output_scales},
        "replaces norm layers of the backbone": factors.norms,
        "replaces weights of the backbone": factors.weights or factors.overrides,
        "replaces vectors of single tokens": factors.rows,
        "is active only from its invocation tokens on": factors.invocation,
    }
    for problem, found in problems.items():
        if found:
            raise EngineError(
                f"{problem} and cannot be blended",
                place="adapters",
                hint="Use it alone, with weight 1",
            )


def _prefix_states(
    weights: AdapterWeights,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    name: str,
    head: TaskHead | None,
) -> PrefixStates:
    """Return the keys and values of a prefix adapter.

    Its one tensor is ``[num_virtual_tokens, num_layers * 2 * num_kv_heads * head_dim]``, with
    the keys before the values of each layer. Source: ``get_prompt`` in peft's ``peft_model.py``.
    """
    layers, heads, width = shape
    prompt = weights.tensors.get(PROMPT_KEY)
    others = [key for key in weights.tensors if key != PROMPT_KEY]
    size = 2 * layers * heads * width
    if prompt is None or others or prompt.dim() != 2 or prompt.shape[1] != size:
        wanted = f"{PROMPT_KEY} of shape [tokens, {size}]"
        found = [] if prompt is None else [f"{PROMPT_KEY} of shape {list(prompt.shape)}"]
        raise StrictLoadError(name, [wanted], [*others, *found])
    states = prompt.to(dtype).view(len(prompt), layers, 2, heads, width)
    return PrefixStates(
        tuple(states[:, layer, 0].contiguous() for layer in range(layers)),
        tuple(states[:, layer, 1].contiguous() for layer in range(layers)),
        head,
    )


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
    """Return the bytes of an adapter in a compute type, at most.

    DoRA's magnitudes become factors of the layer's output in float32. Modules that the adapter
    holds in full count as float32, which those of a head are. Copies of the backbone's own layers
    are compared and not kept.
    """
    return sum(
        tensor.numel() * (dtype.itemsize if _is_converted(key) else 4)
        for key, tensor in weights.tensors.items()
        if not key.rpartition(".")[0].endswith(_BASE)
    )


def _is_converted(key: str) -> bool:
    if key.endswith(_MAGNITUDE):
        return False
    return key == PROMPT_KEY or LORA_KEY.fullmatch(key) is not None
