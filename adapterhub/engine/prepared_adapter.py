"""Adapters in the compute type, as host memory holds them and the device copies them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from adapterhub.engine.parameter_overrides import ParameterOverrides

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from adapterhub.engine.heads import TaskHead
    from adapterhub.tasks.base import TargetFrame


class TokenRows(NamedTuple):
    """Vectors of single tokens that replace those of an embedding, or of the output layer."""

    #: int64 [num_tokens]
    ids: Tensor
    #: [num_tokens, hidden_size]
    vectors: Tensor


class OwnWeight(NamedTuple):
    """Weight and bias that replace those of a linear layer, an embedding or the output layer."""

    #: [out_features, in_features], of an embedding [vocab_size, hidden_size]
    weight: Tensor
    #: [out_features]
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LoraFactors:
    """Tensors of an adapter by number of the adapted layer.

    LoRA and what peft stores beside it, and IA³. All but pairs and biases is exact only where the
    adapter is used alone.

    Args:
        rank: Largest rank of the pairs, at least 1.
        pairs: Layer to ``A`` and ``B``; the LoRA scale is folded into ``B``.
        magnitude_scales: Layer to DoRA's factor of the layer's own output.
        norms: Layer to the parameters of a norm layer that the adapter replaces, by name.
        biases: Layer to what is added to its output.
        input_scales: Layer to IA³'s factor of its input.
        output_scales: Layer to IA³'s factor of its output, bias included.
        weights: Layer to its own weight, which takes the place of the backbone's.
        rows: Embedding or output layer to the vectors of single tokens.
        overrides: Parameters that can't be chosen by token; they make the adapter exclusive.
        invocation: Token ids from whose last occurrence in the prompt on the adapter is active
            (aLoRA); empty for an adapter that is active everywhere.
        vocab_size: Number of outputs of its own output layer; ``None`` for the backbone's.
        target_frame: Special tokens around what it writes on an encoder-decoder, if its task tells.
        head: Head and task of an adapter that labels.
    """

    rank: int
    #: A [rank, in_features] and B [rank, out_features], both in the compute type
    pairs: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    #: float32 [out_features]
    magnitude_scales: Mapping[int, Tensor] = field(default_factory=dict)
    #: [hidden_size] each
    norms: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    head: TaskHead | None = None
    #: float32 [out_features]
    biases: Mapping[int, Tensor] = field(default_factory=dict)
    #: float32 [in_features]
    input_scales: Mapping[int, Tensor] = field(default_factory=dict)
    #: float32 [out_features]
    output_scales: Mapping[int, Tensor] = field(default_factory=dict)
    weights: Mapping[int, OwnWeight] = field(default_factory=dict)
    rows: Mapping[int, TokenRows] = field(default_factory=dict)
    overrides: ParameterOverrides = field(default_factory=ParameterOverrides)
    invocation: tuple[int, ...] = ()
    vocab_size: int | None = None
    target_frame: TargetFrame | None = None

    @property
    def layers(self) -> frozenset[int]:
        """Numbers of the layers that the adapter changes."""
        return frozenset((*self.pairs, *self.changed, *self.norms))

    @property
    def changed(self) -> frozenset[int]:
        """Numbers of the layers that the adapter changes by more than a pair."""
        scales = (*self.magnitude_scales, *self.input_scales, *self.output_scales)
        return frozenset((*scales, *self.biases, *self.weights, *self.rows))

    @property
    def exclusive(self) -> bool:
        """Whether its sequences can be computed only among themselves, on the padded path."""
        return bool(self.overrides)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        own = sum(self.layer_bytes(layer) for layer in self.layers)
        return _head_bytes(self.head) + own + self.overrides.nbytes

    def layer_bytes(self, layer: int) -> int:
        """Return the bytes of the tensors of one layer."""
        return sum(tensor.nbytes for tensor in self._tensors(layer))

    def _tensors(self, layer: int) -> Iterator[Tensor]:
        yield from self.pairs.get(layer, ())
        yield from self.norms.get(layer, {}).values()
        yield from self.rows.get(layer, ())
        yield from (each for each in self.weights.get(layer, ()) if each is not None)
        for scales in (
            self.magnitude_scales,
            self.biases,
            self.input_scales,
            self.output_scales,
        ):
            if layer in scales:
                yield scales[layer]


@dataclass(frozen=True, slots=True, eq=False)
class PrefixStates:
    """Keys and values of virtual tokens before each sequence, one tensor per layer.

    Prefix tuning stores them; those of prompt tuning and p-tuning are computed by the base model
    where it is causal.
    """

    #: [num_virtual_tokens, num_kv_heads, head_dim] each
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    head: TaskHead | None = None
    #: whether the base model computed them, so that with another adapter they would differ
    computed: bool = False

    exclusive = False
    invocation = ()

    @property
    def length(self) -> int:
        """Number of virtual tokens."""
        return len(self.keys[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return _head_bytes(self.head) + sum(each.nbytes for each in (*self.keys, *self.values))


@dataclass(frozen=True, slots=True, eq=False)
class PromptEmbeddings:
    """Input embeddings of virtual tokens before each sequence, for the padded path.

    Prompt tuning and p-tuning. The sequence is computed from ``inputs_embeds``: these vectors, then
    the embeddings of its tokens, without any adapter's change of the embedding. Positions and token
    types are those of a sequence that is longer by ``length``; its token types begin with 0.
    """

    #: [num_virtual_tokens, hidden_size]
    embeddings: Tensor
    head: TaskHead | None = None

    computed = True
    exclusive = False
    invocation = ()

    @property
    def length(self) -> int:
        """Number of virtual tokens."""
        return len(self.embeddings)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return _head_bytes(self.head) + self.embeddings.nbytes


#: Adapters of which a request can use one, beside others.
VirtualTokens: TypeAlias = PrefixStates | PromptEmbeddings
PreparedAdapter: TypeAlias = LoraFactors | VirtualTokens


def _head_bytes(head: TaskHead | None) -> int:
    return 0 if head is None else head.nbytes
