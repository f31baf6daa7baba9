"""A batch of sequences that transformers' own class computes in lock step, with its own cache.

Everything that differs between architectures is left to transformers: ``generate`` prepares mask,
positions and the initial cache and hands them over before its first step, and the class prepares
the inputs of each step. So every kind of cache works, and logits come from the class's ``forward``.

Source: ``generate`` and ``_sample`` in ``transformers/generation/utils.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    GenerationMixin,
)
from transformers.modeling_outputs import BaseModelOutput

from adapterhub.engine.prepared_adapter import PrefixStates, PromptEmbeddings
from adapterhub.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from adapterhub.engine.prepared_adapter import VirtualTokens

#: Names under which transformers' classes hand over what they keep between steps.
_CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")
#: Inputs with a dimension of sequences, counted from the end.
_SEQUENCE_DIMENSIONS = {"attention_mask": -2, "position_ids": -2}
#: What ``generate`` hands to its loop and not to the model.
_NOT_INPUTS = frozenset(
    {"generation_config", "logits_processor", "stopping_criteria", "synced_gpus", "streamer"}
)


class LockStepBatch:
    """Token sequences, what the model keeps of them, and the logits of their next tokens.

    Sequences of different lengths are padded on the left.

    Args:
        model: transformers' class for causal language models, around the backbone's base model.
        sequences: Token ids of each sequence.
        pad_token: Token id of padding; of finished sequences too, whose logits nobody reads.
        virtual: Trained keys and values, or input embeddings, before the tokens of every sequence.
        all_logits: Whether the class computes the logits of every token, for output layers that
            must tell the tokens of a sequence apart.
        sources: What the encoder of an encoder-decoder reads, by the names of its arguments.
            ``sequences`` then are the decoder's, of equal length. The encoder computes at once, so
            a forward context must be set.
    """

    def __init__(
        self,
        model: Any,
        sequences: Sequence[Sequence[int]],
        *,
        pad_token: int,
        virtual: VirtualTokens | None = None,
        all_logits: bool = False,
        sources: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._model, self._pad_token = model, pad_token
        #: number of sequences
        self.size = len(sequences)
        longest = max(len(tokens) for tokens in sequences)
        missing = [longest - len(tokens) for tokens in sequences]
        self._num_virtual = extra = 0 if virtual is None else virtual.length
        rows = [
            [pad_token] * (extra + count) + list(tokens)
            for count, tokens in zip(missing, sequences, strict=True)
        ]
        mask = torch.ones(self.size, extra + longest, dtype=torch.long)
        for index, count in enumerate(missing):
            mask[index, extra : extra + count] = 0
        #: [size, length]; the ids of virtual tokens are never read
        self._ids = torch.tensor(rows, device=model.device)
        self._first = True
        prefix = virtual if isinstance(virtual, PrefixStates) else None
        if sources is None:
            cache = _prefix_cache(model, prefix, self.size)
            given = {} if cache is None else {"past_key_values": cache}
            self._inputs = _prepare(model, self._ids, mask.to(model.device), **given)
        else:
            self._inputs = _encode(model, sources, self._ids)
        if all_logits:
            self._inputs.pop("logits_to_keep", None)
        self._num_cached = 0 if prefix is None else prefix.length
        self._prompt = virtual.embeddings if isinstance(virtual, PromptEmbeddings) else None
        self._step: dict[str, Any] = {}

    @property
    def length(self) -> int:
        """Number of virtual tokens, padding and tokens of each sequence."""
        return self._ids.shape[1]

    def prepare(self) -> int:
        """Prepare the next forward pass; return how many tokens of each sequence it computes.

        Mostly one after the first pass, but some classes compute all tokens again.
        """
        count = 1 if self._inputs["use_cache"] else None
        options: dict[str, Any] = {}
        if self._first:
            cached = self._inputs.get("past_key_values") is not None
            count = self.length - self._num_cached if cached else None
            options = {"is_first_iteration": True}
            if self._prompt is not None:
                options["inputs_embeds"] = self._embeddings(self._prompt)
        self._step = self._model.prepare_inputs_for_generation(
            self._ids, next_sequence_length=count, **options, **self._inputs
        )
        names = ("inputs_embeds", "input_ids", "decoder_input_ids")
        given = [self._step.get(name) for name in names]
        computed = next(int(each.shape[1]) for each in given if each is not None)
        if self._num_virtual and computed > self.length - self._num_cached - (not self._first):
            raise EngineError(
                "the architecture computes all tokens again, which virtual tokens do not allow",
                place="adapters",
                hint="Use a LoRA adapter on it",
            )
        return computed

    def _embeddings(self, prompt: Tensor) -> Tensor:
        """Return a prompt's vectors before the embeddings of the tokens."""
        embedded = self._model.get_input_embeddings()(self._ids[:, len(prompt) :])
        vectors = prompt.to(embedded.device, embedded.dtype).expand(self.size, -1, -1)
        return torch.cat([vectors, embedded], dim=1)

    def compute(self) -> Tensor:
        """Compute what is prepared; return the logits of the next tokens ``[size, vocab_size]``."""
        output = self._model(**self._step, return_dict=True)
        self._inputs = self._model._update_model_kwargs_for_generation(
            output, self._inputs, bool(self._model.config.is_encoder_decoder)
        )
        self._first, self._step = False, {}
        logits: Tensor = output.logits[:, -1]
        return logits

    def append(self, tokens: Sequence[int | None]) -> None:
        """Append a token to each sequence; ``None`` stands for a finished one."""
        ids = [self._pad_token if token is None else token for token in tokens]
        new = torch.tensor(ids, device=self._ids.device)
        self._ids = torch.cat([self._ids, new.unsqueeze(1)], dim=1)

    def keep(self, indices: Sequence[int]) -> bool:
        """Keep only these sequences, if transformers can select them in what the model keeps."""
        cache = self._cache()
        others = {
            name
            for name, value in self._inputs.items()
            if isinstance(value, torch.Tensor) and name not in _SEQUENCE_DIMENSIONS
        }
        # a class of its own may keep more than the layers of the cache know of
        if not _can_select(cache) or others:
            return False
        index = torch.tensor(indices, device=self._ids.device)
        cache.reorder_cache(index)
        encoded = self._inputs.get("encoder_outputs")
        if encoded is not None:
            states = encoded.last_hidden_state.index_select(0, index)
            self._inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=states)
        for name, dimension in _SEQUENCE_DIMENSIONS.items():
            value = self._inputs.get(name)
            if value is not None and value.shape[dimension] == self.size:
                self._inputs[name] = value.index_select(value.dim() + dimension, index)
        self._ids = self._ids.index_select(0, index)
        self.size = len(indices)
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that the model keeps."""
        return sum(tensor.nbytes for tensor in _tensors(self._cache()))

    def _cache(self) -> Any:
        return next((found for name in _CACHES if (found := self._inputs.get(name))), None)


def _can_select(cache: Any) -> bool:
    """Return whether transformers can select sequences in a cache."""
    if type(cache) is EncoderDecoderCache:
        return _can_select(cache.self_attention_cache) and _can_select(cache.cross_attention_cache)
    return type(cache) is DynamicCache


def _encode(model: Any, sources: Mapping[str, Tensor], ids: Tensor) -> dict[str, Any]:
    """Run the encoder; return the inputs beside the decoder's tokens, as ``_prepare`` does."""
    return _prepare(
        model,
        sources[model.main_input_name],
        sources.get("attention_mask"),
        # else transformers puts a first token before tokens that begin otherwise
        start=ids[:, 0].tolist(),
        decoder_input_ids=ids,
    )


def _prepare(
    model: Any, ids: Tensor, mask: Tensor | None, *, start: list[int] | None = None, **given: Any
) -> dict[str, Any]:
    """Return the inputs beside token ids that ``generate`` prepares for its first step.

    Args:
        start: First token of each sequence of a decoder beside an encoder.
        given: Further inputs.
    """
    prepared: dict[str, Any] = {}

    def take(_model: Any, input_ids: Tensor, **inputs: Any) -> Tensor:
        prepared.update(inputs)
        return input_ids

    # the settings of a checkpoint may ask for beams, sampling or another cache
    settings = GenerationConfig(max_new_tokens=1, do_sample=False, num_beams=1, use_cache=True)
    settings.min_length = 0
    settings.decoder_start_token_id = start
    if mask is not None:
        given["attention_mask"] = mask
    # a class of recordings has a loop over windows around it
    GenerationMixin.generate(model, ids, generation_config=settings, custom_generate=take, **given)
    return {name: value for name, value in prepared.items() if name not in _NOT_INPUTS}


def _prefix_cache(model: Any, prefix: PrefixStates | None, size: int) -> DynamicCache | None:
    """Return a cache that begins with the keys and values of a prefix, for each sequence."""
    if prefix is None:
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    for layer, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
        # [size, num_kv_heads, num_virtual_tokens, head_dim]
        states = [
            each.transpose(0, 1).unsqueeze(0).expand(size, -1, -1, -1).to(model.device)
            for each in (keys, values)
        ]
        cache.update(states[0], states[1], layer)
    return cache


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a cache, in its layers or in lists and dictionaries."""
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict):
        yield from (tensor for each in found.values() for tensor in _tensors(each))
    elif isinstance(found, list | tuple):
        yield from (tensor for each in found for tensor in _tensors(each))
    elif hasattr(found, "__dict__"):
        yield from _tensors(vars(found))
