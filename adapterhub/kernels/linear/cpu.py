"""Linear layers for CPUs: oneDNN, bitsandbytes' AVX-512 product, and numba for 4 bits."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from bitsandbytes import functional as bnb_functional
from bitsandbytes.nn import Linear4bit
from numba import prange
from torch import Tensor, nn
from torch.nn import functional as F

from adapterhub.kernels.linear.packed_layer import PackedLayer
from adapterhub.kernels.numba_support import as_array, compiled, inlined, narrow

if TYPE_CHECKING:
    from typing import TypeGuard

    from numpy.typing import NDArray

#: Number of tokens that oneDNN chooses its layout for.
_EXPECTED_TOKENS = 32
#: Number of outputs whose codes bitsandbytes' AVX-512 product interleaves.
_INTERLEAVED_OUTPUTS = 32
#: Largest number of tokens that the numba product is used for.
MAX_TOKENS = 24
#: Largest number of tokens that bitsandbytes' AVX-512 product is used for; its time grows with
#: every token, while a dequantized weight serves them all (``benchmarks/LOG.md``).
MAX_AVX512_TOKENS = 40


class OneDnnLinear(PackedLayer):
    """An unquantized layer with its weight in oneDNN's blocked layout.

    torch passes a plain bfloat16 weight to oneDNN at every call, which reorders it each time; for
    the few tokens of a decoding step that costs as much as the product.

    Args:
        layer: Plain linear layer, which is left without a weight until ``unpack``.
        keep: Whether the layer keeps its weight, because other modules share it.
    """

    def __init__(self, layer: nn.Linear, *, keep: bool = False) -> None:
        super().__init__(layer)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.data, _EXPECTED_TOKENS)
        if not keep:
            layer.weight.data = torch.empty(0, dtype=layer.weight.dtype)

    @staticmethod
    def supports(module: nn.Module) -> bool:
        """Return whether a layer is a plain one on a CPU whose oneDNN has its type."""
        return (
            type(module) is nn.Linear
            and module.weight.device.type == "cpu"
            and torch.backends.mkldnn.is_available()
            and (
                module.weight.dtype == torch.float32
                or (
                    module.weight.dtype == torch.bfloat16
                    and torch.ops.mkldnn._is_mkldnn_bf16_supported()
                )
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``."""
        weight: Tensor = self._packed.to_dense()
        return weight

    def unpack(self) -> nn.Linear:
        """Return the original layer with its weight, restored bit by bit."""
        (layer,) = self._layer
        layer.weight.data = self.dense()
        return layer


class Avx512Linear4bit(PackedLayer):
    """A 4-bit layer in the layout of bitsandbytes' AVX-512 BF16 product.

    bitsandbytes' own layer dequantizes its whole weight at every call. This product dequantizes in
    registers, with scales rounded to bfloat16. More than a few tokens share a dequantized weight.

    Args:
        layer: 4-bit layer, which is left without codes until ``unpack``.
    """

    def __init__(self, layer: Linear4bit) -> None:
        super().__init__(layer)
        # packing changes the state in place and rounds its scales
        state = copy.copy(layer.weight.quant_state)
        self._codes, self._state = bnb_functional._convert_weight_packed_for_cpu(
            layer.weight.data, state
        )
        layer.weight.data = torch.empty(0, dtype=torch.uint8)

    @staticmethod
    def supports(module: Any) -> TypeGuard[Linear4bit]:
        """Return whether a layer is a bfloat16 4-bit one on a CPU with AVX-512 BF16."""
        if not isinstance(module, Linear4bit) or not bnb_functional.has_avx512bf16():
            return False
        state = module.weight.quant_state
        return (
            module.weight.device.type == "cpu"
            and module.weight.dtype == torch.uint8
            and state.dtype == torch.bfloat16
            and not state.nested
            and module.out_features % _INTERLEAVED_OUTPUTS == 0
            and module.in_features % state.blocksize == 0
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        if x.numel() > MAX_AVX512_TOKENS * self.in_features:
            return F.linear(x, self.dense(), self.bias)
        state = self._state
        y: Tensor = torch.ops.bitsandbytes.gemv_4bit.default(
            x, self._codes, state.shape, state.absmax, state.code, state.blocksize
        )
        return y if self.bias is None else y + self.bias

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``, dequantized by the exact scales."""
        (layer,) = self._layer
        state = layer.weight.quant_state
        weight = torch.empty(self.out_features, self.in_features, dtype=torch.bfloat16)
        _dequantize_interleaved(
            as_array(self._codes.view(-1, self.in_features // 2, _INTERLEAVED_OUTPUTS)),
            as_array(state.absmax.view(self.out_features, -1)),
            as_array(state.code),
            as_array(weight),
        )
        return weight

    def unpack(self) -> Linear4bit:
        """Return the original layer with its codes, restored bit by bit."""
        (layer,) = self._layer
        layer.weight.data = self._plain_codes()
        return layer

    def _plain_codes(self) -> Tensor:
        state = copy.copy(self._state)
        codes: Tensor = bnb_functional._convert_weight_packed_for_cpu_inverse(self._codes, state)[0]
        return codes


class CpuLinear4bit(PackedLayer):
    """A 4-bit layer in float32, for CPUs on which bitsandbytes has no product of its own.

    bitsandbytes dequantizes the weight by general functions there. Here the two codes of a byte are
    looked up together, the weights of one output stay in the first-level cache while a few tokens
    are multiplied by them, and larger batches are left to the BLAS on dequantized weights.

    Args:
        layer: 4-bit layer, which is left unchanged.
    """

    def __init__(self, layer: Linear4bit) -> None:
        super().__init__(layer)
        state = layer.weight.quant_state
        # uint8 [out, in / 2], two codes per byte
        self._codes = as_array(layer.weight.data.view(self.out_features, -1))
        # float32 [out, in / block_size]
        self._scales = as_array(state.absmax.view(self.out_features, -1))
        # float32 [256, 2]: weights of a byte; its upper half comes first
        self._pairs = as_array(torch.cartesian_prod(state.code, state.code).contiguous())

    @staticmethod
    def supports(module: Any) -> TypeGuard[Linear4bit]:
        """Return whether a layer is a float32 4-bit one on a CPU, with whole blocks per output."""
        if not isinstance(module, Linear4bit) or module.weight.device.type != "cpu":
            return False
        state = module.weight.quant_state
        return (
            module.weight.dtype == torch.uint8
            and state.dtype == torch.float32
            and state.absmax.dtype == torch.float32
            and not state.nested
            and module.in_features % state.blocksize == 0
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        flat = x.reshape(-1, self.in_features)
        if len(flat) > MAX_TOKENS or torch.is_grad_enabled():
            return F.linear(x, self.dense(), self.bias)
        y = x.new_empty(len(flat), self.out_features)
        source = as_array(flat.contiguous())
        _multiply(source, self._codes, self._scales, self._pairs, as_array(y))
        y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``, bit by bit as bitsandbytes dequantizes it."""
        weight = torch.empty(self.out_features, self.in_features)
        _dequantize(self._codes, self._scales, self._pairs, as_array(weight))
        return weight

    def unpack(self) -> Linear4bit:
        """Return the original layer, which was not changed."""
        (layer,) = self._layer
        return layer


@inlined
def _dequantize_output(codes: Any, scales: Any, pairs: Any, output: int, wide: Any) -> None:
    """Write the weights of one output to ``wide`` ``[in]``."""
    blocks = scales.shape[1]
    half = codes.shape[1] // blocks
    for block in range(blocks):
        scale = scales[output, block]
        for index in range(block * half, (block + 1) * half):
            code = codes[output, index]
            wide[2 * index] = pairs[code, 0] * scale
            wide[2 * index + 1] = pairs[code, 1] * scale


@compiled(parallel=True)
def _dequantize(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    pairs: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> None:
    """Write the whole weight ``[out, in]``."""
    for output in prange(codes.shape[0]):
        _dequantize_output(codes, scales, pairs, output, weight[output])


@compiled(parallel=True)
def _dequantize_interleaved(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    values: NDArray[np.float32],
    weight: NDArray[np.uint16],
) -> None:
    """Write the whole weight ``[out, in]``, in bfloat16.

    Args:
        codes: Codes of 32 outputs for two inputs in 32 bytes, ``[out / 32, in / 2, 32]``: byte
            ``t`` has those of outputs ``t // 2`` and, in its upper half, ``16 + t // 2`` for
            input ``t % 2``. Source: ``_convert_weight_packed_for_cpu`` of bitsandbytes.
        scales: Scale of each block of an output, ``[out, blocks]``.
        values: Value of each code, ``[16]``.
        weight: Bits of the result.
    """
    blocks = scales.shape[1]
    size = weight.shape[1] // blocks
    for group in prange(codes.shape[0]):
        rounded = np.empty(16, np.uint16)
        for place in range(32):
            output, byte = 32 * group + place, 2 * (place % 16)
            shift = 4 * (place // 16)
            for block in range(blocks):
                for code in range(16):
                    rounded[code] = narrow(values[code] * scales[output, block], weight[0, 0])
                for column in range(block * size, (block + 1) * size, 2):
                    first = codes[group, column // 2, byte]
                    second = codes[group, column // 2, byte + 1]
                    weight[output, column] = rounded[(first >> shift) & 15]
                    weight[output, column + 1] = rounded[(second >> shift) & 15]


@compiled(parallel=True)
def _multiply(
    x: NDArray[np.float32],
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    pairs: NDArray[np.float32],
    y: NDArray[np.float32],
) -> None:
    """Write ``y = x Wᵀ``, ``[num_tokens, out]``, for ``x`` ``[num_tokens, in]``."""
    for output in prange(codes.shape[0]):
        wide = np.empty(x.shape[1], np.float32)
        _dequantize_output(codes, scales, pairs, output, wide)
        for token in range(x.shape[0]):
            total = np.float32(0.0)
            for k in range(x.shape[1]):
                total += wide[k] * x[token, k]
            y[token, output] = total
