"""Forward passes of a base model over probes: alone, packed, paged and padded."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from adapterhub.backbones.loading import decoder_probe
from adapterhub.backbones.media_inputs import base_media_inputs, num_positions
from adapterhub.backbones.path_probes import ProbeAdapter, of_media, of_packed, of_rows, of_tokens
from adapterhub.backbones.teacher_forcing import padded, source_inputs
from adapterhub.kernels.attention.kv_cache import KeyValueCache, cache_shape
from adapterhub.kernels.attention.layout import PackedSequences
from adapterhub.kernels.attention.paged import PagedSequence, paged_batch
from adapterhub.kernels.attention.reference import attend_pages
from adapterhub.kernels.attention.transformers_interface import fast_attention, own_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from adapterhub.backbones.path_probes import MediaProbe, Probe
    from adapterhub.kernels.attention.paged import PagedAttention, PagedBatch

_ProbeT_contra = TypeVar("_ProbeT_contra", contravariant=True)

_BLOCK_SIZE = 4
#: Number of probe tokens that are decoded one by one.
_DECODED = 2


class PathRuns:
    """Runs a base model on probes, each with its own strength of a random adapter.

    Every method returns the last hidden states ``[length, hidden_size]`` of each probe in float32.
    """

    def __init__(self, base_model: Any, adapter: ProbeAdapter, *, decoder: bool) -> None:
        self._model = base_model
        self._adapter = adapter
        self._decoder = decoder
        self._device = base_model.device
        accepted = inspect.signature(base_model.forward).parameters
        #: whether the base model distinguishes the segments of a sequence
        self.has_segments = (
            not decoder
            and "token_type_ids" in accepted
            and getattr(base_model.config, "type_vocab_size", 0) > 1
        )
        self._has_positions = "position_ids" in accepted

    def alone(self, probe: Probe, *, noise: float = 0.0) -> Tensor:
        """Return the hidden states by transformers' own forward: the definition of right."""
        inputs = {"input_ids": probe.ids[None], "attention_mask": torch.ones_like(probe.ids[None])}
        if probe.segments is not None:
            inputs["token_type_ids"] = probe.segments[None]
        with self._adapter.active(lambda _: probe.strength, noise), own_attention(self._model):
            return self._hidden(**inputs, **self._cacheless())[0]

    def padded(
        self, probes: Sequence[Probe], *, traced: bool = True, starts: Sequence[int] = ()
    ) -> list[Tensor]:
        """Run a right-padded batch by transformers' own forward.

        Args:
            traced: Whether each sequence has its own strength, found by its place in the batch;
                otherwise all have that of the first.
            starts: Position of the first token of each probe, which the architecture sets itself
                if empty.
        """
        inputs = self._padded_inputs(probes, left=False)
        length = inputs["input_ids"].shape[1]
        if starts and self._has_positions:
            positions = [torch.arange(start, start + length) for start in starts]
            inputs["position_ids"] = torch.stack(positions).to(self._device)
        strengths = [probe.strength for probe in probes]
        shared = strengths[0]
        strength_of = of_rows(strengths, length, self._device) if traced else lambda _: shared
        with self._adapter.active(strength_of), own_attention(self._model):
            hidden = self._hidden(**inputs, **self._cacheless())
        return [each[: len(probe)] for each, probe in zip(hidden, probes, strict=True)]

    def cached(self, probes: Sequence[Probe]) -> list[Tensor]:
        """Run a left-padded batch with transformers' own cache: prefill, then token by token."""
        inputs = self._padded_inputs(probes, left=True)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        length = ids.shape[1]
        strengths = [probe.strength for probe in probes]
        parts: list[Tensor] = []
        cache: dict[str, Any] = {}
        for start, end in _steps(length):
            positions = (mask[:, :end].cumsum(1) - 1).clamp(min=0)[:, start:]
            step = {"input_ids": ids[:, start:end], "attention_mask": mask[:, :end], **cache}
            if self._has_positions:
                step["position_ids"] = positions
            strength_of = of_rows(strengths, end - start, self._device)
            with self._adapter.active(strength_of), own_attention(self._model):
                output = self._model(**step, use_cache=True)
            cache = {"past_key_values": output.past_key_values}
            parts.append(output.last_hidden_state.float())
        hidden = torch.cat(parts, dim=1)
        return [each[length - len(probe) :] for each, probe in zip(hidden, probes, strict=True)]

    def packed(self, probes: Sequence[Probe], starts: Sequence[int]) -> list[Tensor]:
        """Run sequences laid end to end.

        Args:
            starts: Position of the first token of each probe.
        """
        lengths = [len(probe) for probe in probes]
        positions = [torch.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)]
        inputs = {} if not self.has_segments else {"token_type_ids": _joined(probes, "segments")}
        with self._adapter.active(of_packed(list(probes))), fast_attention(self._model):
            hidden = self._hidden(
                input_ids=_joined(probes, "ids"),
                position_ids=torch.cat(positions)[None].to(self._device),
                attention_mask=self._mask(),
                packed=PackedSequences(tuple(lengths)),
                **inputs,
                **self._cacheless(),
            )
        return list(hidden[0].split(lengths))

    def paged(
        self,
        probes: Sequence[Probe],
        config: Any,
        forward: Callable[[Tensor, Tensor, PagedBatch], Tensor] | None = None,
        kernel: PagedAttention = attend_pages,
    ) -> list[Tensor]:
        """Run sequences over a paged KV cache: prefill in chunks beside decoding.

        Args:
            config: Configuration that the shape of the cache is read from.
            forward: Fused forward pass of ids, positions and places of the tokens; the base
                model's own if ``None``.
            kernel: Attention of single tokens; others are compiled on first use.
        """
        paged = _PagedProbes(probes, config, self._model, kernel)
        found: list[list[Tensor]] = [[] for _ in probes]
        for chunks in _schedule(probes):
            ids = torch.cat([probes[i].ids[start:end] for i, start, end in chunks])
            positions = torch.cat([torch.arange(start, end) for _, start, end in chunks])
            batch, each = paged.batch(chunks), [probes[i].strength for i, _, _ in chunks]
            counts = [end - start for _, start, end in chunks]
            strengths = torch.tensor(each).repeat_interleave(torch.tensor(counts)).to(self._device)
            with self._adapter.active(of_tokens(strengths)), fast_attention(self._model):
                hidden = (forward or self._paged_forward)(
                    ids[None], positions[None].to(self._device), batch
                )
            for (i, _, _), own in zip(chunks, hidden.float().split(counts), strict=True):
                found[i].append(own)
        return [torch.cat(parts) for parts in found]

    def _paged_forward(self, ids: Tensor, positions: Tensor, batch: PagedBatch) -> Tensor:
        return self._hidden(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._mask(),
            paged=batch,
            use_cache=False,
        )[0]

    def _hidden(self, **inputs: Any) -> Tensor:
        hidden: Tensor = self._model(**inputs).last_hidden_state
        return hidden.float()

    def _cacheless(self) -> dict[str, Any]:
        return {"use_cache": False} if self._decoder else {}

    def _mask(self) -> Tensor:
        # a 4D mask is passed on unchanged, and this attention needs none
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self._device)

    def _padded_inputs(self, probes: Sequence[Probe], *, left: bool) -> dict[str, Tensor]:
        length = max(map(len, probes))
        filler = getattr(self._model.config.get_text_config(), "pad_token_id", None) or 0
        shape = (len(probes), length)
        ids = torch.full(shape, filler, device=self._device)
        mask, segments = (torch.zeros(shape, dtype=torch.long, device=self._device) for _ in "ms")
        for row, probe in enumerate(probes):
            own = slice(length - len(probe), None) if left else slice(len(probe))
            ids[row, own], mask[row, own] = probe.ids, 1
            if probe.segments is not None:
                segments[row, own] = probe.segments
        inputs = {"input_ids": ids, "attention_mask": mask}
        return {**inputs, "token_type_ids": segments} if self.has_segments else inputs


class BatchRuns(Protocol[_ProbeT_contra]):
    """Runs a model that has no faster path than a batch."""

    def alone(self, probe: _ProbeT_contra, *, noise: float = 0.0) -> Tensor:
        """Return the hidden states of a probe alone."""

    def batched(self, probes: Sequence[_ProbeT_contra]) -> list[Tensor]:
        """Return the hidden states of probes in one batch, each with its own strength."""


class MediaRuns:
    """Runs a base model on images or recordings, each with its own strength of a random adapter.

    Hidden states are ``[tokens, hidden_size]``, or ``[channels * height, width]`` of a feature map.
    """

    def __init__(self, base_model: Any, adapter: ProbeAdapter) -> None:
        self._model = base_model
        self._adapter = adapter

    def alone(self, probe: MediaProbe, *, noise: float = 0.0) -> Tensor:
        """Return the hidden states of an image or recording alone."""
        with self._adapter.active(lambda _: probe.strength, noise):
            return self._hidden([probe])[0]

    def batched(self, probes: Sequence[MediaProbe]) -> list[Tensor]:
        """Return the hidden states of one batch; shorter recordings are padded."""
        strengths = [probe.strength for probe in probes]
        with self._adapter.active(of_media(strengths, self._model.device)):
            return self._hidden(probes)

    def _hidden(self, probes: Sequence[MediaProbe]) -> list[Tensor]:
        media = [probe.media for probe in probes]
        inputs = base_media_inputs(self._model, media) | decoder_probe(self._model, len(probes))
        states: Tensor = self._model(**inputs).last_hidden_state
        counts = num_positions(self._model, media)
        return [
            (own if count is None else own[:count]).float().flatten(0, -2)
            for own, count in zip(states, counts, strict=True)
        ]


class PairRuns:
    """Runs an encoder-decoder on probes as sources, each with its own strength of an adapter.

    The decoder reads the first half of the same tokens. Hidden states are its last ones,
    ``[length // 2, hidden_size]``.
    """

    def __init__(self, base_model: Any, adapter: ProbeAdapter) -> None:
        self._model = base_model
        self._adapter = adapter
        self._padding = getattr(base_model.config, "pad_token_id", None) or 0

    def alone(self, probe: Probe, *, noise: float = 0.0) -> Tensor:
        """Return the hidden states of a pair alone."""
        with self._adapter.active(lambda _: probe.strength, noise):
            return self._hidden([probe])[0]

    def batched(self, probes: Sequence[Probe]) -> list[Tensor]:
        """Return the hidden states of pairs in one batch, padded on the right."""
        strengths = [probe.strength for probe in probes]
        with self._adapter.active(of_media(strengths, self._model.device)):
            return self._hidden(probes)

    def _hidden(self, probes: Sequence[Probe]) -> list[Tensor]:
        sources = [probe.ids.tolist() for probe in probes]
        halves = [source[: len(source) // 2] for source in sources]
        inputs = source_inputs(sources, self._padding, self._model.device)
        decoder_ids = padded(halves, self._padding, self._model.device)
        with own_attention(self._model):
            output = self._model(**inputs, decoder_input_ids=decoder_ids, use_cache=False)
        states: Tensor = output.last_hidden_state.float()
        return [own[: len(half)] for own, half in zip(states, halves, strict=True)]


class _PagedProbes:
    """KV cache and blocks of some probes."""

    def __init__(
        self, probes: Sequence[Probe], config: Any, base_model: Any, kernel: PagedAttention
    ) -> None:
        layers, heads, width = cache_shape(config)
        counts = [-(-len(probe) // _BLOCK_SIZE) for probe in probes]
        self._cache = KeyValueCache(
            layers=layers,
            heads=heads,
            width=width,
            blocks=sum(counts),
            block_size=_BLOCK_SIZE,
            dtype=base_model.dtype,
            device=base_model.device,
        )
        # blocks of a sequence lie apart, in no order
        order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(0))
        self._slots = [
            (blocks[:, None] * _BLOCK_SIZE + torch.arange(_BLOCK_SIZE)).flatten()
            for blocks in order.split(counts)
        ]
        self._kernel = kernel

    def batch(self, chunks: Sequence[tuple[int, int, int]]) -> PagedBatch:
        """Return the places of the tokens of chunks: probe, first token, one past the last."""
        sequences, start, device = [], 0, self._cache.keys[0].device
        for probe, first, end in chunks:
            slots = self._slots[probe][:end].to(device)
            sequences.append(PagedSequence(start, end - first, end, slots))
            start += end - first
        return paged_batch(self._cache, sequences, self._kernel)


def _schedule(probes: Sequence[Probe]) -> list[list[tuple[int, int, int]]]:
    """Return steps that prefill in chunks, beside others that decode."""
    ends = [len(probe) for probe in probes]
    cuts = [
        (0, 0, ends[0] - 1, ends[0], ends[0]),
        (0, ends[1] // 2, ends[1] - 2, ends[1] - 1, ends[1]),
        (0, ends[2] - 3, ends[2] - 2, ends[2] - 1, ends[2]),
        (0, ends[3] - 4, ends[3] - 2, ends[3] - 1, ends[3]),
    ]
    steps = []
    for step in range(len(cuts[0]) - 1):
        spans = [(i, cut[step], cut[step + 1]) for i, cut in enumerate(cuts)]
        steps.append([(i, start, end) for i, start, end in spans if end > start])
    return steps


def _steps(length: int) -> list[tuple[int, int]]:
    """Return the spans of a prefill and of single tokens."""
    first = length - _DECODED
    return [(0, first), *((at, at + 1) for at in range(first, length))]


def _joined(probes: Sequence[Probe], field: str) -> Tensor:
    return torch.cat([getattr(probe, field) for probe in probes])[None]
