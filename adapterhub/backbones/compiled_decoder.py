"""A step of a decoder of the Llama family in one compiled call.

The step's own threads share every phase of it (``kernels.decoder_step``), so that nothing of
Python, and no barrier of another library, lies between the layers. Needed are bfloat16 and layers
in the packed layout of ``kernels.linear``; other backbones use ``FastDecoder``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
import torch
from torch import nn

from adapterhub.kernels import amx
from adapterhub.kernels.decoder_step import fields
from adapterhub.kernels.decoder_step.step import LAYER_PHASES, run_step
from adapterhub.kernels.linear.avx512 import Avx512Layer
from adapterhub.kernels.linear.fields import OUTPUTS, WIDTH
from adapterhub.kernels.linear.layout import GROUP
from adapterhub.kernels.simd import has_avx512_bf16
from adapterhub.kernels.work_sharing import new_counters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.backbones.step_inputs import StepAdapters, StepTokens
    from adapterhub.kernels.attention.kv_cache import KeyValueCache

#: Kinds of rotary embeddings whose angles depend on nothing but the position.
_FIXED_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
#: Number of positions of the first table of rotations.
_FIRST_POSITIONS = 4096


#: Fields of the arrays of ``StepTokens``, and of ``StepAdapters``, in their order.
_TOKEN_ARRAYS = (fields.IDS, fields.ROTATION, fields.SLOTS, fields.CONTEXT, fields.SEQUENCE)
_ADAPTER_ARRAYS = (
    fields.PLANS,
    fields.FIRST_ENTRIES,
    fields.ENTRIES,
    fields.ENTRY_OF,
    fields.SLICES,
    fields.WEIGHTS,
    fields.FIRST_PARTS,
    fields.PARTS,
    fields.RUNS,
    fields.PART_SLOTS,
    fields.PART_WEIGHTS,
)


class StepLinear(NamedTuple):
    """A linear layer of a step."""

    # int64 [FIELDS], see ``multiply_groups``
    description: NDArray[np.int64]
    # tables of rank slots, [rank_slots, in] and [rank_slots, out]
    a: Tensor
    b: Tensor


class CompiledDecoder:
    """Computes the steps of a base model over a KV cache.

    Args:
        base_model: Base model for which ``why_not_compiled`` gives no reason.
        linears: Its linear layers, seven for each layer in the order of ``fields.LINEARS``.
        cache: KV cache.
    """

    def __init__(
        self, base_model: Any, linears: Sequence[StepLinear], cache: KeyValueCache
    ) -> None:
        layers = list(base_model.layers)
        attention = layers[0].self_attn
        self._counters = new_counters(1 + LAYER_PHASES * len(layers))
        descriptions = np.array([each.description for each in linears])
        arrays: dict[int, NDArray[Any]] = {
            fields.COUNTERS: self._counters,
            fields.NUMBERS: np.array(
                [base_model.norm.variance_epsilon, attention.scaling], np.float32
            ),
            fields.LAYERS: np.array([_layer(*each, cache) for each in enumerate(layers)]),
            fields.DESCRIPTIONS: descriptions,
            fields.TABLES: np.array([(e.a.data_ptr(), e.b.data_ptr()) for e in linears], np.int64),
        }
        self._step = _sizes(base_model, attention)
        for field, array in arrays.items():
            self._step[field] = array.ctypes.data
        # what the addresses point to must live as long as this object
        self._owned = (base_model, linears, cache, arrays)
        outputs = descriptions[:, OUTPUTS]
        self._tiled = amx.has_amx() and not (outputs % amx.DEPTH).any()
        self._vocab_size = len(base_model.embed_tokens.weight)
        self._rotations = _Rotations(base_model.rotary_emb)
        self._room = _Room(self._step, descriptions[: len(fields.LINEARS)])

    @property
    def tiled(self) -> bool:
        """Whether adapters of long runs of tokens are multiplied with matrix tiles."""
        return self._tiled

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return int(self._step[fields.NUM_LAYERS])

    def __call__(self, tokens: StepTokens, adapters: StepAdapters) -> Tensor:
        """Return the last hidden states ``[num_tokens, hidden_size]``.

        Raises:
            IndexError: If a token id is outside of the embedding.
        """
        self._check_ids(tokens.ids)
        count = len(tokens.ids)
        normal = torch.empty(count, int(self._step[fields.HIDDEN]), dtype=torch.bfloat16)
        cosine, sine = self._rotations(int(tokens.positions.max()))
        step = self._room.reserve(count, adapters.inner_size)
        step[fields.SEQUENCES], step[fields.NORMAL] = len(tokens.sequences), normal.data_ptr()
        step[fields.COSINE], step[fields.SINE] = cosine.data_ptr(), sine.data_ptr()
        for field, array in zip(_TOKEN_ARRAYS, tokens, strict=True):
            step[field] = array.ctypes.data
        of_adapters: tuple[NDArray[Any], ...] = (*adapters[:6], *adapters.long)
        for field, values in zip(_ADAPTER_ARRAYS, of_adapters, strict=True):
            step[field] = values.ctypes.data
        self._counters.fill(0)
        run_step(num_threads(), step.ctypes.data)
        return normal

    def _check_ids(self, ids: NDArray[np.int64]) -> None:
        """Refuse what compiled code would read from behind the embedding."""
        wrong = ids[(ids < 0) | (ids >= self._vocab_size)]
        if len(wrong):
            raise IndexError(
                f"token id {wrong[0]} is outside of the embedding of {self._vocab_size} tokens"
            )


def why_not_compiled(base_model: Any) -> str | None:
    """Return why a base model has no compiled step, or ``None`` if it has one.

    Args:
        base_model: Base model that ``fast_decoder.can_run`` accepts, with adapted linear layers.
    """
    linears = [getattr(each, "base", each) for each in linear_modules(base_model)]
    width, rotation = base_model.layers[0].self_attn.head_dim, base_model.rotary_emb.rope_type
    hidden = base_model.config.hidden_size
    reasons = {
        "it does not compute in bfloat16": base_model.dtype != torch.bfloat16,
        "this CPU has no AVX-512 BF16": not has_avx512_bf16(),
        "not all of its layers have the packed layout": any(
            not isinstance(each, Avx512Layer) or each.out_features % GROUP for each in linears
        ),
        f"heads of {width} or states of {hidden} values are no multiple of 32": width % 32
        or hidden % 32,
        f"its rotary embeddings are of type {rotation}": rotation not in _FIXED_ROTATIONS,
        "its embedding is of another kind": type(base_model.embed_tokens) is not nn.Embedding,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def num_threads() -> int:
    """Return the number of threads of a compiled call."""
    return min(numba.get_num_threads(), torch.get_num_threads())


def _sizes(model: Any, attention: Any) -> NDArray[np.int64]:
    """Return the fields of a step with the sizes of a decoder."""
    config = model.config
    found = np.zeros(fields.STEP_FIELDS, np.int64)
    found[fields.NUM_LAYERS] = len(model.layers)
    found[fields.HIDDEN], found[fields.INTERMEDIATE] = config.hidden_size, config.intermediate_size
    found[fields.HEADS] = config.num_attention_heads
    found[fields.KV_HEADS] = config.num_key_value_heads
    found[fields.HEAD_DIM] = attention.head_dim
    found[fields.EMBEDDING] = model.embed_tokens.weight.data_ptr()
    found[fields.LAST_NORM] = model.norm.weight.data_ptr()
    return found


def _layer(number: int, layer: Any, cache: KeyValueCache) -> NDArray[np.int64]:
    found = np.zeros(fields.LAYER_FIELDS, np.int64)
    found[fields.INPUT_NORM] = layer.input_layernorm.weight.data_ptr()
    found[fields.POST_NORM] = layer.post_attention_layernorm.weight.data_ptr()
    found[fields.KEYS] = cache.keys[number].data_ptr()
    found[fields.VALUES] = cache.values[number].data_ptr()
    return found


def linear_modules(base_model: Any) -> list[Any]:
    """Return the linear layers of all layers, in the order of ``fields.LINEARS``."""
    return [
        getattr(layer.self_attn if name[0] in "qkvo" else layer.mlp, name)
        for layer in base_model.layers
        for name in fields.LINEARS
    ]


def adapted_linears(base_model: Any) -> list[StepLinear]:
    """Return the linear layers of a base model with the tables of their adapters."""
    return [
        StepLinear(each.base.description, each.a, each.b) for each in linear_modules(base_model)
    ]


class _Rotations:
    """Cosines and sines by position, as the base model's own module computes them."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._tables: tuple[Tensor, Tensor] | None = None

    def __call__(self, position: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of positions up to one, bfloat16 ``[positions, head_dim]``."""
        if self._tables is None or position >= len(self._tables[0]):
            count = max(_FIRST_POSITIONS, 1 << position.bit_length())
            like = torch.empty(1, dtype=torch.bfloat16)
            cosine, sine = self._module(like, torch.arange(count)[None])
            self._tables = cosine[0].contiguous(), sine[0].contiguous()
        return self._tables


class _Room:
    """Memory of a step, which grows with the largest number of tokens.

    Args:
        step: Fields of a step that are the same in all steps.
        descriptions: Descriptions of the linear layers of a decoder layer.
    """

    def __init__(self, step: NDArray[np.int64], descriptions: NDArray[np.int64]) -> None:
        self._step = step
        self._widths = {
            fields.STATE: int(step[fields.HIDDEN]),
            fields.ATTENDED: int(descriptions[fields.OUTPUT, WIDTH]),
        }
        for number, description in enumerate(descriptions):
            self._widths[fields.RESULTS + number] = int(description[OUTPUTS])
        self._tokens = self._inner = -1
        self._memory: list[Tensor] = []

    def reserve(self, tokens: int, inner_size: int) -> NDArray[np.int64]:
        """Return the fields of a step with the addresses of enough memory."""
        if tokens > self._tokens or inner_size > self._inner:
            self._allocate(max(tokens, self._tokens), max(inner_size, self._inner))
        step = self._step.copy()
        step[fields.TOKENS], step[fields.INNER_SIZE] = tokens, self._inner
        return step

    def _allocate(self, tokens: int, inner_size: int) -> None:
        self._tokens, self._inner = tokens, inner_size
        self._memory = []
        for field, width in self._widths.items():
            self._memory.append(torch.empty(tokens, width, dtype=torch.bfloat16))
            self._step[field] = self._memory[-1].data_ptr()
        self._memory.append(torch.empty(len(fields.LINEARS), inner_size))
        self._step[fields.INNER] = self._memory[-1].data_ptr()
