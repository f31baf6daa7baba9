"""Forward passes of pooling requests, mixed over adapters."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.backbones.heads import without_pooler
from adapterhub.backbones.media_inputs import groups_of_shapes
from adapterhub.data.packing import pack
from adapterhub.engine.adapter_slots import BASE_MODEL
from adapterhub.engine.forward_context import ForwardContext, set_forward_context
from adapterhub.engine.head_check import FAULTS, HeadCheck
from adapterhub.engine.padded_pooling import PaddedPooling
from adapterhub.errors import AdapterHubError, ComputeError, EngineError
from adapterhub.kernels.attention.layout import PackedSequences
from adapterhub.kernels.attention.transformers_interface import fast_attention
from adapterhub.tasks.base import MEDIA_KINDS
from adapterhub.tasks.table import reads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.forward_paths import ForwardPaths
    from adapterhub.data.packing import PackedBatch
    from adapterhub.engine.adapter_manager import AdapterManager
    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.heads import AdapterHead
    from adapterhub.engine.pair_scoring import PairScorer
    from adapterhub.engine.pooling_requests import PoolingSequence
    from adapterhub.tasks.base import Task

_LOG = logging.getLogger(__name__)


class PoolingRunner:
    """Computes pooling sequences of any adapters, as many as possible in one forward pass.

    The hidden states of each sequence are read by its own head or the backbone's output layer, or
    pooled to an embedding. Sequences are packed where that equals transformers' own forward, and
    padded elsewhere.

    Args:
        backbone: Frozen backbone.
        adapters: Manager of the adapters.
        output: Output layer of a decoder: maps hidden states ``[n, hidden_size]`` and the blend
            of each to logits ``[n, vocab_size]``.
        paths: What the check of the backbone found.
        max_tokens: Most tokens of a padded batch.
        pairs: Scorer of the targets of an encoder-decoder.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterManager,
        output: Callable[[Tensor, list[Blend]], Tensor],
        paths: ForwardPaths,
        max_tokens: int,
        pairs: PairScorer | None = None,
    ) -> None:
        self._pairs = pairs
        self._backbone, self._adapters, self._output = backbone, adapters, output
        self._paths = paths
        base_model: Any = backbone.base_model
        # the pooler would read the first token of the whole batch
        pools = getattr(base_model, "pooler", None) is not None
        self._body = without_pooler(base_model) if pools else base_model
        self._check = HeadCheck(backbone)
        self._padded = PaddedPooling(backbone, adapters, paths, self._check, max_tokens)
        #: most tokens of a sequence, virtual tokens included
        self.max_length = max_length(backbone)
        self.num_computed = 0

    def __call__(self, sequences: Sequence[PoolingSequence]) -> None:
        """Set the result or the error of each sequence."""
        if self._pairs is not None:
            scored = [each for each in sequences if each.scored_by is not None]
            for group in self._pairs.groups(scored):
                self._run(self._pairs, group)
            sequences = [each for each in sequences if each.scored_by is None]
            self.num_computed += len(scored)
        packed: list[PoolingSequence] = []
        padded: list[PoolingSequence] = []
        # sequences of equal length share an attention call, whichever adapters they use
        for sequence in sorted(sequences, key=lambda sequence: len(sequence.example)):
            (packed if self._can_pack(sequence) else padded).append(sequence)
        if packed:
            self._run(self._compute_packed, packed)
        if self._backbone.kind in MEDIA_KINDS:
            for group, media in self._media(padded):
                self._run(partial(self._compute_media, media=media), group)
        else:
            for group in self._padded.groups(padded):
                self._run(self._compute_padded, group)
        for sequence in sequences:
            _check_finite(sequence)
        self.num_computed += len(sequences)

    def _can_pack(self, sequence: PoolingSequence) -> bool:
        """Return whether a sequence can be packed with equal results."""
        if not self._paths.packed or (sequence.blend or BASE_MODEL).exclusive:
            return False
        if sequence.num_virtual_tokens and self._adapters.prompt(sequence) is not None:
            return False
        return sequence.head is None or self._check.reads_selected(sequence.head, sequence.example)

    def _run(
        self, compute: Callable[[list[PoolingSequence]], None], group: list[PoolingSequence]
    ) -> None:
        """Compute sequences; if the device or the architecture can't, they get the error."""
        try:
            with torch.no_grad():
                compute(group)
        except (*FAULTS, AdapterHubError) as error:
            _LOG.error("a forward pass of %d pooling sequences failed: %s", len(group), error)
            for sequence in group:
                sequence.result = sequence.scored = None
                sequence.error = ComputeError(f"the forward pass failed: {error}")

    def _compute_packed(self, sequences: list[PoolingSequence]) -> None:
        batch = pack([sequence.example for sequence in sequences]).to(self._backbone.device)
        hidden = self._packed_hidden(sequences, batch)
        whole = hidden[: batch.tokens].split(batch.lengths)
        selected = hidden[batch.select].split(batch.selected)
        labelled = []
        for sequence, own, read in zip(sequences, whole, selected, strict=True):
            if sequence.head is None:
                self._read(sequence, own, read)
            else:
                labelled.append((sequence, sequence.head, read))
        _label(_pool(labelled))

    def _compute_padded(self, sequences: list[PoolingSequence]) -> None:
        if sequences[0].head is not None:
            for sequence, logits in zip(sequences, self._padded.logits(sequences), strict=True):
                sequence.result = logits
            return
        for sequence, hidden in zip(sequences, self._padded.hidden(sequences), strict=True):
            self._read(sequence, hidden, hidden[list(sequence.example.select)])

    def _compute_media(self, sequences: list[PoolingSequence], media: Sequence[Tensor]) -> None:
        found = self._padded.logits(sequences, media)
        for sequence, logits in zip(sequences, found, strict=True):
            sequence.result = logits

    def _read(self, sequence: PoolingSequence, hidden: Tensor, selected: Tensor) -> None:
        """Set the embedding or the scores of a sequence from its hidden states."""
        if sequence.scored_by is None:
            sequence.result = _embedding(sequence, hidden, selected)
        else:
            sequence.scored = self._scores(sequence, sequence.scored_by, selected)

    def _scores(self, sequence: PoolingSequence, task: Task, hidden: Tensor) -> Any:
        """Return the raw prediction that a task makes of the backbone's own output layer."""
        blend = sequence.blend or BASE_MODEL

        def head(states: Tensor) -> Tensor:
            return self._output(states, [blend] * len(states))

        batch = pack([sequence.example]).to(self._backbone.device)
        (decoded,) = task.decode(head, hidden, batch)
        return decoded

    def _media(
        self, sequences: list[PoolingSequence]
    ) -> list[tuple[list[PoolingSequence], list[Tensor]]]:
        """Return groups that share a forward pass and their inputs; set the errors of others."""
        inputs: dict[PoolingSequence, Tensor] = {}
        for sequence in sequences:
            if sequence.example.media is None or sequence.head is None:
                problem = f"is a text, and the backbone reads {reads(self._backbone.kind)}"
                sequence.error = EngineError(problem, place="text")
                continue
            try:
                inputs[sequence] = sequence.example.media()
            except AdapterHubError as error:
                sequence.error = error
        # the size of the images depends on the adapter
        members, media = list(inputs), list(inputs.values())
        together = self._paths.padding and all(map(self._padded.pads, members))
        return [
            (group, [inputs[each] for each in group])
            for indices in groups_of_shapes(media, together=together)
            for group in self._padded.groups([members[index] for index in indices])
        ]

    def _packed_hidden(self, sequences: list[PoolingSequence], batch: PackedBatch) -> Tensor:
        """Return the last hidden states ``[num_tokens + padding, hidden_size]``."""
        device = self._backbone.device
        prefixes = [next(iter(self._adapters.prefixes(each)), None) for each in sequences]
        padding = len(batch.input_ids) - batch.tokens
        uses = [run for each in sequences for run in each.runs]
        inputs: dict[str, Any] = {}
        positions = batch.position_ids + self._paths.position_offset
        if self._backbone.kind == "decoder":
            inputs["use_cache"] = False
            shifts = [prefix.length if prefix else 0 for prefix in prefixes]
            counts = torch.tensor([*batch.lengths, padding])
            positions = positions + torch.tensor([*shifts, 0]).repeat_interleave(counts).to(device)
        if batch.segment_ids is not None:
            inputs["token_type_ids"] = batch.segment_ids.unsqueeze(0)
        context = ForwardContext([*uses, (padding, BASE_MODEL)])
        with set_forward_context(context), fast_attention(self._backbone.base_model):
            output = self._body(
                input_ids=batch.input_ids.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                # a 4D mask is passed on unchanged, and this attention needs none
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
                packed=PackedSequences(batch.lengths, tuple(prefixes)),
                **inputs,
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden


#: A sequence, its head, and hidden states [num_selected, hidden_size] for it, pooled or not.
_Labelled = tuple["PoolingSequence", "AdapterHead", "Tensor", "Tensor | None"]


def _pool(
    labelled: list[tuple[PoolingSequence, AdapterHead, Tensor]],
) -> list[_Labelled]:
    """Pool the hidden states of sequences whose heads read what the base model's pooler gives."""
    found: list[_Labelled] = []
    pooled: dict[Any, list[tuple[PoolingSequence, AdapterHead, Tensor]]] = {}
    for sequence, head, hidden in labelled:
        if head.template.shares_pooler:
            pooled.setdefault(head.template, []).append((sequence, head, hidden))
        else:
            found.append((sequence, head, hidden, None))
    for template, members in pooled.items():
        uses = [(len(hidden), sequence.blend or BASE_MODEL) for sequence, _, hidden in members]
        with set_forward_context(ForwardContext(uses)):
            states = template.pool(torch.cat([hidden for _, _, hidden in members]))
        parts = states.split([count for count, _ in uses])
        found += [(*member, own) for member, own in zip(members, parts, strict=True)]
    return found


def _label(labelled: list[_Labelled]) -> None:
    """Set the logits of each sequence; sequences with the same head share a product."""
    groups: dict[AdapterHead, list[_Labelled]] = {}
    for each in labelled:
        groups.setdefault(each[1], []).append(each)
    for head, members in groups.items():
        uses = [(len(hidden), sequence.blend or BASE_MODEL) for sequence, _, hidden, _ in members]
        pooled = [own for _, _, _, own in members if own is not None]
        with set_forward_context(ForwardContext(uses)):
            logits = head.logits(
                torch.cat([hidden for _, _, hidden, _ in members]),
                torch.cat(pooled) if pooled else None,
            ).cpu()
        for (sequence, *_), own in zip(
            members, logits.split([count for count, _ in uses]), strict=True
        ):
            sequence.result = own


def _embedding(sequence: PoolingSequence, hidden: Tensor, selected: Tensor) -> Tensor:
    """Pool hidden states ``[num_tokens, hidden_size]`` to a vector on the CPU.

    Args:
        sequence: Sequence with the parameters.
        hidden: Hidden states of all tokens.
        selected: Hidden states of the selected tokens ``[num_selected, hidden_size]``, which may
            be returned as they are.
    """
    if sequence.params.pooling == "selected":
        return selected.float().cpu()
    states = hidden.float()
    vector = states.mean(dim=0) if sequence.params.pooling == "mean" else states[-1]
    if sequence.params.normalize:
        vector = torch.nn.functional.normalize(vector, dim=0)
    return vector.cpu()


def _check_finite(sequence: PoolingSequence) -> None:
    if sequence.result is not None and not torch.isfinite(sequence.result).all():
        sequence.result = None
        sequence.error = EngineError(
            "the backbone returned NaN or infinite values",
            place=", ".join(key for key, _ in sequence.adapters) or "base model",
        )


def max_length(backbone: Backbone) -> int:
    """Return the most tokens of a sequence that the position embeddings of a backbone hold.

    A table whose padding token has a position of its own is read from the position after it on.
    Source: ``create_position_ids_from_input_ids`` in transformers' ``modeling_roberta.py``.
    """
    limit = int(getattr(backbone.config.get_text_config(), "max_position_embeddings", 0) or 0)
    if limit <= 0:
        # XLNet has -1: positions without end
        return 2**31
    vocabulary = backbone.token_embedding
    first = [
        module.padding_idx + 1
        for module in backbone.base_model.modules()
        if isinstance(module, torch.nn.Embedding)
        and module is not vocabulary
        and module.num_embeddings == limit
        and module.padding_idx is not None
    ]
    return limit - max(first, default=0)
