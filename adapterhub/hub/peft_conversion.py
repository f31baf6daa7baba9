"""Conversion of peft's other methods to LoRA, when an adapter is imported.

peft loads the adapter on the unquantized backbone. A layer of the adapter that is one linear map,
as it is for methods that change weights, is the backbone's layer plus a change ``D`` of its weight
and one of its bias. ``D`` is read off the layer's own forward pass and factorized. So one rule,
with a measured error, covers multiplicative methods, initialisations that change the backbone,
and methods that peft's own ``convert_to_lora`` (peft 0.21) does not.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapterhub.adapters.low_rank import EXACT, RankLimits, factorize
from adapterhub.adapters.manifest import Conversion
from adapterhub.adapters.peft_format import config_document
from adapterhub.backbones.plain_model import load_plain_model
from adapterhub.errors import ArtifactError
from adapterhub.third_party import without_warnings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from adapterhub.adapters.low_rank import LowRank
    from adapterhub.tasks.base import HeadKind

log = logging.getLogger(__name__)

_PREFIX = "base_model.model."
_ADAPTER = "default"
#: Methods whose stored tensor is that of another method.
_RENAMED: Mapping[str, str] = {"CARTRIDGE": "PREFIX_TUNING", "CPT": "PROMPT_TUNING"}
#: Settings of a prompt that both methods have.
_PROMPT_KEYS = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "peft_version",
    "revision",
    "task_type",
    "token_dim",
)
#: Largest relative difference between a layer and the linear map that was read off it.
_LINEAR = 1e-5
_PROBES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """An adapter after its conversion.

    Args:
        adapter_config: Content of ``adapter_config.json``.
        tensors: peft's key to tensor.
        conversion: What was measured.
    """

    adapter_config: dict[str, Any]
    tensors: dict[str, Tensor]
    conversion: Conversion


def convert(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    backbone: Path,
    head: HeadKind,
    labels: Sequence[str],
    limits: RankLimits,
) -> Converted:
    """Convert an adapter to LoRA, or a prompt method to the one with the same tensors.

    The backbone is loaded in float32 beside a memory-mapped copy of its file.

    Args:
        folder: Folder that peft saved, checked before.
        config: Parsed ``adapter_config.json``.
        tensors: Tensors of the folder.
        backbone: Backbone folder.
        labels: Names of the head's outputs.

    Raises:
        ArtifactError: If peft can't load it, if it is no change of weights, or if no rank within
            the limits is close enough.
    """
    kind = str(config["peft_type"])
    if kind in _RENAMED:
        kept = {key: config[key] for key in _PROMPT_KEYS if key in config}
        exact = Conversion(method=kind, rank=0, relative_error=0.0, max_error=0.0)
        return Converted({**kept, "peft_type": _RENAMED[kind]}, dict(tensors), exact)
    original, _ = load_plain_model(backbone, head, labels)
    model = _load(folder, load_plain_model(backbone, head, labels)[0].float(), kind)
    changes = _Changes(original, limits, folder.name, bias=_bias(config))
    with torch.no_grad():
        for path, layer in _layers(model):
            changes.add(path, layer)
    for key, tensor in tensors.items():
        changes.keep(key, tensor)
    return changes.result(config, model.config)


def _load(folder: Path, model: nn.Module, kind: str) -> Any:
    import peft

    try:
        with without_warnings():
            loaded = peft.PeftModel.from_pretrained(model, str(folder), adapter_name=_ADAPTER)
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, ImportError) as error:
        raise ArtifactError(
            f"peft can't load it: {error}",
            place=str(folder),
            hint="Save it as a plain LoRA where it was trained: "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
            if kind == "LORA"
            else "",
        ) from error
    return loaded.eval().requires_grad_(False)


def _layers(model: nn.Module) -> Iterator[tuple[str, BaseTunerLayer]]:
    """Yield the layers of the adapter by their path in transformers' class."""
    for name, module in model.named_modules():
        # token vectors of trainable_token_indices lie in a wrapper, and their tensors are kept
        if isinstance(module, BaseTunerLayer) and not name.endswith(".token_adapter"):
            yield name.removeprefix(_PREFIX), module


def _bias(config: Mapping[str, Any]) -> str:
    found = config.get("bias") or "none"
    return found if found in ("none", "all") else "lora_only"


@dataclass(slots=True, eq=False)
class _Changes:
    """The changes of all layers of an adapter."""

    original: nn.Module
    limits: RankLimits
    name: str
    #: peft's ``bias`` of the result; biases that it names are stored in full
    bias: str
    linear: dict[str, LowRank] = field(default_factory=dict)
    embeddings: dict[str, LowRank] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    token_indices: dict[str, list[int]] = field(default_factory=dict)
    norms: list[str] = field(default_factory=list)
    #: paths of all layers of the adapter
    paths: list[str] = field(default_factory=list)
    #: tensors that are stored as they are
    tensors: dict[str, Tensor] = field(default_factory=dict)
    transposed: bool = False

    def add(self, path: str, layer: BaseTunerLayer) -> None:
        """Read the change of one layer."""
        base = self.original.get_submodule(path)
        self.paths.append(path)
        if isinstance(layer, TrainableTokensLayer):
            self._add_tokens(path, layer)
        elif isinstance(layer, LNTuningLayer):
            self._add_norm(path, layer)
        elif isinstance(base, nn.Embedding):
            table = copy.deepcopy(layer).double()(torch.arange(base.num_embeddings))
            change = (table - base.weight.double()).T
            self.embeddings[path] = self._factors(path, change.contiguous())
        elif isinstance(base, nn.Linear | Conv1D):
            self._add_linear(path, layer, base)
        else:
            raise ArtifactError(
                f"changes {path!r}, a layer of the type {type(base).__name__}",
                place=self.name,
                hint="Only linear and embedding layers are converted; leave it out in training",
            )

    def keep(self, key: str, tensor: Tensor) -> None:
        """Keep a tensor of the original that belongs to no converted layer."""
        if not key.startswith(_PREFIX):
            return
        path = key.removeprefix(_PREFIX)
        inside = any(path.startswith(f"{layer}.") for layer in self.paths)
        own_bias = self.bias != "none" and path.endswith(".base_layer.bias")
        if not inside or own_bias:
            self.tensors[key] = tensor

    def result(self, config: Mapping[str, Any], model_config: Any) -> Converted:
        """Return the LoRA adapter."""
        import peft

        if not self.linear and not self.embeddings:
            self._add_zero()
        found = {**self.linear, **self.embeddings}
        rank = max(each.rank for each in found.values())
        ranks = {path: each.rank for path, each in sorted(found.items()) if each.rank != rank}
        document = config_document(
            peft.LoraConfig(
                r=rank,
                lora_alpha=rank,
                rank_pattern=ranks,
                alpha_pattern=dict(ranks),
                target_modules=sorted(found),
                fan_in_fan_out=self.transposed,
                bias=self.bias,
                lora_bias=any(bool(each.any()) for each in self.biases.values()),
                modules_to_save=[*(config.get("modules_to_save") or ()), *self.norms] or None,
                trainable_token_indices=self.token_indices or config.get("trainable_token_indices"),
                task_type=config.get("task_type"),
                base_model_name_or_path=config.get("base_model_name_or_path"),
                revision=config.get("revision"),
            )
        )
        errors = [each.relative_error for each in found.values()]
        conversion = Conversion(
            method=str(config["peft_type"]),
            rank=rank,
            relative_error=_rounded(max(errors)),
            max_error=_rounded(max(each.max_error for each in found.values())),
        )
        return Converted(document, self._lora_tensors(lora_bias=document["lora_bias"]), conversion)

    def _add_linear(self, path: str, layer: Any, base: nn.Linear | Conv1D) -> None:
        weight = base.weight.double().T if isinstance(base, Conv1D) else base.weight.double()
        self.transposed |= isinstance(base, Conv1D)
        own, bias = _linear_map(layer, weight.shape[1], f"{self.name}: {path}")
        self.linear[path] = self._factors(path, own - weight)
        # a bias that is stored in full is part of the layer that the result is added to
        replaced = layer.get_base_layer().bias if self.bias != "none" else base.bias
        self.biases[path] = (bias if replaced is None else bias - replaced.double()).float()

    def _factors(self, path: str, change: Tensor) -> LowRank:
        found = factorize(change, self.limits)
        if found.relative_error > max(self.limits.max_error, EXACT):
            raise ArtifactError(
                f"a LoRA of rank {found.rank} differs from it by {found.relative_error:.1%} "
                f"in {path!r}, the limit is {self.limits.max_error:.1%}",
                place=self.name,
                hint="Allow more: --max-error, or --max-rank",
            )
        log.info("%s: rank %d, error %.1e", path, found.rank, found.relative_error)
        return found

    def _add_tokens(self, path: str, layer: Any) -> None:
        if layer.tied_adapter:
            return  # peft ties the output layer to the embedding again by itself
        self.token_indices[path] = [int(each) for each in layer.token_indices[_ADAPTER]]
        delta = layer.trainable_tokens_delta[_ADAPTER].detach().float()
        self.tensors[f"{_PREFIX}{path}.token_adapter.trainable_tokens_delta"] = delta

    def _add_norm(self, path: str, layer: Any) -> None:
        self.norms.append(path)
        for name, parameter in layer.ln_tuning_layers[_ADAPTER].named_parameters():
            self.tensors[f"{_PREFIX}{path}.{name}"] = parameter.detach().float()

    def _add_zero(self) -> None:
        """Add a pair of zeros, because peft's LoRA needs a layer."""
        path, layer = next(
            (path, each)
            for path, each in self.original.named_modules()
            if isinstance(each, nn.Linear | Conv1D)
        )
        self.transposed |= isinstance(layer, Conv1D)
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        self.linear[path] = factorize(torch.zeros(weight.shape, dtype=torch.float64), self.limits)
        self.biases[path] = torch.zeros(weight.shape[0])

    def _lora_tensors(self, *, lora_bias: bool) -> dict[str, Tensor]:
        tensors = dict(self.tensors)
        for path, each in self.linear.items():
            tensors[f"{_PREFIX}{path}.lora_A.weight"] = each.down
            tensors[f"{_PREFIX}{path}.lora_B.weight"] = each.up
            if lora_bias:
                tensors[f"{_PREFIX}{path}.lora_B.bias"] = self.biases[path]
        for path, each in self.embeddings.items():
            tensors[f"{_PREFIX}{path}.lora_embedding_A"] = each.down
            tensors[f"{_PREFIX}{path}.lora_embedding_B"] = each.up
        return tensors


def _linear_map(layer: Any, in_features: int, place: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a layer that is one linear map, read off its forward pass.

    Raises:
        ArtifactError: If it is none.
    """
    exact = _in_double(layer, in_features)
    dtype = next(iter(exact.parameters())).dtype
    bias = exact(torch.zeros(1, 1, in_features, dtype=dtype))[0, 0]
    weight = (exact(torch.eye(in_features, dtype=dtype).unsqueeze(0))[0] - bias).T
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(2, _PROBES, in_features, generator=generator, dtype=torch.float64)
    found, expected = exact(probe.to(dtype)), probe.to(dtype) @ weight.T + bias
    if float((found - expected).abs().max()) > _LINEAR * float(expected.abs().max()):
        raise ArtifactError(
            "computes its change from each input, so it is no change of weights",
            place=place,
            hint="Train a LoRA adapter instead",
        )
    return weight.double(), bias.double()


def _in_double(layer: Any, in_features: int) -> Any:
    """Return a copy of a layer in float64, or in float32 where its code mixes types."""
    double = copy.deepcopy(layer).double()
    try:
        double(torch.zeros(1, 1, in_features, dtype=torch.float64))
    except RuntimeError:
        log.info("%s computes in float32 only", type(layer).__name__)
        return copy.deepcopy(layer).float()
    return double


def _rounded(value: float) -> float:
    """Return an error with one digit, so that rounding in other libraries changes no digest."""
    return float(f"{value:.0e}")
