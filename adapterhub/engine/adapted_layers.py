"""The layers of a backbone that adapters can change: linear, embedding, output and norm layers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from adapterhub.engine.forward_context import get_forward_context
from adapterhub.engine.lora_linear import LoraLinear, install_lora_linears, remove_lora_linears
from adapterhub.kernels.linear.cpu import OneDnnLinear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapter_slots import AdaptedLayer
    from adapterhub.engine.prepared_adapter import LoraFactors
    from adapterhub.kernels.lora.plan import LoraKernel, LoraPlan

#: What transformers' classes call the layer that gives the vocabulary's logits.
OUTPUT_NAME = "lm_head"

#: Changes a layer's output, given its arguments and the plan of the forward pass.
_Change: TypeAlias = "Callable[[tuple[Any, ...], Tensor, LoraPlan], Tensor]"


class _ForwardHook:
    """A forward hook that a module has only while an adapter needs it."""

    def __init__(
        self, module: nn.Module, number: int, change: _Change, *, heads_first: bool = False
    ) -> None:
        self._module, self._number, self._change = module, number, change
        self._heads_first = heads_first
        self._handle: RemovableHandle | None = None

    def set(self, *, active: bool) -> None:
        """Add the hook to the module, or remove it."""
        if active and self._handle is None:
            self._handle = self._module.register_forward_hook(self._run)
        elif not active and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _run(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        context = get_forward_context()
        if context is None:
            return None
        tokens = output.transpose(1, 2) if self._heads_first else output
        shape = tokens.shape[: min(2, tokens.dim() - 1)] + tokens.shape[-1:]
        plan = context.plan(self._number, shape)
        return None if plan is None else self._change(args, output, plan)


class LoraEmbedding:
    """An embedding of the backbone, to which a hook adds the LoRA pairs of each token.

    peft's LoRA on an embedding looks a token up in ``A`` and multiplies the result by ``B``. No
    memory is set aside: a table over the vocabulary is as large as the adapter makes it.

    Source: ``Embedding`` in ``peft/tuners/lora/layer.py``.
    """

    def __init__(self, base: nn.Embedding, number: int, dtype: torch.dtype) -> None:
        self.base = base
        self.number = number
        self.dtype = dtype
        #: first rank slot to A [vocab_size, rank] and B [rank, hidden_size]
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}
        #: first rank slot of a DoRA adapter to its factor of the embedding, [hidden_size]
        self._magnitude_scales: dict[int, Tensor] = {}
        self._hook = _ForwardHook(base, number, self._add)

    @property
    def in_features(self) -> int:
        return int(self.base.num_embeddings)

    @property
    def out_features(self) -> int:
        return int(self.base.embedding_dim)

    @property
    def nbytes(self) -> int:
        """Bytes of all pairs."""
        return sum(tensor.nbytes for pair in self._pairs.values() for tensor in pair)

    def allocate(self, rank_slots: int, device: torch.device) -> None:
        """Do nothing, since each adapter brings its own tables."""

    def load(self, start: int, factors: LoraFactors) -> None:
        """Copy the pair of an adapter to the device."""
        a, b = factors.pairs[self.number]
        device = self.base.weight.device
        # Gemma multiplies its embeddings, and peft what it adds to them
        scale = getattr(self.base, "embed_scale", None)
        up = b.float() if scale is None else b.float() * scale.to(self.dtype).float().to(b.device)
        self._pairs[start] = (a.t().contiguous().to(device), up.to(device, self.dtype))
        if self.number in factors.magnitude_scales:
            found = factors.magnitude_scales[self.number]
            self._magnitude_scales[start] = found.to(device, torch.float32)
        self._hook.set(active=True)

    def unload(self, start: int) -> None:
        """Remove an adapter; the embedding is unchanged again once the last one is removed."""
        self._pairs.pop(start, None)
        self._magnitude_scales.pop(start, None)
        self._hook.set(active=bool(self._pairs))

    def close(self) -> None:
        """Leave the embedding as it was."""
        self._hook.set(active=False)

    def _add(self, args: tuple[Any, ...], output: Tensor, plan: LoraPlan) -> Tensor:
        ids = args[0].reshape(-1)
        embedded = output.reshape(-1, output.shape[-1])
        for start, end, slices in plan.runs:
            total = embedded[start:end].float()
            scale = self._magnitude_scales.get(slices[0].start)
            if scale is not None:
                total = total * scale
            for first, _, weight in slices:
                a, b = self._pairs[first]
                total = total + weight * (a[ids[start:end]].float() @ b.float())
            embedded[start:end] = total.to(embedded.dtype)
        return embedded.view(output.shape)


class AdaptedNorm:
    """A norm layer of the backbone, which a hook replaces for tokens whose adapter has its own.

    Adapters hold such layers in full, by peft's ``modules_to_save``.

    Args:
        base: Norm layer of the backbone, which stays in place.
        number: Number of the layer.
        heads_first: Whether the input is ``[rows, num_heads, num_tokens, head_dim]``, as of
            Gemma's norms of queries and keys, and not ``[rows, num_tokens, ...]``.
    """

    def __init__(self, base: nn.Module, number: int, *, heads_first: bool) -> None:
        self.base = base
        self.number = number
        self._heads_first = heads_first
        #: first rank slot of an adapter to its own layer
        self._own: dict[int, nn.Module] = {}
        self._hook = _ForwardHook(base, number, self._replace, heads_first=heads_first)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters by name."""
        return {name: tuple(value.shape) for name, value in self.base.named_parameters()}

    def allocate(self, rank_slots: int, device: torch.device) -> None:
        """Do nothing, since each adapter brings its own layer."""

    def load(self, start: int, factors: LoraFactors) -> None:
        """Copy the norm layer of an adapter to the device."""
        own = copy.copy(self.base)
        own._forward_hooks = OrderedDict()
        parameters = factors.norms[self.number]
        own._parameters = {
            name: nn.Parameter(parameters[name].to(value.device, value.dtype), requires_grad=False)
            for name, value in self.base.named_parameters()
        }
        self._own[start] = own
        self._hook.set(active=True)

    def unload(self, start: int) -> None:
        """Remove the layer of an adapter."""
        self._own.pop(start, None)
        self._hook.set(active=bool(self._own))

    def close(self) -> None:
        """Leave the layer as it was."""
        self._hook.set(active=False)

    def _replace(self, args: tuple[Any, ...], output: Tensor, plan: LoraPlan) -> Tensor:
        # [rows * num_tokens, ..., features]
        inputs, outputs = self._by_token(args[0]), self._by_token(output)
        found = outputs.clone()
        for start, end, slices in plan.runs:
            # an adapter with norm layers is never blended, so it has the only slice
            found[start:end] = self._own[slices[0].start](inputs[start:end])
        if not self._heads_first:
            return found.view(output.shape)
        rows, heads, tokens, width = output.shape
        return found.view(rows, tokens, heads, width).transpose(1, 2)

    def _by_token(self, states: Tensor) -> Tensor:
        states = states.transpose(1, 2) if self._heads_first else states
        return states if states.dim() == 2 else states.flatten(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedLayers:
    """The adapted layers of a backbone, numbered in the order of the fields.

    Args:
        base_model: Base model whose layers they are.
        linear: Linear layers by module path below the base model.
        embeddings: Embeddings by module path below the base model.
        output: Output layer of a decoder; its tables exist while an adapter has the layer.
        norms: Norm layers by module path below the base model.
    """

    base_model: nn.Module
    linear: Mapping[str, LoraLinear]
    embeddings: Mapping[str, LoraEmbedding]
    output: LoraLinear | None
    norms: Mapping[str, AdaptedNorm]

    @property
    def pairs(self) -> dict[str, LoraLinear | LoraEmbedding]:
        """Layers that can have LoRA pairs, by module path."""
        outputs = {} if self.output is None else {OUTPUT_NAME: self.output}
        return {**self.linear, **self.embeddings, **outputs}

    @property
    def all(self) -> list[AdaptedLayer]:
        """All layers by number."""
        return [*self.pairs.values(), *self.norms.values()]

    @property
    def hooked(self) -> list[int]:
        """Numbers of the layers that work by forward hooks."""
        return [layer.number for layer in self._hooked()]

    def close(self) -> None:
        """Restore the layers of the base model."""
        for layer in self._hooked():
            layer.close()
        remove_lora_linears(self.base_model, self.linear)

    def _hooked(self) -> Iterator[LoraEmbedding | AdaptedNorm]:
        yield from self.embeddings.values()
        yield from self.norms.values()


def adapt_layers(backbone: Backbone, dtype: torch.dtype, kernel: LoraKernel) -> AdaptedLayers:
    """Make the layers of a backbone adaptable."""
    body = backbone.base_model
    modules = list(body.named_modules())
    found = [(path, each) for path, each in modules if isinstance(each, nn.Embedding)]
    # norm layers of vision backbones see windows, where the image of a token is unknown
    readable = [] if backbone.kind == "vision" else modules
    norms = [(path, each) for path, each in readable if "Norm" in type(each).__name__]
    linear = install_lora_linears(body, dtype, kernel)
    number = len(linear)
    embeddings = {
        path: LoraEmbedding(each, at, dtype) for at, (path, each) in enumerate(found, start=number)
    }
    number += len(embeddings)
    output = None
    if backbone.lm_head is not None:
        head = backbone.lm_head
        # its weight is mostly the embedding's too, which stays as it is
        base = OneDnnLinear(head, keep=True) if OneDnnLinear.supports(head) else head
        output = LoraLinear(base, number, dtype, kernel, lazy=True)
        number += 1
    gemma = str(getattr(body.config, "model_type", "")).startswith("gemma")
    adapted_norms = {
        path: AdaptedNorm(each, at, heads_first=gemma and path.endswith(("q_norm", "k_norm")))
        for at, (path, each) in enumerate(norms, start=number)
    }
    return AdaptedLayers(body, linear, embeddings, output, adapted_norms)
