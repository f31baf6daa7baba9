"""Forward passes of a task's class over batches: packed where that is right, else padded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from adapterhub.backbones.media_inputs import (
    groups_of_shapes,
    media_inputs,
    num_positions,
    with_blanks,
)
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.backbones.teacher_forcing import (
    alike,
    pads_targets,
    teacher_forced_inputs,
    transcript_inputs,
)
from adapterhub.data.packing import pad
from adapterhub.errors import BackboneError
from adapterhub.kernels.attention.layout import PackedSequences
from adapterhub.kernels.attention.transformers_interface import fast_attention, own_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.forward_paths import ForwardPaths
    from adapterhub.backbones.head_model import HeadModel
    from adapterhub.data.packing import PackedBatch, PaddedBatch

#: Largest difference of two equal computations, in rounding errors of the largest value.
_ROUNDINGS = 8


class TaskHead:
    """The head of a class, applied to hidden states of single positions.

    Args:
        heads: Class whose head it is.
    """

    def __init__(self, heads: HeadModel) -> None:
        self._heads = heads
        self._frozen_weight: list[nn.Parameter | None] = []

    @property
    def frozen_weight(self) -> nn.Parameter | None:
        """The frozen output embeddings ``[vocab_size, hidden_size]`` of a causal LM.

        ``None`` where the class's output step is more than their product with hidden states.
        """
        if not self._frozen_weight:
            self._frozen_weight.append(_plain_output_weight(self._heads))
        weight = self._frozen_weight[0]
        return None if weight is None or weight.requires_grad else weight

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map hidden states ``[n, hidden_size]`` to logits ``[n, classes]``."""
        logits = self._heads.logits_of(hidden.unsqueeze(1))
        return logits.squeeze(1) if logits.dim() == 3 else logits


class LogitsHead:
    """The head where the class computed the logits itself."""

    #: There is no single matrix to compute the loss with.
    frozen_weight: nn.Parameter | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Return logits ``[n, classes]`` unchanged."""
        return logits


class TaskForward:
    """Runs a class on batches, by the forward path that is right for the backbone.

    Args:
        heads: Class for the task around the backbone's base model.
        paths: Verdict on the backbone's forward paths.
        has_prefix: Whether trained keys and values precede every sequence.
    """

    def __init__(
        self, heads: HeadModel, backbone: Backbone, paths: ForwardPaths, *, has_prefix: bool
    ) -> None:
        self.heads = heads
        self._backbone = backbone
        self._paths = paths
        #: whether batches of texts run packed, else padded
        self.packed = (
            paths.packed
            and heads.base_name is not None
            and not (has_prefix and has_window(backbone.config))
            and (
                heads.kind == "causal_lm" or reads_selected(heads, last=backbone.kind == "decoder")
            )
        )
        #: whether ``outputs`` are hidden states, which the head has still to read
        self.gives_states = self.packed or (
            heads.kind == "causal_lm" and heads.base_name is not None
        )
        self.head: TaskHead | LogitsHead = TaskHead(heads) if self.gives_states else LogitsHead()
        self._pads_targets: bool | None = None

    def outputs(
        self,
        batch: PackedBatch,
        embedded: Tensor | None = None,
        prompt: Callable[[int], Any] | None = None,
    ) -> Tensor:
        """Return the input of ``head`` at ``batch.select``, ``[selected, width]``.

        Args:
            embedded: Input embeddings ``[tokens + fill, hidden_size]`` in place of the tokens.
            prompt: Returns the keys and values before a number of sequences.
        """
        if batch.media is not None and self.heads.kind == "speech_seq2seq":
            return self._transcripts(batch, batch.media)
        if batch.media is not None:
            return self._media(batch.media)
        if self.heads.kind == "seq2seq_lm":
            return self._teacher_forced(batch, embedded)
        if self.gives_states:
            return self.states(batch, embedded, prompt)
        return self._padded(batch, embedded, prompt, self.heads.forward)

    def states(
        self,
        batch: PackedBatch,
        embedded: Tensor | None = None,
        prompt: Callable[[int], Any] | None = None,
    ) -> Tensor:
        """Return the last hidden states at ``batch.select``, ``[selected, hidden_size]``."""
        if self.packed:
            return self._packed(batch, embedded, prompt)
        return self._padded(batch, embedded, prompt, self._base_states)

    def features(self, batch: PackedBatch) -> Tensor:
        """Return the input of the head's last layer at ``batch.select``, ``[selected, width]``."""
        if self.packed:
            states = self.states(batch)
            features = _captured(self.heads, lambda: self.head(states))
            return features.squeeze(1) if features.dim() == 3 else features

        def read(inputs: dict[str, Any]) -> Tensor:
            return _captured(self.heads, lambda: self.heads.forward(inputs))

        return self._padded(batch, None, None, read)

    def _packed(
        self, batch: PackedBatch, embedded: Tensor | None, prompt: Callable[[int], Any] | None
    ) -> Tensor:
        base_model, inputs = self.heads.base_model, dict[str, Any]()
        if embedded is None:
            inputs["input_ids"] = batch.input_ids.unsqueeze(0)
        else:
            inputs["inputs_embeds"] = embedded.unsqueeze(0)
        positions = batch.position_ids + self._paths.position_offset
        if batch.segment_ids is not None and self.heads.has_segments:
            inputs["token_type_ids"] = batch.segment_ids.unsqueeze(0)
        if prompt is not None:
            inputs["past_key_values"] = prompt(1)
            positions = positions + inputs["past_key_values"].get_seq_length()
        if self._backbone.kind == "decoder":
            inputs["use_cache"] = False
        with fast_attention(base_model):
            output = base_model(
                position_ids=positions.unsqueeze(0),
                # a four-dimensional mask is passed on unchanged; attention uses the lengths instead
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=positions.device),
                packed=PackedSequences(batch.lengths),
                **inputs,
            )
        states: Tensor = output.last_hidden_state[0, batch.select]
        return states

    def _padded(
        self,
        batch: PackedBatch,
        embedded: Tensor | None,
        prompt: Callable[[int], Any] | None,
        read: Callable[[dict[str, Any]], Tensor],
    ) -> Tensor:
        """Return what ``read`` makes of padded inputs, at the selected positions."""
        padded = pad(batch, self.heads.padding_token)
        together = self._paths.padding and embedded is None
        outputs, places = [], []
        for sequences, length in _groups(batch.lengths, together=together):
            rows = torch.tensor(sequences, device=padded.input_ids.device)
            inputs = self._inputs(padded, rows, length, embedded)
            if prompt is not None:
                _put_before(inputs, prompt(len(sequences)))
            with own_attention(self._backbone.base_model):
                output = read(inputs)
            selected = torch.isin(padded.sequences, rows)
            own = torch.searchsorted(rows, padded.sequences[selected])
            at = (own, padded.positions[selected]) if output.dim() == 3 else (own,)
            outputs.append(output[at])
            places.append(selected.nonzero().squeeze(1))
        found = torch.cat(outputs)
        return found[torch.argsort(torch.cat(places))] if len(outputs) > 1 else found

    def _teacher_forced(self, batch: PackedBatch, embedded: Tensor | None) -> Tensor:
        """Return the logits of all targets, each after the targets before it."""
        if embedded is not None:
            raise BackboneError("an encoder-decoder is not computed from embeddings here")
        sources = [each.tolist() for each in batch.input_ids[: batch.tokens].split(batch.lengths)]
        targets = [each.tolist() for each in batch.targets.split(batch.selected)]
        found: dict[int, Tensor] = {}
        if self._pads_targets is None:
            self._pads_targets = self._paths.padding and pads_targets(self.heads)
        for rows in alike(sources, targets, together=self._pads_targets):
            inputs = teacher_forced_inputs(
                self.heads.model,
                [sources[row] for row in rows],
                [targets[row] for row in rows],
                self.heads.padding_token,
            )
            with own_attention(self._backbone.base_model):
                logits = self.heads.forward(inputs)
            found |= {row: own[: len(targets[row])] for row, own in zip(rows, logits, strict=True)}
        return torch.cat([found[row] for row in range(len(sources))])

    def _transcripts(self, batch: PackedBatch, media: Sequence[Tensor]) -> Tensor:
        """Return the logits of all targets, each after its recording and the targets before it."""
        targets = [each.tolist() for each in batch.targets.split(batch.selected)]
        dtype = torch_dtype(self._backbone.quantization.compute_dtype)
        every = range(len(targets))
        found: list[Tensor] = []
        for rows in [list(every)] if self._paths.padding else [[row] for row in every]:
            prompts = [batch.prompts[row] for row in rows]
            inputs = transcript_inputs(
                media_inputs(self.heads.model, [media[row].to(dtype) for row in rows]),
                prompts,
                [targets[row] for row in rows],
                self.heads.padding_token,
            )
            with own_attention(self._backbone.base_model):
                logits = self.heads.forward(inputs)
            for row, prompt, own in zip(rows, prompts, logits, strict=True):
                start = len(prompt) - 1
                found.append(own[start : start + len(targets[row])])
        return torch.cat(found)

    def _inputs(
        self, padded: PaddedBatch, rows: Tensor, length: int, embedded: Tensor | None
    ) -> dict[str, Any]:
        inputs: dict[str, Any] = {"attention_mask": padded.attention_mask[rows, :length]}
        if embedded is None:
            inputs["input_ids"] = padded.input_ids[rows, :length]
        else:
            whole = embedded.new_zeros(*padded.input_ids.shape, embedded.shape[-1])
            places = (padded.token_sequences, padded.token_positions)
            whole = whole.index_put(places, embedded[: len(padded.token_sequences)])
            inputs["inputs_embeds"] = whole[rows, :length]
        if padded.segment_ids is not None and self.heads.has_segments:
            inputs["token_type_ids"] = padded.segment_ids[rows, :length]
        return inputs

    def _base_states(self, inputs: dict[str, Any]) -> Tensor:
        heads = self.heads
        states: Tensor = heads.base_model(**heads.base_inputs(inputs)).last_hidden_state
        return states

    def _media(self, media: Sequence[Tensor]) -> Tensor:
        dtype = torch_dtype(self._backbone.quantization.compute_dtype)
        found: dict[int, Tensor] = {}
        for group in groups_of_shapes(media, together=self._paths.padding):
            own = [media[index].to(dtype) for index in group]
            logits = self.heads.forward(media_inputs(self.heads.model, own))
            if logits.dim() == 3:
                counts = num_positions(self.heads.base_model, own)
                logits = [each[:count] for each, count in zip(logits, counts, strict=True)]
            found |= dict(zip(group, logits, strict=True))
        outputs = [found[index] for index in range(len(media))]
        return torch.stack(outputs if outputs[0].dim() == 1 else with_blanks(outputs))


def has_window(config: Any) -> bool:
    """Return whether attention of some layer is limited to a window."""
    layers = DynamicCache(config=config.get_text_config()).layers
    return any(getattr(layer, "is_sliding", False) for layer in layers)


def reads_selected(heads: HeadModel, *, last: bool) -> bool:
    """Return whether the head of a class needs only the states at the positions that it reads.

    Some classes read the mean of all tokens, or more than one of them. One short text is computed
    both ways.

    Args:
        last: Whether a text is read at its last token, else at its first.
    """
    texts = [token for token in range(3, 12) if token != heads.padding_token][:6]
    ids = torch.tensor([texts], device=heads.model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        with torch.no_grad(), own_attention(heads.base_model):
            output = heads.base_model(**heads.base_inputs(inputs))
            whole, states = heads.logits_of(output, inputs), output.last_hidden_state
            if whole.dim() == 3:
                single, whole = TaskHead(heads)(states[0]), whole[0]
            else:
                single = TaskHead(heads)(states[:, -1 if last else 0])
    except (BackboneError, RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    return bool(whole.any()) and _is_close(single, whole, states.dtype)


def _plain_output_weight(heads: HeadModel) -> nn.Parameter | None:
    """Return the output embeddings if logits are their product with hidden states."""
    layer = heads.model.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    if type(layer) is not nn.Linear or not isinstance(weight, nn.Parameter):
        return None
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, weight.shape[1], generator=generator).to(weight)
    with torch.no_grad():
        # so large that a soft cap shows
        hidden = hidden * (100 / F.linear(hidden, weight).abs().max())
        logits = heads.logits_of(hidden.unsqueeze(1)).squeeze(1)
        expected = F.linear(hidden, weight)
    return weight if _is_close(logits, expected, weight.dtype) else None


def _is_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    if found.shape != expected.shape:
        return False
    tolerance = max(_ROUNDINGS * torch.finfo(dtype).eps, 1e-5)
    scale = float(expected.abs().max()) or 1.0
    return float((found.float() - expected.float()).abs().max()) <= tolerance * scale


def _groups(lengths: tuple[int, ...], *, together: bool) -> Iterator[tuple[list[int], int]]:
    """Yield sequences that are computed at once, in ascending order, and their longest length."""
    if together:
        yield list(range(len(lengths))), max(lengths)
        return
    for length in sorted(set(lengths)):
        yield [index for index, own in enumerate(lengths) if own == length], length


def _put_before(inputs: dict[str, Any], cache: Any) -> None:
    """Add trained keys and values before the sequences of a batch."""
    mask = inputs["attention_mask"]
    before = mask.new_ones(len(mask), cache.get_seq_length())
    inputs |= {"past_key_values": cache, "attention_mask": torch.cat([before, mask], dim=1)}


def _captured(heads: HeadModel, compute: Callable[[], Tensor]) -> Tensor:
    """Return the input of the head's last layer in a computation."""
    found: list[Tensor] = []
    handle = heads.output_layer.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    try:
        compute()
    finally:
        handle.remove()
    return found[-1]
