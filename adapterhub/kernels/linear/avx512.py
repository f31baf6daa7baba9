"""Linear layers for CPUs with AVX-512 BF16, with packed weights of bfloat16 or 4 bits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch.nn import functional as F

from adapterhub.kernels.amx import has_amx
from adapterhub.kernels.linear import fields, layout, products
from adapterhub.kernels.linear.packed_layer import PackedLayer
from adapterhub.kernels.simd import has_avx512_bf16

if TYPE_CHECKING:
    from typing import TypeGuard

    from numpy.typing import NDArray


#: Largest number of tokens that a CPU without matrix tiles multiplies itself.
MAX_TOKENS = 24
#: Largest number of tokens that a weight that is not packed is multiplied by here.
MAX_ROW_TOKENS = 64


class Avx512Layer(PackedLayer):
    """A layer whose products ``multiply_groups`` computes.

    Args:
        layer: Layer to replace.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        #: argument of ``multiply_groups``: addresses of what this layer holds
        self.description = np.zeros(fields.FIELDS, np.int64)
        self.description[fields.WIDTH] = self.in_features
        self.description[fields.OUTPUTS] = self.out_features
        self.description[fields.TILES] = has_amx()
        self._max_tokens = sys.maxsize if has_amx() else MAX_TOKENS
        if self.bias is not None:
            # held here too, because the bias may be exchanged for a while
            self._bias = self.bias.data.contiguous()
            self.description[fields.BIAS] = self._bias.data_ptr()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        readable = x.dtype == torch.bfloat16 and x.shape[-1] == self.in_features
        if x.requires_grad or x.numel() > self._max_tokens * self.in_features or not readable:
            return F.linear(x, self.dense(), self.bias)
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], self.out_features)
        tokens = x.numel() // self.in_features
        products.multiply_all(
            x.data_ptr(), tokens, self.description, y.data_ptr(), numba.get_num_threads()
        )
        return y


class Avx512Linear(Avx512Layer):
    """A bfloat16 layer with its weight in the packed layout.

    Args:
        layer: Plain linear layer, which is left without a weight until ``unpack``.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self._packed = interleaved(_words(layer.weight.data))
        self.description[fields.WEIGHT] = self._packed.ctypes.data
        layer.weight.data = torch.empty(0, dtype=torch.bfloat16)

    @staticmethod
    def supports(module: nn.Module) -> bool:
        """Return whether a layer is a plain bfloat16 one of whole groups, on a CPU with tiles.

        Without tiles oneDNN is faster for many tokens.
        """
        return (
            type(module) is nn.Linear
            and has_amx()
            and module.weight.device.type == "cpu"
            and module.weight.dtype == torch.bfloat16
            and _is_packable(module)
        )

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``."""
        weight = torch.empty(self.out_features, self.in_features, dtype=torch.bfloat16)
        layout.separate(self._packed, _words(weight))
        return weight

    def unpack(self) -> nn.Linear:
        """Return the original layer with its weight, restored bit by bit."""
        (layer,) = self._layer
        layer.weight.data = self.dense()
        return layer


class AmxRows(Avx512Layer):
    """A bfloat16 layer whose weight stays as it is, because other modules share it.

    Args:
        layer: Plain linear layer, which is left unchanged.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self._weight = layer.weight.data
        self.description[fields.WEIGHT] = self._weight.data_ptr()
        self.description[fields.TILES] = fields.PLAIN_ROWS
        self._max_tokens = MAX_ROW_TOKENS

    @staticmethod
    def supports(module: nn.Module) -> bool:
        """Return whether a layer is a plain bfloat16 one of whole groups, on a CPU with tiles."""
        return Avx512Linear.supports(module) and bool(module.weight.is_contiguous())

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``."""
        return self._weight

    def unpack(self) -> nn.Linear:
        """Return the original layer, which was not changed."""
        return self._layer[0]


class Avx512Linear4bit(Avx512Layer):
    """A 4-bit layer with its codes and scales in the packed layout.

    Weights are dequantized in registers, to the values that bitsandbytes dequantizes them to.

    Args:
        layer: 4-bit layer, which is left without codes and scales until ``unpack``.
    """

    def __init__(self, layer: Linear4bit) -> None:
        super().__init__(layer)
        state = layer.weight.quant_state
        self._shapes = layer.weight.shape, state.absmax.shape
        self._codes = np.empty((self.out_features // layout.GROUP, self.in_features // 8, 16), "u4")
        layout.interleave_codes(_rows(layer.weight.data, self.out_features), self._codes)
        self._scales = interleaved(_rows(state.absmax, self.out_features))
        # float32 [16]: value of each code
        self._table = state.code.contiguous()
        layer.weight.data = torch.empty(0, dtype=torch.uint8)
        state.absmax = torch.empty(0)
        self.description[fields.WEIGHT] = self._codes.ctypes.data
        self.description[fields.SCALES] = self._scales.ctypes.data
        self.description[fields.TABLE] = self._table.data_ptr()
        self.description[fields.BLOCK] = state.blocksize

    @staticmethod
    def supports(module: Any) -> TypeGuard[Linear4bit]:
        """Return whether a layer is a bfloat16 4-bit one of whole groups, on such a CPU."""
        if not isinstance(module, Linear4bit) or module.weight.device.type != "cpu":
            return False
        state = module.weight.quant_state
        return (
            module.weight.dtype == torch.uint8
            and state.dtype == torch.bfloat16
            and state.absmax.dtype == torch.float32
            and not state.nested
            and module.in_features % state.blocksize == 0
            and _is_packable(module)
        )

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``, bit by bit as bitsandbytes dequantizes it."""
        pairs = np.empty((len(self._codes), self.in_features // 2, layout.GROUP), np.uint32)
        products.dequantize_all(self.description, pairs.ctypes.data)
        weight = torch.empty(self.out_features, self.in_features, dtype=torch.bfloat16)
        layout.separate(pairs, _words(weight))
        return weight

    def unpack(self) -> Linear4bit:
        """Return the original layer with its codes and scales, restored bit by bit."""
        (layer,) = self._layer
        codes, scales = (
            torch.empty(shape, dtype=dtype)
            for shape, dtype in zip(self._shapes, (torch.uint8, torch.float32), strict=True)
        )
        layout.separate_codes(self._codes, _rows(codes, self.out_features))
        layout.separate(self._scales, _rows(scales, self.out_features))
        layer.weight.data = codes
        layer.weight.quant_state.absmax = scales
        return layer


def interleaved(rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return words ``[out, n]`` in the packed layout ``[out / 16, n, 16]``."""
    packed = np.empty((len(rows) // layout.GROUP, rows.shape[1], layout.GROUP), np.uint32)
    layout.interleave(rows, packed)
    return packed


def _is_packable(layer: nn.Linear) -> bool:
    return (
        has_avx512_bf16()
        and layer.out_features % layout.GROUP == 0
        and layer.in_features % layout.INPUTS == 0
        and (layer.bias is None or layer.bias.dtype == torch.bfloat16)
    )


def _rows(tensor: Tensor, outputs: int) -> NDArray[np.uint32]:
    """Return a view of a contiguous tensor as words ``[outputs, n]``."""
    words: NDArray[np.uint32] = tensor.view(-1).view(torch.int32).numpy().view(np.uint32)
    return words.reshape(outputs, -1)


def _words(weight: Tensor) -> NDArray[np.uint32]:
    return _rows(weight.contiguous(), len(weight))
