"""Linear layers for CPUs without matrix tiles: oneDNN, and numba for 4 bits in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from bitsandbytes.nn import Linear4bit
from numba import prange
from torch import Tensor, nn
from torch.nn import functional as F

from adapterhub.kernels.linear.packed_layer import PackedLayer
from adapterhub.kernels.numba_support import as_array, compiled, inlined

if TYPE_CHECKING:
    from typing import TypeGuard

    from numpy.typing import NDArray

#: Number of tokens that oneDNN chooses its layout for.
_EXPECTED_TOKENS = 32
#: Largest number of tokens that the numba product is used for.
MAX_TOKENS = 24


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
