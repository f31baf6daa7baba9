"""Linear layers with the LoRA adapters of each token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from adapterhub.engine.forward_context import get_forward_context
from adapterhub.kernels.choice import choose_linears
from adapterhub.kernels.linear.packed_layer import PackedLayer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.engine.prepared_adapter import LoraFactors
    from adapterhub.kernels.lora.plan import LoraKernel, LoraPlan


class LoraLinear(nn.Module):
    """A linear layer of the backbone that adds the LoRA products of each token's adapters.

    Outside of a forward context it computes what the layer itself computes.

    Args:
        base: Layer of the backbone, quantized or not.
        number: Number of the layer.
        dtype: Compute type of the backbone and of the tables.
        kernel: Kernel that adds the products.
        lazy: Whether the tables exist only while an adapter of this layer is resident.
    """

    def __init__(
        self,
        base: nn.Module,
        number: int,
        dtype: torch.dtype,
        kernel: LoraKernel,
        *,
        lazy: bool = False,
    ) -> None:
        super().__init__()
        self.base = base
        self.number = number
        self.dtype = dtype
        self._kernel = kernel
        self._lazy = lazy
        self._size: tuple[int, torch.device] = (0, torch.device("cpu"))
        #: first rank slots of the adapters in lazy tables
        self._loaded: set[int] = set()
        #: [rank_slots, in_features]
        self.a = torch.empty(0)
        #: [rank_slots, out_features]
        self.b = torch.empty(0)
        #: first rank slot of a DoRA adapter to its factor of the output, [out_features]
        self._magnitude_scales: dict[int, Tensor] = {}

    @property
    def in_features(self) -> int:
        return int(self.base.in_features)

    @property
    def out_features(self) -> int:
        return int(self.base.out_features)

    def allocate(self, rank_slots: int, device: torch.device) -> None:
        """Set memory aside for the tables; its pages are touched when adapters are loaded."""
        self._size = (rank_slots, device)
        if not self._lazy:
            self._allocate()

    def _allocate(self) -> None:
        rank_slots, device = self._size
        self.a = torch.empty(rank_slots, self.in_features, dtype=self.dtype, device=device)
        self.b = torch.empty(rank_slots, self.out_features, dtype=self.dtype, device=device)

    def load(self, start: int, factors: LoraFactors) -> None:
        """Copy the pair of an adapter to the rank slots from ``start`` on."""
        a, b = factors.pairs[self.number]
        if self._lazy:
            if not self._loaded:
                self._allocate()
            self._loaded.add(start)
        self.a[start : start + len(a)].copy_(a)
        self.b[start : start + len(b)].copy_(b)
        if self.number in factors.magnitude_scales:
            scale = factors.magnitude_scales[self.number]
            self._magnitude_scales[start] = scale.to(self.a.device, torch.float32)

    def unload(self, start: int) -> None:
        """Remove the adapter whose rank slots begin at ``start``."""
        self._magnitude_scales.pop(start, None)
        if start in self._loaded:
            self._loaded.remove(start)
            if not self._loaded:
                self.a, self.b = torch.empty(0), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in_features]`` to ``[..., out_features]``."""
        y: Tensor = self.base(x)
        context = get_forward_context()
        plan = None if context is None else context.plan(self.number, x.shape)
        if plan is not None:
            y = y.contiguous()
            tokens = y.view(-1, y.shape[-1])
            if self._magnitude_scales:
                self._scale(tokens, plan)
            flat = x.reshape(-1, x.shape[-1]).contiguous()
            self._kernel.add_(tokens, flat.to(y.dtype), self.a, self.b, plan)
        return y

    def _scale(self, tokens: Tensor, plan: LoraPlan) -> None:
        """Multiply the layer's own output without its bias by DoRA's factors, in place."""
        bias = self.base.bias
        for start, end, slices in plan.runs:
            scale = self._magnitude_scales.get(slices[0].start)
            if scale is None:
                continue
            own = tokens[start:end].float()
            own = own * scale if bias is None else (own - bias.float()) * scale + bias.float()
            tokens[start:end] = own.to(tokens.dtype)


def install_lora_linears(
    base_model: nn.Module, dtype: torch.dtype, kernel: LoraKernel
) -> dict[str, LoraLinear]:
    """Replace every linear layer of a base model; return the new ones by module path."""
    paths = [path for path, module in base_model.named_modules() if isinstance(module, nn.Linear)]
    layers: dict[str, LoraLinear] = {}
    bases = choose_linears([base_model.get_submodule(path) for path in paths])
    for number, (path, base) in enumerate(zip(paths, bases, strict=True)):
        parent, _, name = path.rpartition(".")
        layers[path] = LoraLinear(base, number, dtype, kernel)
        setattr(base_model.get_submodule(parent), name, layers[path])
    return layers


def remove_lora_linears(base_model: nn.Module, layers: Mapping[str, LoraLinear]) -> None:
    """Restore the layers that ``install_lora_linears`` replaced."""
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        base = layer.base
        own = base.unpack() if isinstance(base, PackedLayer) else base
        setattr(base_model.get_submodule(parent), name, own)


def dense_weight(base: nn.Module) -> Tensor:
    """Return the weight of a layer, float32 ``[out_features, in_features]``."""
    if isinstance(base, PackedLayer):
        return base.dense().float()
    weight: Tensor = dequantize_module_weight(base)
    return weight.detach().float()
