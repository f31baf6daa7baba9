"""Frozen descriptions shared by training, storage and serving. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

QuantizationScheme = Literal["nf4", "fp4", "int8", "none"]
ComputeDtype = Literal["bfloat16", "float32"]


@dataclass(frozen=True, slots=True)
class QuantizationSpec:
    """How the weights of a backbone's linear layers are held.

    Args:
        scheme: ``nf4`` and ``fp4`` hold 4 bits a weight in blocks of 64, ``int8`` holds
            8 bits with one scale a row, ``none`` holds the compute type itself.
        compute_dtype: the type of activations, and of what is dequantized.
    """

    scheme: QuantizationScheme = "nf4"
    compute_dtype: ComputeDtype = "bfloat16"

    def __str__(self) -> str:
        return f"{self.scheme}/{self.compute_dtype}"


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Low-rank adaptation: ``y = W x + s B A x``, Hu et al. 2021 (arXiv:2106.09685).

    Args:
        rank: inner dimension of ``A`` and ``B``.
        alpha: ``s = alpha / rank``, or ``alpha / sqrt(rank)`` with ``rslora``.
        dropout: probability applied to the input of ``A`` in training.
        target_modules: last parts of module names, or ``("all-linear",)``.
        rslora: rank-stabilised scale, Kalajdzievski 2023 (arXiv:2312.03732).
        dora: weight-decomposed adaptation, Liu et al. 2024 (arXiv:2402.09353).
        init: how peft initialises ``A`` and ``B``; ``default`` makes ``B`` zero.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("all-linear",)
    rslora: bool = False
    dora: bool = False
    init: str = "default"

    @property
    def method(self) -> str:
        return "lora"


@dataclass(frozen=True, slots=True)
class PrefixSpec:
    """Trained keys and values before every layer's own, Li and Liang 2021 (arXiv:2101.00190).

    Args:
        num_virtual_tokens: length of the prefix, in positions.
        projection: re-parametrise the prefix by a small network while training.
    """

    num_virtual_tokens: int = 16
    projection: bool = False

    @property
    def method(self) -> str:
        return "prefix"


AdapterSpec = LoraSpec | PrefixSpec
