"""The layers of a backbone that adapters can change: linear, embedding, output and norm layers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from adapterhub.engine.forward_context import get_forward_context
from adapterhub.engine.lora_linear import LoraLinear, install_lora_linears, remove_lora_linears
from adapterhub.engine.prepared_adapter import TokenRows
from adapterhub.errors import EngineError, UntraceableInputError
from adapterhub.kernels.choice import choose_output_layer
from adapterhub.tasks.base import MEDIA_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapter_slots import AdaptedLayer
    from adapterhub.engine.forward_context import ForwardContext
    from adapterhub.engine.prepared_adapter import LoraFactors
    from adapterhub.kernels.lora.plan import LoraKernel, RankSlice

#: What transformers' classes call the layer that gives the vocabulary's logits.
OUTPUT_NAME = "lm_head"

#: A forward hook of torch.
_Hook: TypeAlias = "Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]"


class _ForwardHook:
    """A forward hook that a module has only while an adapter needs it."""

    def __init__(self, module: nn.Module, hook: _Hook) -> None:
        self._module, self._hook = module, hook
        self._handle: RemovableHandle | None = None

    def set(self, *, active: bool) -> None:
        """Add the hook to the module, or remove it."""
        if active and self._handle is None:
            self._handle = self._module.register_forward_hook(self._hook)
        elif not active and self._handle is not None:
            self._handle.remove()
            self._handle = None


class LoraEmbedding:
    """An embedding of the backbone, which a hook changes for the tokens of each adapter.

    peft's LoRA on an embedding looks a token up in ``A`` and multiplies the result by ``B``. An
    adapter may also replace the vectors of single tokens, or have a whole embedding of its own,
    possibly of more tokens. No memory is set aside: a table over the vocabulary is as large as the
    adapter makes it.

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
        #: first rank slot of an adapter to its own embedding
        self._own: dict[int, nn.Module] = {}
        #: first rank slot of an adapter to the vectors of single tokens
        self._rows: dict[int, TokenRows] = {}
        #: ids of the forward pass before unknown ones were replaced
        self._ids: Tensor | None = None
        self._hook = _ForwardHook(base, self._change)
        self._pre_hook: RemovableHandle | None = None

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
        """Copy the tensors of an adapter to the device."""
        device, number = self.base.weight.device, self.number
        if number in factors.pairs:
            a, b = factors.pairs[number]
            up = self._scaled(b).to(device, self.dtype)
            self._pairs[start] = (a.t().contiguous().to(device), up)
        if number in factors.magnitude_scales:
            found = factors.magnitude_scales[number]
            self._magnitude_scales[start] = found.to(device, torch.float32)
        if number in factors.rows:
            ids, vectors = factors.rows[number]
            vectors = self._scaled(vectors).to(device, self.dtype)
            self._rows[start] = TokenRows(ids.to(device), vectors)
        if number in factors.weights:
            weight = factors.weights[number].weight
            own = copy_with(self.base, {"weight": weight})
            own.num_embeddings = len(weight)
            self._own[start] = own
        self._update_hooks()

    def unload(self, start: int) -> None:
        """Remove an adapter; the embedding is unchanged again once the last one is removed."""
        for tensors in (self._pairs, self._magnitude_scales, self._rows, self._own):
            tensors.pop(start, None)
        self._update_hooks()

    def close(self) -> None:
        """Leave the embedding as it was."""
        for tensors in (self._pairs, self._magnitude_scales, self._rows, self._own):
            tensors.clear()
        self._update_hooks()

    def _scaled(self, vectors: Tensor) -> Tensor:
        # Gemma multiplies its embeddings, and peft what it adds to them
        scale = getattr(self.base, "embed_scale", None)
        if scale is None:
            return vectors.float()
        factor = torch.as_tensor(scale).to(self.dtype).float()
        return vectors.float() * factor.to(vectors.device)

    def _update_hooks(self) -> None:
        self._hook.set(active=bool(self._pairs or self._own or self._rows))
        wider = any(own.num_embeddings > self.in_features for own in self._own.values())
        if wider and self._pre_hook is None:
            self._pre_hook = self.base.register_forward_pre_hook(self._replace_unknown)
        elif not wider and self._pre_hook is not None:
            self._pre_hook.remove()
            self._pre_hook = None

    def _replace_unknown(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Let the backbone's embedding read token 0 where an adapter has added a token."""
        if get_forward_context() is None:
            return None
        self._ids = args[0]
        return (torch.where(args[0] < self.in_features, args[0], 0), *args[1:])

    def _change(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        context = get_forward_context()
        ids = args[0] if self._ids is None else self._ids
        self._ids = None
        plan = None if context is None else context.plan(self.number, (*ids.shape, 1))
        if plan is None:
            return None
        flat = ids.reshape(-1)
        embedded = output.reshape(-1, output.shape[-1])
        for start, end, slices in plan.runs:
            self._change_run(flat[start:end], embedded[start:end], slices)
        return embedded.view(output.shape)

    def _change_run(self, ids: Tensor, embedded: Tensor, slices: tuple[RankSlice, ...]) -> None:
        """Change the vectors of one run in place."""
        # an adapter with more than a pair is used alone, so it has the only slice
        first = slices[0].start
        if first in self._own:
            embedded.copy_(self._own[first](ids))
        total = embedded.float()
        if first in self._magnitude_scales:
            total = total * self._magnitude_scales[first]
        for start, _, weight in slices:
            if start in self._pairs:
                a, b = self._pairs[start]
                total = total + weight * (a[ids].float() @ b.float())
        embedded.copy_(total)
        if first in self._rows:
            own_ids, vectors = self._rows[first]
            matches = ids.unsqueeze(1) == own_ids
            places, tokens = matches.nonzero(as_tuple=True)
            embedded[places] = vectors[tokens]


class AdaptedNorm:
    """A norm layer of the backbone, which a hook replaces for tokens whose adapter has its own.

    Adapters hold such layers in full, by peft's ``modules_to_save``, or their biases. The layer may
    read tokens as ``[rows, num_tokens, ...]``, ``[rows * num_tokens, ...]`` or, as Gemma's norms of
    queries and keys, ``[rows, num_heads, num_tokens, head_dim]``.

    Args:
        base: Norm layer of the backbone, which stays in place.
        number: Number of the layer.
    """

    def __init__(self, base: nn.Module, number: int) -> None:
        self.base = base
        self.number = number
        #: whether heads come before tokens, as far as a shape has shown it
        self._heads_first: bool | None = None
        #: first rank slot of an adapter to its own layer
        self._own: dict[int, nn.Module] = {}
        self._hook = _ForwardHook(base, self._replace)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters by name."""
        return {name: tuple(value.shape) for name, value in self.base.named_parameters()}

    def allocate(self, rank_slots: int, device: torch.device) -> None:
        """Do nothing, since each adapter brings its own layer."""

    def load(self, start: int, factors: LoraFactors) -> None:
        """Copy the norm layer of an adapter to the device."""
        self._own[start] = copy_with(self.base, factors.norms[self.number])
        self._hook.set(active=True)

    def unload(self, start: int) -> None:
        """Remove the layer of an adapter."""
        self._own.pop(start, None)
        self._hook.set(active=bool(self._own))

    def close(self) -> None:
        """Leave the layer as it was."""
        self._own.clear()
        self._hook.set(active=False)

    def _replace(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        context = get_forward_context()
        if context is None:
            return None
        states = args[0]
        heads_first = self._reads_heads_first(states, context)
        tokens = states.transpose(1, 2) if heads_first else states
        leading = 2 if tokens.shape[:2] == (context.num_rows, context.length) else 1
        plan = context.plan(self.number, (*tokens.shape[:leading], tokens.shape[-1]))
        if plan is None:
            return None
        total = prod(tokens.shape[:leading])
        whole = context.num_rows * (context.length or 0)
        if plan.runs[0].end - plan.runs[0].start in (total, whole):
            # the same adapter everywhere, in whatever shape
            return self._own[plan.runs[0].slices[0].start](*args)
        if total != whole or len(args) > 1:
            raise UntraceableInputError(
                f"a norm layer received a shape of {list(states.shape)}, in which the tokens of "
                "different adapters can't be distinguished",
                hint="Compute one adapter at a time",
            )
        inputs = tokens.flatten(0, leading - 1)
        found = _by_token(output, heads_first, leading).clone()
        for start, end, slices in plan.runs:
            # an adapter with norm layers is never blended, so it has the only slice
            found[start:end] = self._own[slices[0].start](inputs[start:end])
        return found.view(tokens.shape).transpose(1, 2) if heads_first else found.view(output.shape)

    def _reads_heads_first(self, states: Tensor, context: ForwardContext) -> bool:
        """Return whether the second axis of four counts heads, and the third tokens."""
        if states.dim() != 4:
            return False
        tokens = [states.shape[axis] == context.length for axis in (1, 2)]
        if tokens[0] != tokens[1]:
            self._heads_first = tokens[1]
        if self._heads_first is not None:
            return self._heads_first
        # as many heads as tokens: a projection puts the heads of a token side by side
        return states.stride(1) < states.stride(2)


def _by_token(states: Tensor, heads_first: bool, leading: int) -> Tensor:
    return (states.transpose(1, 2) if heads_first else states).flatten(0, leading - 1)


def copy_with(module: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a module without hooks that shares all but the given parameters."""
    own = copy.copy(module)
    own._forward_hooks = OrderedDict()
    own._forward_pre_hooks = OrderedDict()
    own._parameters = dict(module._parameters)
    for name, tensor in parameters.items():
        before = module.get_parameter(name)
        value = tensor.to(before.device, before.dtype)
        own._parameters[name] = nn.Parameter(value, requires_grad=False)
    return own


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedLayers:
    """The adapted layers of a backbone, numbered in the order of the fields.

    Args:
        base_model: Base model whose layers they are.
        linear: Linear layers by module path below the base model.
        embeddings: Embeddings by module path below the base model.
        output: Output layer of a decoder; its tables exist while an adapter has the layer.
        norms: Norm layers by module path below the base model.
        tied: Path of the embedding whose weight the output layer shares, if it does.
        input_embedding: Path of the embedding of token ids.
    """

    base_model: nn.Module
    linear: Mapping[str, LoraLinear]
    embeddings: Mapping[str, LoraEmbedding]
    output: LoraLinear | None
    norms: Mapping[str, AdaptedNorm]
    tied: str | None = None
    input_embedding: str | None = None

    @property
    def embedding_width(self) -> int:
        """Number of features of an input embedding."""
        if self.input_embedding is None:
            raise EngineError("reads no token ids", place=type(self.base_model).__name__)
        return self.embeddings[self.input_embedding].out_features

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
    body: Any = backbone.base_model
    modules = list(body.named_modules())
    found = [(path, each) for path, each in modules if isinstance(each, nn.Embedding)]
    # norm layers of vision backbones see windows, where the image of a token is unknown, and those
    # of waveforms see samples
    readable = [] if backbone.kind in MEDIA_KINDS else modules
    norms = [(path, each) for path, each in readable if _scales_features(each)]
    linear = install_lora_linears(body, dtype, kernel)
    number = len(linear)
    embeddings = {
        path: LoraEmbedding(each, at, dtype) for at, (path, each) in enumerate(found, start=number)
    }
    number += len(embeddings)
    output = None
    if backbone.lm_head is not None:
        base = choose_output_layer(backbone.lm_head)
        output = LoraLinear(base, number, dtype, kernel, lazy=True)
        number += 1
    adapted_norms = {
        path: AdaptedNorm(each, at) for at, (path, each) in enumerate(norms, start=number)
    }
    tied = None
    if backbone.lm_head is not None:
        weight = getattr(backbone.lm_head, "weight", None)
        tied = next((path for path, each in found if each.weight is weight), None)
    inputs = None if backbone.kind in MEDIA_KINDS else backbone.token_embedding
    read = next((path for path, each in found if each is inputs), None)
    return AdaptedLayers(body, linear, embeddings, output, adapted_norms, tied, read)


def _scales_features(module: nn.Module) -> bool:
    """Return whether a module computes each token by itself with a factor for each feature.

    That holds for norm layers, whatever their class: they have vectors of one length, neither
    matrices, buffers nor parts.
    """
    parameters = list(module.parameters(recurse=False))
    parts = [*module.children(), *module.buffers(recurse=False)]
    vectors = {tuple(each.shape) for each in parameters}
    return not parts and len(vectors) == 1 and len(next(iter(vectors))) == 1
