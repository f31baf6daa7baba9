"""Scores of targets by an encoder-decoder, with teacher forcing and mixed over adapters."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from adapterhub.backbones.teacher_forcing import alike, pads_targets, teacher_forced_inputs
from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import pack
from adapterhub.engine.adapter_slots import BASE_MODEL
from adapterhub.engine.forward_context import PaddedForwardContext, set_forward_context
from adapterhub.errors import UntraceableInputError
from adapterhub.kernels.attention.transformers_interface import own_attention

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.forward_paths import ForwardPaths
    from adapterhub.backbones.head_model import HeadModel
    from adapterhub.engine.pooling_requests import PoolingSequence

_LOG = logging.getLogger(__name__)


class PairScorer:
    """Computes the raw predictions of tasks that score targets.

    Args:
        backbone: Encoder-decoder.
        head: Class for text generation around its adapted layers.
        paths: What the check of the backbone found.
        max_tokens: Most tokens of a batch, sources and targets together.
    """

    def __init__(
        self, backbone: Backbone, head: HeadModel, paths: ForwardPaths, max_tokens: int
    ) -> None:
        self._backbone, self._head, self._max_tokens = backbone, head, max_tokens
        self._padding, self._mixed = paths.padding, paths.mixed
        self._pads_targets: bool | None = None

    def groups(self, sequences: Sequence[PoolingSequence]) -> list[list[PoolingSequence]]:
        """Split sequences into those that share a forward pass."""
        found: dict[Hashable, list[PoolingSequence]] = {}
        for sequence in sequences:
            found.setdefault(self._shared(sequence), []).append(sequence)
        groups = []
        for members in found.values():
            lengths = [len(each.example) + len(each.example.targets) for each in members]
            for indices in batches_by_length(lengths, self._max_tokens):
                groups.append([members[index] for index in indices])
        return groups

    def __call__(self, sequences: list[PoolingSequence]) -> None:
        """Set the raw prediction of each sequence of a group."""
        try:
            self._score(sequences)
        except UntraceableInputError as error:
            if len({each.adapters for each in sequences}) == 1:
                raise
            _LOG.info("%s computes one adapter at a time: %s", self._backbone.name, error)
            self._mixed = False
            for group in self.groups(sequences):
                self._score(group)

    def _shared(self, sequence: PoolingSequence) -> Hashable:
        alone = not self._mixed or (sequence.blend or BASE_MODEL).exclusive
        return sequence.adapters if alone else None

    def _score(self, sequences: list[PoolingSequence]) -> None:
        sources = [each.example.input_ids for each in sequences]
        targets = [each.example.targets for each in sequences]
        if self._pads_targets is None:
            with own_attention(self._backbone.base_model):
                self._pads_targets = self._padding and pads_targets(self._head)
        for rows in alike(sources, targets, together=self._pads_targets):
            self._score_rows([sequences[row] for row in rows])

    def _score_rows(self, sequences: list[PoolingSequence]) -> None:
        model, base_model = self._head.model, self._backbone.base_model
        inputs = teacher_forced_inputs(
            model,
            [each.example.input_ids for each in sequences],
            [each.example.targets for each in sequences],
            self._head.padding_token,
        )
        blends = [each.blend or BASE_MODEL for each in sequences]
        context = PaddedForwardContext([[(1, blend)] for blend in blends], None)
        with (
            torch.no_grad(),
            own_attention(base_model),
            blends[0].override(base_model),
            set_forward_context(context),
        ):
            logits = self._head.forward(inputs)
        for sequence, own in zip(sequences, logits, strict=True):
            if sequence.scored_by is not None:
                batch = pack([sequence.example]).to(self._backbone.device)
                (sequence.scored,) = sequence.scored_by.decode(
                    lambda states: states, own[: len(sequence.example.targets)], batch
                )
