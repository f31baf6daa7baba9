"""Forward passes of pooling sequences by transformers' own classes, padded and mixed over adapters.

This path is right for every architecture that transformers loads. How sequences share a forward
pass follows what the check of the backbone found: sequences of different lengths only where
padding changes nothing, and of different adapters only where layers can tell rows apart.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.utils import ModelOutput

from adapterhub.backbones.media_inputs import media_inputs, num_positions
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.data.batching import batches_by_length
from adapterhub.engine.adapter_slots import BASE_MODEL
from adapterhub.engine.forward_context import PaddedForwardContext, set_forward_context
from adapterhub.engine.heads import with_modules
from adapterhub.errors import UntraceableInputError
from adapterhub.kernels.attention.transformers_interface import own_attention

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.forward_paths import ForwardPaths
    from adapterhub.backbones.head_model import HeadModel
    from adapterhub.engine.adapter_manager import AdapterManager
    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.head_check import HeadCheck
    from adapterhub.engine.heads import AdapterHead
    from adapterhub.engine.pooling_requests import PoolingSequence
    from adapterhub.engine.prepared_adapter import PrefixStates

_LOG = logging.getLogger(__name__)


class PaddedPooling:
    """Computes logits or hidden states of pooling sequences on the padded path.

    Args:
        backbone: Frozen backbone.
        adapters: Manager of the adapters.
        paths: What the check of the backbone found.
        check: Check of the classes for heads.
        max_tokens: Most tokens of a batch, padding included; a longer sequence is a batch alone.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterManager,
        paths: ForwardPaths,
        check: HeadCheck,
        max_tokens: int,
    ) -> None:
        self._backbone, self._adapters, self._max_tokens = backbone, adapters, max_tokens
        self._check = check
        self._padding, self._mixed = paths.padding, paths.mixed
        self._media_type = torch_dtype(backbone.quantization.compute_dtype)
        config = backbone.config.get_text_config()
        self._padding_token = int(getattr(config, "pad_token_id", None) or 0)

    def groups(self, sequences: Sequence[PoolingSequence]) -> list[list[PoolingSequence]]:
        """Split sequences into those that share a forward pass, the same heads side by side."""
        found: dict[Hashable, list[PoolingSequence]] = {}
        for sequence in sequences:
            found.setdefault(self._shared(sequence), []).append(sequence)
        groups = []
        for members in found.values():
            lengths = [len(each.example) for each in members]
            for indices in batches_by_length(lengths, self._max_tokens):
                chosen = [members[index] for index in indices]
                heads = list(dict.fromkeys(each.head for each in chosen))
                groups.append(sorted(chosen, key=lambda each: heads.index(each.head)))
        return groups

    def logits(
        self, sequences: list[PoolingSequence], media: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Return logits ``[num_selected, num_classes]`` of the sequences of a group with heads.

        Args:
            sequences: Sequences of a group.
            media: Input of each, where they are images or recordings.
        """
        parts = self._parts(sequences)
        try:
            return self._logits(sequences, media)
        except UntraceableInputError as error:
            self._unmix(parts, error)
        found: list[Tensor] = []
        for start, end in parts:
            found += self._logits(sequences[start:end], media and media[start:end])
        return found

    def hidden(self, sequences: list[PoolingSequence]) -> list[Tensor]:
        """Return the last hidden states ``[num_tokens, hidden_size]`` of a group."""
        parts = self._parts(sequences)
        try:
            return self._hidden(sequences)
        except UntraceableInputError as error:
            self._unmix(parts, error)
        return [each for start, end in parts for each in self._hidden(sequences[start:end])]

    def _shared(self, sequence: PoolingSequence) -> Hashable:
        """Return what the sequences of a forward pass have in common."""
        head, virtual = sequence.head, bool(sequence.num_virtual_tokens)
        alone = not self._mixed or virtual or _blend(sequence).exclusive
        divided = head is None or self._check.divided(head, sequence.example)
        # classes find the end of a sequence by its tokens, and virtual ones have none
        equal = not self._padding or virtual or not self.pads(sequence)
        return (
            None if head is None else type(head.model.model),
            None if divided else head,
            sequence.adapters if alone else None,
            len(sequence.example) if equal and sequence.example.media is None else None,
        )

    def pads(self, sequence: PoolingSequence) -> bool:
        """Return whether the class for the head of a sequence allows padding."""
        return sequence.head is None or self._check.padding(sequence.head, sequence.example)

    def _parts(self, sequences: list[PoolingSequence]) -> list[tuple[int, int]]:
        """Return start and end of neighbours that use the same head and adapters."""
        parts, start = [], 0
        for _, members in groupby(sequences, key=lambda each: (each.head, each.adapters)):
            end = start + len(list(members))
            parts.append((start, end))
            start = end
        return parts

    def _unmix(self, parts: list[tuple[int, int]], error: UntraceableInputError) -> None:
        """Compute one adapter at a time from now on."""
        if len(parts) == 1:
            raise error
        _LOG.info("%s computes one adapter at a time: %s", self._backbone.name, error)
        self._mixed = False

    def _logits(
        self, sequences: list[PoolingSequence], media: Sequence[Tensor] | None
    ) -> list[Tensor]:
        heads = [each.head for each in sequences if each.head is not None]
        model = heads[0].model
        if media is None:
            inputs, virtual = self._text_inputs(sequences, model)
        else:
            device, dtype = self._backbone.device, self._media_type
            inputs, virtual = media_inputs(model.model, [x.to(device, dtype) for x in media]), 0
        with self._computing(sequences, _length(inputs)):
            if len(set(heads)) == 1:
                parts = [model.forward(inputs)]
            else:
                parts = _mixed_logits(heads, inputs)
        rows = [row.float().cpu() for part in parts for row in part]
        if media is not None and rows[0].dim() > 1:
            counts = num_positions(model.base_model, media)
            return [row[:count] for row, count in zip(rows, counts, strict=True)]
        return [
            row.unsqueeze(0)
            if row.dim() == 1
            else row[[at + virtual for at in each.example.select]]
            for row, each in zip(rows, sequences, strict=True)
        ]

    def _hidden(self, sequences: list[PoolingSequence]) -> list[Tensor]:
        base_model = self._backbone.base_model
        inputs, virtual = self._text_inputs(sequences, None)
        accepted = inspect.signature(base_model.forward).parameters
        chosen = {name: value for name, value in inputs.items() if name in accepted}
        with self._computing(sequences, _length(inputs)):
            states = base_model(**chosen).last_hidden_state
        return [
            row[virtual : virtual + len(each.example)]
            for row, each in zip(states, sequences, strict=True)
        ]

    @contextmanager
    def _computing(self, sequences: list[PoolingSequence], length: int | None) -> Iterator[None]:
        """Compute with the adapters of sequences inside the block."""
        base_model = self._backbone.base_model
        if length is None:
            rows = [[(1, _blend(each))] for each in sequences]
        else:
            rows = [each.runs for each in sequences]
        context = PaddedForwardContext(rows, length)
        with (
            own_attention(base_model),
            _blend(sequences[0]).override(base_model),
            set_forward_context(context),
        ):
            yield

    def _text_inputs(
        self, sequences: list[PoolingSequence], model: HeadModel | None
    ) -> tuple[dict[str, Any], int]:
        """Return the inputs of a class or of the base model, and by how much results are longer."""
        device, length = self._backbone.device, max(len(each.example) for each in sequences)
        padding = self._padding_token if model is None else model.padding_token
        examples = [each.example for each in sequences]
        missing = [length - len(each) for each in examples]
        ids = [
            [*example.input_ids, *[padding] * count]
            for example, count in zip(examples, missing, strict=True)
        ]
        mask = [[1] * (length - count) + [0] * count for count in missing]
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
            "use_cache": False,
        }
        if any(example.segment_ids for example in examples):
            segments = [
                [*(example.segment_ids or [0] * len(example)), *[0] * count]
                for example, count in zip(examples, missing, strict=True)
            ]
            inputs["token_type_ids"] = torch.tensor(segments, device=device)
        return self._with_virtual_tokens(inputs, sequences[0], model)

    def _with_virtual_tokens(
        self, inputs: dict[str, Any], sequence: PoolingSequence, model: HeadModel | None
    ) -> tuple[dict[str, Any], int]:
        """Put the virtual tokens of a sequence, if any, before those of all sequences.

        Source: ``forward`` of ``PeftModelForSequenceClassification`` in ``peft/peft_model.py``.
        """
        if not sequence.num_virtual_tokens:
            return inputs, 0
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        inputs["attention_mask"] = F.pad(mask, (sequence.num_virtual_tokens, 0), value=1)
        for prefix in self._adapters.prefixes(sequence):
            config = self._backbone.config
            inputs["past_key_values"] = prefix_cache(prefix, config, len(ids), ids.device)
            return inputs, 0
        prompt = self._adapters.prompt(sequence)
        if prompt is None:
            return inputs, 0
        embedded = self._backbone.base_model.get_input_embeddings()(ids)
        vectors = prompt.embeddings.to(embedded).expand(len(ids), -1, -1)
        inputs["inputs_embeds"] = torch.cat([vectors, embedded], dim=1)
        del inputs["input_ids"]
        if "token_type_ids" in inputs:
            inputs["token_type_ids"] = F.pad(inputs["token_type_ids"], (prompt.length, 0))
        if model is not None:
            # sequences have one length, and a class without a padding token accepts but one
            config = model.model.config.get_text_config()
            config.pad_token_id = model.padding_token
        return inputs, prompt.length


def prefix_cache(
    prefix: PrefixStates, config: Any, size: int, device: torch.device
) -> DynamicCache:
    """Return a cache that begins with the keys and values of a prefix, for each sequence."""
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    for layer, states in enumerate(zip(prefix.keys, prefix.values, strict=True)):
        # [size, num_kv_heads, num_virtual_tokens, head_dim]
        keys, values = (
            each.transpose(0, 1).unsqueeze(0).expand(size, -1, -1, -1).to(device) for each in states
        )
        cache.update(keys, values, layer)
    return cache


def _blend(sequence: PoolingSequence) -> Blend:
    return sequence.blend or BASE_MODEL


def _length(inputs: Mapping[str, Any]) -> int | None:
    """Return the number of positions that layers compute for each text."""
    for name in ("input_ids", "inputs_embeds"):
        if name in inputs:
            return int(inputs[name].shape[1])
    return None


def _mixed_logits(heads: Sequence[AdapterHead], inputs: Mapping[str, Any]) -> list[Tensor]:
    """Return the logits of rows with different heads of a class, one tensor for each head.

    Args:
        heads: Head of each row, the same side by side.
        inputs: Inputs of the class.
    """
    spans, start = [], 0
    for head, members in groupby(heads):
        end = start + len(list(members))
        spans.append((head, start, end))
        start = end
    own = {
        path: _ModuleOfRow(
            [(head.model.model.get_submodule(path), end - start) for head, start, end in spans]
        )
        for path in heads[0].template.nested
    }
    model = with_modules(heads[0].model, own)
    output = model.base_model(**model.base_inputs(inputs))
    return [
        head.model.logits_of(
            _rows(output, start, end, len(heads)), _rows(inputs, start, end, len(heads))
        )
        for head, start, end in spans
    ]


def _rows(value: Any, start: int, end: int, count: int) -> Any:
    """Return rows of all tensors whose first dimension is the rows."""
    if isinstance(value, Tensor):
        return value[start:end] if value.dim() and len(value) == count else value
    if isinstance(value, Mapping):
        rows = {name: _rows(each, start, end, count) for name, each in value.items()}
        return type(value)(**rows) if isinstance(value, ModelOutput) else rows
    if isinstance(value, list | tuple):
        return type(value)([_rows(each, start, end, count) for each in value])
    return value


class _ModuleOfRow(nn.Module):
    """Applies another module to each part of the rows.

    Args:
        parts: Module and number of rows of each part.
    """

    def __init__(self, parts: Sequence[tuple[nn.Module, int]]) -> None:
        super().__init__()
        self._parts = list(parts)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        count, start, found = sum(size for _, size in self._parts), 0, []
        given = [*args, *kwargs.values()]
        if not any(isinstance(each, Tensor) and len(each) == count for each in given):
            raise UntraceableInputError("a layer of the head received no rows")
        for module, size in self._parts:
            end = start + size
            found.append(
                module(*_rows(args, start, end, count), **_rows(kwargs, start, end, count))
            )
            start = end
        return torch.cat(found)
