"""Linear layers that add the adapters of each row to what the backbone computes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from bitsandbytes.nn import Linear4bit
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from adapterhub.engine.forward_context import get_forward_context
from adapterhub.kernels.choice import has_triton
from adapterhub.kernels.linear.cpu import Avx512Linear4bit, CpuLinear4bit, OneDnnLinear
from adapterhub.kernels.linear.packed_layer import PackedLayer

if TYPE_CHECKING:
    from adapterhub.kernels.lora.plan import LoraKernel, LoraPlan

_LOG = logging.getLogger(__name__)


class LoraLinear(nn.Module):
    """A linear layer of the backbone with tables of rank rows beside it.

    Without a current step it is the layer itself.
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
        """Stand in for a layer.

        Args:
            base: the layer, quantized or not.
            number: of the site, which steps and slots know it by.
            dtype: compute type of the backbone, and of the tables.
            kernel: adds the products.
            lazy: have tables only while an adapter of this layer is in them.
        """
        super().__init__()
        self.base = base
        self.number = number
        self.dtype = dtype
        self._kernel = kernel
        self._lazy = lazy
        self._place: tuple[int, torch.device] = (0, torch.device("cpu"))
        #: first rank rows of the adapters in lazy tables
        self._written: set[int] = set()
        #: [rank rows, in] and [rank rows, out]
        self.a = torch.empty(0)
        self.b = torch.empty(0)
        #: first rank row of a DoRA adapter to what the layer's output is multiplied by, [out]
        self._gains: dict[int, Tensor] = {}

    @property
    def in_features(self) -> int:
        return int(self.base.in_features)

    @property
    def out_features(self) -> int:
        return int(self.base.out_features)

    def make_tables(self, rows: int, device: torch.device) -> None:
        """Set memory aside for ``rows`` rank rows; the pages are touched when written to."""
        self._place = (rows, device)
        if not self._lazy:
            self._allocate()

    def _allocate(self) -> None:
        rows, device = self._place
        self.a = torch.empty(rows, self.in_features, dtype=self.dtype, device=device)
        self.b = torch.empty(rows, self.out_features, dtype=self.dtype, device=device)

    def write_rows(self, row: int, a: Tensor, b: Tensor, gain: Tensor | None = None) -> None:
        """Copy an adapter in.

        Args:
            row: first of its rank rows.
            a: ``[rank, in]``.
            b: ``[rank, out]``.
            gain: of DoRA, ``[out]``.
        """
        if self._lazy:
            if not self._written:
                self._allocate()
            self._written.add(row)
        self.a[row : row + len(a)].copy_(a)
        self.b[row : row + len(b)].copy_(b)
        if gain is not None:
            self._gains[row] = gain.to(self.a.device, torch.float32)

    def forget_rows(self, row: int) -> None:
        """Drop what is known of the adapter whose first rank row this was."""
        self._gains.pop(row, None)
        if row in self._written:
            self._written.remove(row)
            if not self._written:
                self.a, self.b = torch.empty(0), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        y: Tensor = self.base(x)
        step = get_forward_context()
        plan = None if step is None else step.plan(self.number, x.numel() // x.shape[-1])
        if plan is not None:
            y = y.contiguous()
            rows = y.view(-1, y.shape[-1])
            if self._gains:
                self._multiply(rows, plan)
            flat = x.reshape(-1, x.shape[-1]).contiguous()
            self._kernel.add_(rows, flat.to(y.dtype), self.a, self.b, plan)
        return y

    def _multiply(self, rows: Tensor, plan: LoraPlan) -> None:
        """Multiply the layer's own output of rows with DoRA, without its bias, in place."""
        bias = self.base.bias
        for start, end, parts in plan.runs:
            gain = self._gains.get(parts[0].start)
            if gain is None:
                continue
            own = rows[start:end].float()
            own = own * gain if bias is None else (own - bias.float()) * gain + bias.float()
            rows[start:end] = own.to(rows.dtype)


def install_sites(body: nn.Module, dtype: torch.dtype, kernel: LoraKernel) -> dict[str, LoraLinear]:
    """Put a site in the place of every linear layer of a body; return them by module path."""
    paths = [path for path, module in body.named_modules() if isinstance(module, nn.Linear)]
    sites: dict[str, LoraLinear] = {}
    for number, path in enumerate(paths):
        parent, _, name = path.rpartition(".")
        holder = body.get_submodule(parent)
        site = LoraLinear(packed(getattr(holder, name)), number, dtype, kernel)
        setattr(holder, name, site)
        sites[path] = site
    _say_what_is_not_fused([site.base for site in sites.values()])
    return sites


def packed(layer: nn.Module) -> nn.Module:
    """Return the fastest layer that computes the same here, or the layer itself."""
    if OneDnnLinear.supports(layer):
        return OneDnnLinear(layer)
    if Avx512Linear4bit.supports(layer):
        return Avx512Linear4bit(layer)
    if isinstance(layer, Linear4bit) and has_triton(layer.weight.device.type):
        return fused(layer)
    return CpuLinear4bit(layer) if CpuLinear4bit.supports(layer) else layer


def fused(layer: Linear4bit) -> nn.Module:
    """Return a layer that Triton computes, or the layer itself where it can't."""
    from adapterhub.kernels.linear.triton import TritonLinear4bit

    return TritonLinear4bit(layer) if TritonLinear4bit.supports(layer) else layer


def _say_what_is_not_fused(bases: list[nn.Module]) -> None:
    """Log once how many 4-bit layers on a GPU are left to bitsandbytes."""
    left = [
        base
        for base in bases
        if isinstance(base, Linear4bit) and has_triton(base.weight.device.type)
    ]
    if left:
        _LOG.warning(
            "%d of %d layers are computed by bitsandbytes' own 4-bit product, because their "
            "scales are quantized themselves or their width is no multiple of a block",
            len(left),
            len(bases),
        )


def remove_sites(body: nn.Module, sites: dict[str, LoraLinear]) -> None:
    """Put the layers back that ``install_sites`` replaced."""
    for path, site in sites.items():
        parent, _, name = path.rpartition(".")
        base = site.base
        layer = base.unpack() if isinstance(base, PackedLayer) else base
        setattr(body.get_submodule(parent), name, layer)


def dense_weight(base: nn.Module) -> Tensor:
    """Return the weight ``[out, in]`` that a layer multiplies by, in float32."""
    if isinstance(base, PackedLayer):
        return base.dense().float()
    weight: Tensor = dequantize_module_weight(base)
    return weight.detach().float()
