"""Linear layers with the LoRA adapters of each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from adapterhub.adapters.target_modules import is_linear_layer
from adapterhub.engine.forward_context import get_forward_context
from adapterhub.engine.layer_changes import LayerChange, layer_change
from adapterhub.kernels.choice import choose_linears
from adapterhub.kernels.linear.packed_layer import PackedLayer
from adapterhub.kernels.lora.plan import LoraPlan, TokenRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.engine.prepared_adapter import LoraFactors
    from adapterhub.kernels.lora.plan import LoraKernel


class LoraLinear(nn.Module):
    """A linear layer of the backbone that adds the LoRA products of each token's adapters.

    Outside of a forward context it computes what the layer itself computes. Attributes that it
    lacks are those of the layer, because some architectures read them.

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
        #: [rank_slots, in_features]
        self.a = torch.empty(0)
        #: [rank_slots, out_features]
        self.b = torch.empty(0)
        #: first rank slots of the adapters with a pair
        self._paired: set[int] = set()
        #: first rank slot of an adapter to what it changes beside its pair
        self._changes: dict[int, LayerChange] = {}

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer itself, such as ``weight``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            base = self.__dict__.get("_modules", {}).get("base")
            if base is None:
                raise
        if name == "weight" and isinstance(base, PackedLayer):
            return base.dense()
        return getattr(base, name)

    @property
    def in_features(self) -> int:
        return linear_shape(self.base)[1]

    @property
    def out_features(self) -> int:
        return linear_shape(self.base)[0]

    @property
    def device(self) -> torch.device:
        """Device of the tables, which is that of the backbone."""
        return self._size[1]

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
        """Copy the tensors of an adapter; its pair to the rank slots from ``start`` on."""
        change = layer_change(factors, self.number, self._size[1], self.dtype)
        if change is not None:
            self._changes[start] = change
        if self.number not in factors.pairs:
            return
        if self._lazy and not self._paired:
            self._allocate()
        self._paired.add(start)
        for table, own in zip((self.a, self.b), factors.pairs[self.number], strict=True):
            table[start : start + len(own)].copy_(own)
            # the adapter's rank may be larger in other layers
            table[start + len(own) : start + factors.rank].zero_()

    def unload(self, start: int) -> None:
        """Remove the adapter whose rank slots begin at ``start``."""
        self._changes.pop(start, None)
        self._paired.discard(start)
        if self._lazy and not self._paired:
            self.a, self.b = torch.empty(0), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in_features]`` to ``[..., out_features]``."""
        context = get_forward_context()
        plan = None if context is None else context.plan(self.number, x.shape)
        if plan is not None and self._changes:
            return self._changed(x, plan)
        y: Tensor = self.base(x)
        if plan is not None:
            y = y.contiguous()
            flat = x.reshape(-1, x.shape[-1]).contiguous()
            self._kernel.add_(y.view(-1, y.shape[-1]), flat.to(y.dtype), self.a, self.b, plan)
        return y

    def _changed(self, x: Tensor, plan: LoraPlan) -> Tensor:
        """Compute the layer where a resident adapter changes more than LoRA pairs do."""
        # only adapters that are used alone change more than a bias, so they have the only slice
        uses = [
            (start, end, self._changes[slices[0].start])
            for start, end, slices in plan.runs
            if slices[0].start in self._changes
        ]
        flat = x.reshape(-1, x.shape[-1])
        if any(change.input_scale is not None for _, _, change in uses):
            flat = flat.clone()
            for start, end, change in uses:
                change.scale_input(flat[start:end])
        flat = flat.contiguous()
        y: Tensor = self.base(flat.view(x.shape)).contiguous()
        tokens, bias = y.view(-1, y.shape[-1]), getattr(self.base, "bias", None)
        for start, end, change in uses:
            change.scale_base(tokens[start:end], bias)
        pairs = self._pairs_of(plan)
        if pairs is not None:
            self._kernel.add_(tokens, flat.to(y.dtype), self.a, self.b, pairs)
        self._add_biases(tokens, plan)
        width = max((self._width(change) for _, _, change in uses), default=tokens.shape[-1])
        tokens = F.pad(tokens, (0, max(width - tokens.shape[-1], 0)))
        for start, end, change in uses:
            change.finish(flat[start:end], tokens[start:end], bias)
        return tokens.view(*x.shape[:-1], tokens.shape[-1])

    def _pairs_of(self, plan: LoraPlan) -> LoraPlan | None:
        """Return a plan without the adapters that have no pair in this layer."""
        slices = {each for run in plan.runs for each in run.slices}
        if all(each.start in self._paired for each in slices):
            return plan
        runs = []
        for start, end, used in plan.runs:
            paired = tuple(each for each in used if each.start in self._paired)
            if paired:
                runs.append(TokenRun(start, end, paired))
        return LoraPlan(runs) if runs else None

    def _add_biases(self, tokens: Tensor, plan: LoraPlan) -> None:
        """Add the biases of a blend, weighted as its products are, in place."""
        for start, end, slices in plan.runs:
            for first, _, weight in slices:
                change = self._changes.get(first)
                if change is not None and change.bias is not None:
                    own = tokens[start:end]
                    own.copy_(own.float() + weight * change.bias)

    def _width(self, change: LayerChange) -> int:
        if change.weight is not None:
            return len(change.weight.weight)
        return self.out_features


def install_lora_linears(
    base_model: nn.Module, dtype: torch.dtype, kernel: LoraKernel
) -> dict[str, LoraLinear]:
    """Replace every linear layer of a base model; return the new ones by module path."""
    paths = _linear_paths(base_model)
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


def _linear_paths(base_model: nn.Module) -> list[str]:
    """Return the paths of the linear layers that compute by their own ``forward``."""
    # such a layer reads the weights of its projections itself
    fused = [each for each in base_model.modules() if isinstance(each, nn.MultiheadAttention)]
    skipped = {child for each in fused for child in each.children()}
    return [
        path
        for path, module in base_model.named_modules()
        if is_linear_layer(module) and module not in skipped
    ]


def linear_shape(base: nn.Module) -> tuple[int, int]:
    """Return the numbers of outputs and inputs of a linear layer."""
    if isinstance(base, Conv1D):
        return int(base.weight.shape[1]), int(base.weight.shape[0])
    return int(base.out_features), int(base.in_features)


def dense_weight(base: nn.Module) -> Tensor:
    """Return the weight of a layer, float32 ``[out_features, in_features]``."""
    if isinstance(base, PackedLayer):
        return base.dense().float()
    weight: Tensor = dequantize_module_weight(base)
    return (weight.t() if isinstance(base, Conv1D) else weight).detach().float()
