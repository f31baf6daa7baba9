"""Frozen specs shared by training, storage and serving, without torch."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

QuantizationScheme = Literal["nf4", "fp4", "int8", "none"]
ComputeDtype = Literal["bfloat16", "float32"]


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
    """

    rank: Annotated[int, Ge(0)] = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("all-linear",)
    rslora: bool = False
    dora: bool = False
    init: str = "default"

    @property
    def method(self) -> str:
        return "lora"

    @property
    def scaling(self) -> float:
        """Factor ``s`` of the product ``B A``."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


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


AdapterSpec = LoraSpec | PrefixSpec
