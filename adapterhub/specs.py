"""Frozen specs shared by training, storage and serving, without torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal, TypeVar

from annotated_types import Ge

QuantizationScheme = Literal["nf4", "fp4", "int8", "none"]
ComputeDtype = Literal["bfloat16", "float32"]
#: Biases that an adapter replaces: none, all of the model, or those of its LoRA layers.
BiasKind = Literal["none", "all", "lora_only"]

_Value = TypeVar("_Value", int, float)


@dataclass(frozen=True, slots=True)
class QuantizationSpec:
    """Quantization of a backbone's linear layers.

    Args:
        scheme: Storage of weights: ``nf4`` and ``fp4`` take 4 bits a weight in blocks of 64,
            ``int8`` takes 8 bits with one scale per output channel, ``none`` stores
            ``compute_dtype`` itself.
        compute_dtype: Type of activations and of dequantized weights.
    """

    scheme: QuantizationScheme = "nf4"
    compute_dtype: ComputeDtype = "bfloat16"

    def __str__(self) -> str:
        return f"{self.scheme}/{self.compute_dtype}"


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Low-rank adaptation: ``y = W x + s B A x``, Hu et al. 2021 (arXiv:2106.09685).

    Args:
        rank: Inner dimension of ``A`` and ``B``.
        alpha: Numerator of ``s = alpha / rank``, or ``alpha / sqrt(rank)`` with ``rslora``.
        dropout: Dropout probability on the input of ``A`` in training.
        target_modules: Suffixes of module names, or ``("all-linear",)``.
        rslora: Rank-stabilised scale, Kalajdzievski 2023 (arXiv:2312.03732).
        dora: Weight-decomposed adaptation, Liu et al. 2024 (arXiv:2402.09353).
        init: Initialisation of ``A`` and ``B``; ``default`` makes ``B`` zero.
        rank_pattern: Rank of the modules that a name or regular expression matches.
        alpha_pattern: ``alpha`` of the modules that a name or regular expression matches.
        bias: Biases that are trained and stored in full.
        lora_bias: Whether ``B`` has a bias, so that ``y = W x + s (B A x + b)``.
        fan_in_fan_out: peft's flag for layers that store ``W`` transposed; ``A`` and ``B`` have
            the same shapes with it.
        target_parameters: Suffixes of the names of parameters, such as the experts of a mixture,
            to which ``s B A`` is added.
        trainable_token_indices: Embedding layer to the ids of the tokens whose vectors the
            adapter replaces.
        alora_invocation_tokens: Tokens from whose last occurrence on the adapter is used, as in
            activated LoRA, Greenewald et al. 2025 (arXiv:2504.12397); empty for every token.
    """

    rank: Annotated[int, Ge(0)] = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("all-linear",)
    rslora: bool = False
    dora: bool = False
    init: str = "default"
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    bias: BiasKind = "none"
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    target_parameters: tuple[str, ...] = ()
    trainable_token_indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    alora_invocation_tokens: tuple[int, ...] = ()

    @property
    def method(self) -> str:
        return "lora"

    @property
    def size(self) -> int:
        """Largest rank of a module."""
        return max(self.rank, *self.rank_pattern.values()) if self.rank_pattern else self.rank

    @property
    def scaling(self) -> float:
        """Factor ``s`` of the product ``B A`` where no pattern gives another one."""
        return self._scale(self.rank, self.alpha)

    def rank_of(self, module: str) -> int:
        """Return the rank of a module.

        Args:
            module: Path as in the key of its tensors, after ``base_model.model.``.
        """
        return pattern_value(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Return the factor ``s`` of the product ``B A`` of a module."""
        alpha = pattern_value(self.alpha_pattern, module, self.alpha)
        return self._scale(self.rank_of(module), alpha)

    def _scale(self, rank: int, alpha: float) -> float:
        return alpha / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True, slots=True)
class PrefixSpec:
    """Prefix tuning: trained keys and values in every layer, Li and Liang 2021 (arXiv:2101.00190).

    Args:
        num_virtual_tokens: Length of the prefix in tokens.
        projection: Whether training re-parametrises the prefix by a small network.
    """

    num_virtual_tokens: Annotated[int, Ge(0)] = 16
    projection: bool = False

    @property
    def method(self) -> str:
        return "prefix"

    @property
    def size(self) -> int:
        """Number of virtual tokens."""
        return self.num_virtual_tokens


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """Prompt tuning: trained embeddings before the tokens, Lester et al. 2021 (arXiv:2104.08691).

    Args:
        num_virtual_tokens: Number of the embeddings.
        encoder: Whether a network made them in training (p-tuning, Liu et al. 2021,
            arXiv:2103.10385); peft stores what it returned.
    """

    num_virtual_tokens: Annotated[int, Ge(0)] = 16
    encoder: bool = False

    @property
    def method(self) -> str:
        return "prompt"

    @property
    def size(self) -> int:
        """Number of virtual tokens."""
        return self.num_virtual_tokens


@dataclass(frozen=True, slots=True)
class Ia3Spec:
    """(IA)^3: trained factors of activations, Liu et al. 2022 (arXiv:2205.05638).

    Args:
        target_modules: Suffixes of the names of modules whose output is multiplied.
        feedforward_modules: Those among them whose input is multiplied instead.
        fan_in_fan_out: peft's flag for layers that store their weight transposed.
    """

    target_modules: tuple[str, ...] = ()
    feedforward_modules: tuple[str, ...] = ()
    fan_in_fan_out: bool = False

    @property
    def method(self) -> str:
        return "ia3"

    @property
    def size(self) -> int:
        """Number of factors of an activation."""
        return 1


AdapterSpec = LoraSpec | PrefixSpec | PromptSpec | Ia3Spec


def describe_spec(spec: AdapterSpec) -> str:
    """Return the method and the settings of a spec, without features that it does not use."""
    values = {each.name: getattr(spec, each.name) for each in fields(spec)}
    used = [f"{name}={value}" for name, value in values.items() if value not in ({}, (), False)]
    return f"{spec.method}: {', '.join(used)}"


def pattern_value(pattern: Mapping[str, _Value], module: str, default: _Value) -> _Value:
    """Return the value of the first key that matches a module, else the default.

    Source: ``get_pattern_key`` in ``peft/utils/other.py`` of peft 0.21.
    """
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
