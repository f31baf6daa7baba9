"""Whether adapters change what the base model computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.engine.adapted_layers import LoraEmbedding
from adapterhub.engine.layer_changes import layer_change
from adapterhub.engine.lora_linear import LoraLinear, dense_weight
from adapterhub.engine.parameter_overrides import BASE_WEIGHTS
from adapterhub.engine.prepared_adapter import LoraFactors
from adapterhub.errors import NoEffectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    from torch import Tensor

    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.layer_changes import LayerChange
    from adapterhub.engine.parameter_overrides import LowRankDelta
    from adapterhub.engine.prepared_adapter import PreparedAdapter

    #: LoRA adapters with their weights in a blend.
    _Weighted: TypeAlias = "Sequence[tuple[LoraFactors, float]]"

#: Random inputs of a linear layer, and tokens of an embedding, whose outputs are compared.
_SAMPLES = 16
#: Factors of features as near to 1 as this differ from it by rounding alone, as those of DoRA do.
_NEAR_ONE = 1e-5
#: Most blends of which it is remembered whether they have an effect.
_MOST_KNOWN = 4096


class EffectChecker:
    """Requires that adapters change what the base model computes; safe for several threads.

    Else the base model would answer under their name. A head that reads its input has an effect,
    and so have virtual tokens. All other tensors are compared, layer by layer and until the first
    difference, with what the layer of the backbone computes in its compute type; so what is lost
    in rounding, or cancels out in a blend, has none.

    Args:
        layers: Adapted layers of the backbone.
    """

    def __init__(self, layers: AdaptedLayers) -> None:
        self._layers = layers
        #: adapters with their weights to whether they have an effect
        self._known: dict[tuple[tuple[str, float], ...], bool] = {}
        #: adapter to whether it has a head whose outputs depend on its input
        self._heads: dict[str, bool] = {}

    def check(self, adapter: PreparedAdapter, name: str) -> None:
        """Check an adapter that is used alone.

        Raises:
            NoEffectError: If it changes nothing.
        """
        if not (_has_head(adapter) or self._changes_states([(adapter, 1.0)])):
            raise NoEffectError(
                "does not change the output of the backbone",
                place=name,
                hint="It was stored untrained, or its tensors are all zero; train it again",
            )

    def check_use(
        self,
        keys: tuple[tuple[str, float], ...],
        adapters: Sequence[PreparedAdapter],
        *,
        reads_head: bool,
    ) -> None:
        """Check the adapters of a request, each of which has an effect if it is used alone.

        Args:
            keys: Keys and weights of the adapters.
            adapters: Prepared adapters, in the same order.
            reads_head: Whether the request uses the head of an adapter.

        Raises:
            NoEffectError: If they change nothing together, with these weights or without a head.
        """
        heads = any(
            [self._reads_input(key, each) for (key, _), each in zip(keys, adapters, strict=True)]
        )
        if (reads_head and heads) or not keys:
            return
        if len(keys) == 1 and keys[0][1] == 1.0 and not heads:
            return
        if keys not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            weights = [weight for _, weight in keys]
            self._known[keys] = self._changes_states(list(zip(adapters, weights, strict=True)))
        if not self._known[keys]:
            raise NoEffectError(
                "has an effect by its head alone, which this request does not use"
                if heads
                else "the adapters do not change the output of the backbone with these weights",
                place="model",
                hint="Use the route of its task" if heads else "Give other weights, or none",
            )

    def _reads_input(self, key: str, adapter: PreparedAdapter) -> bool:
        if key not in self._heads:
            if len(self._heads) >= _MOST_KNOWN:
                self._heads.clear()
            self._heads[key] = _has_head(adapter)
        return self._heads[key]

    def _changes_states(self, adapters: Sequence[tuple[PreparedAdapter, float]]) -> bool:
        """Return whether adapters change the hidden states of the base model, or its logits."""
        if any(_acts_alone(adapter) for adapter, _ in adapters):
            return True
        lora = [(each, weight) for each, weight in adapters if isinstance(each, LoraFactors)]
        numbered = self._layers.all
        used = sorted({number for each, weight in lora if weight for number in each.layers})
        # no other thread replaces the backbone's weights while they are read
        with BASE_WEIGHTS, torch.inference_mode():
            return any(_changes_layer(numbered[number], number, lora) for number in used)


def _has_head(adapter: PreparedAdapter) -> bool:
    """Return whether an adapter has a head whose outputs depend on its input."""
    if adapter.head is None:
        return False
    model = adapter.head.head.model
    modules = [model.model.get_submodule(path) for path in model.head_modules]
    return any(bool(t.any()) for m in modules for t in m.state_dict().values() if t.dim() > 1)


def _acts_alone(adapter: PreparedAdapter) -> bool:
    """Return whether an adapter has an effect by more than what its layers add."""
    if not isinstance(adapter, LoraFactors):
        # every token attends to virtual tokens
        return adapter.length > 0
    overrides = adapter.overrides
    # norm layers and whole parameters are kept only where they are not the backbone's own
    whole = bool(adapter.norms or overrides.replaced)
    return whole or any(map(_is_product, overrides.deltas.values()))


def _is_product(delta: LowRankDelta) -> bool:
    """Return whether a low-rank product has a rank whose factors are both other than zero."""
    return bool((delta.left.any(dim=-2) & delta.right.any(dim=-1)).any())


def _changes_layer(layer: object, number: int, adapters: _Weighted) -> bool:
    if isinstance(layer, LoraEmbedding):
        return _changes_embedding(layer, number, adapters)
    return isinstance(layer, LoraLinear) and _changes_linear(layer, number, adapters)


def _changes_linear(layer: LoraLinear, number: int, adapters: _Weighted) -> bool:
    device = layer.device
    changes = [layer_change(each, number, device, layer.dtype) for each, _ in adapters]
    if any(change is not None and _replaces(layer, change) for change in changes):
        return True
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(_SAMPLES, layer.in_features, generator=draw).to(device, layer.dtype)
    y: Tensor = layer.base(x)
    exact = y.double()
    for (adapter, weight), change in zip(adapters, changes, strict=True):
        for a, b in _pair(adapter, number):
            product = (x.double() @ a.to(device).double().t()) @ b.to(device).double()
            exact = exact + weight * product
        if change is not None and change.bias is not None:
            exact = exact + weight * change.bias.double()
    return not torch.equal(exact.to(y.dtype), y)


def _replaces(layer: LoraLinear, change: LayerChange) -> bool:
    """Return whether an adapter scales or replaces features, or vectors of tokens."""
    scales = (change.input_scale, change.magnitude_scale, change.output_scale)
    if any(scale is not None and _differs_from_one(scale) for scale in scales):
        return True
    if change.rows is None:
        # a whole weight is kept only where it is not the backbone's own
        return change.weight is not None
    ids, vectors = change.rows
    return _replaces_rows(ids, vectors, dense_weight(layer.base).to(vectors.dtype))


def _changes_embedding(layer: LoraEmbedding, number: int, adapters: _Weighted) -> bool:
    own = layer.base.weight.detach()
    if any(number in each.weights for each, _ in adapters):
        return True
    rows = [each.rows[number] for each, _ in adapters if number in each.rows]
    if any(_replaces_rows(ids, vectors, own.to(vectors.dtype)) for ids, vectors in rows):
        return True
    scales = [each.magnitude_scales.get(number) for each, _ in adapters]
    if any(scale is not None and _differs_from_one(scale) for scale in scales):
        return True
    # [rank, vocab_size] and [rank, hidden_size] of each
    pairs = [(a, b, weight) for each, weight in adapters for a, b in _pair(each, number)]
    if not pairs:
        return False
    size = torch.stack([a.float().norm(dim=0) for a, _, _ in pairs]).sum(0)
    tokens = size.topk(min(_SAMPLES, len(size))).indices
    before = own[tokens.to(own.device)].cpu()
    exact = before.double()
    for a, b, weight in pairs:
        exact = exact + weight * (a[:, tokens].double().t() @ b.double())
    return not torch.equal(exact.to(before.dtype), before)


def _pair(adapter: LoraFactors, number: int) -> Iterable[tuple[Tensor, Tensor]]:
    return [adapter.pairs[number]] if number in adapter.pairs else []


def _replaces_rows(ids: Tensor, vectors: Tensor, own: Tensor) -> bool:
    if not len(ids):
        return False
    added = int(ids.max()) >= len(own)
    return added or not torch.equal(own[ids.to(own.device)], vectors.to(own.device))


def _differs_from_one(scale: Tensor) -> bool:
    return bool(((scale.float() - 1.0).abs() > _NEAR_ONE).any())
