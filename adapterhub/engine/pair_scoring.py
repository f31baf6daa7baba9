"""Scores of targets by an encoder-decoder, with teacher forcing and mixed over adapters."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from adapterhub.backbones.media_inputs import media_inputs
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.backbones.teacher_forcing import (
    alike,
    pads_targets,
    teacher_forced_inputs,
    transcript_inputs,
)
from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import pack
from adapterhub.engine.adapter_slots import BASE_MODEL
from adapterhub.engine.forward_context import PaddedForwardContext, set_forward_context
from adapterhub.errors import UntraceableInputError
from adapterhub.kernels.attention.transformers_interface import own_attention

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from torch import Tensor

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
        if self._head.kind == "speech_seq2seq":
            for group in [sequences] if self._padding else [[each] for each in sequences]:
                self._score_transcripts(group)
            return
        sources = [each.example.input_ids for each in sequences]
        targets = [each.example.targets for each in sequences]
        if self._pads_targets is None:
            with own_attention(self._backbone.base_model):
                self._pads_targets = self._padding and pads_targets(self._head)
        for rows in alike(sources, targets, together=self._pads_targets):
            self._score_rows([sequences[row] for row in rows])

    def _score_rows(self, sequences: list[PoolingSequence]) -> None:
        inputs = teacher_forced_inputs(
            self._head.model,
            [each.example.input_ids for each in sequences],
            [each.example.targets for each in sequences],
            self._head.padding_token,
        )
        self._set_scores(sequences, inputs, [0] * len(sequences))

    def _score_transcripts(self, sequences: list[PoolingSequence]) -> None:
        dtype = torch_dtype(self._backbone.quantization.compute_dtype)
        device = self._backbone.device
        heard = [each.example.media() for each in sequences if each.example.media is not None]
        prompts = [each.example.input_ids for each in sequences]
        inputs = transcript_inputs(
            media_inputs(self._head.model, [each.to(device, dtype) for each in heard]),
            prompts,
            [each.example.targets for each in sequences],
            self._head.padding_token,
        )
        self._set_scores(sequences, inputs, [len(prompt) - 1 for prompt in prompts])

    def _set_scores(
        self,
        sequences: list[PoolingSequence],
        inputs: Mapping[str, Tensor],
        starts: Sequence[int],
    ) -> None:
        """Set the raw predictions of targets, whose logits begin at some position."""
        base_model = self._backbone.base_model
        blends = [each.blend or BASE_MODEL for each in sequences]
        context = PaddedForwardContext([[(1, blend)] for blend in blends], None)
        with (
            torch.no_grad(),
            own_attention(base_model),
            blends[0].override(base_model),
            set_forward_context(context),
        ):
            logits = self._head.forward(inputs)
        for sequence, own, start in zip(sequences, logits, starts, strict=True):
            if sequence.scored_by is not None:
                example = replace(sequence.example, media=None)
                batch = pack([example]).to(self._backbone.device)
                logits_of = own[start : start + len(example.targets)]
                (sequence.scored,) = sequence.scored_by.decode(lambda x: x, logits_of, batch)
