"""Forward passes of pooling requests, mixed over adapters."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.backbones.heads import (
    build_head_model,
    image_feature_width,
    image_features,
    without_pooler,
)
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.data.packing import pack
from adapterhub.engine.adapter_slots import BASE_MODEL
from adapterhub.engine.forward_context import (
    ForwardContext,
    PaddedForwardContext,
    set_forward_context,
)
from adapterhub.errors import AdapterHubError, ComputeError, EngineError
from adapterhub.kernels.attention.layout import PackedSequences
from adapterhub.kernels.attention.transformers_interface import fast_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.packing import PackedBatch
    from adapterhub.engine.adapter_manager import AdapterManager
    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.heads import LinearHead
    from adapterhub.engine.pooling_requests import PoolingSequence
    from adapterhub.tasks.base import Task

_LOG = logging.getLogger(__name__)


class ImageFeatures:
    """The features that transformers' class for image classification gives its head."""

    def __init__(self, backbone: Backbone) -> None:
        # the head of this model is a placeholder and has no part in the result
        self._model = build_head_model(backbone, "image", ("place", "holder"))
        self._dtype = torch_dtype(backbone.quantization.compute_dtype)
        #: number of features of an image
        self.width = image_feature_width(self._model)

    def __call__(self, pixels: Tensor, blends: Sequence[Blend]) -> Tensor:
        """Return features ``[num_images, width]``.

        Args:
            pixels: Pixels ``[num_images, channels, height, width]``.
            blends: Blend of each image.
        """
        with set_forward_context(PaddedForwardContext([[(1, each)] for each in blends], None)):
            return image_features(self._model, pixels.to(self._dtype))


class PoolingRunner:
    """Computes pooling sequences of any adapters in one forward pass.

    The hidden states of each sequence are then read by its own head or the backbone's output
    layer, or pooled to an embedding.

    Args:
        backbone: Frozen backbone.
        adapters: Manager of the adapters.
        output: Output layer of a decoder: maps hidden states ``[n, hidden_size]`` and the blend
            of each to logits ``[n, vocab_size]``.
        images: Features of a vision backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterManager,
        output: Callable[[Tensor, list[Blend]], Tensor],
        images: ImageFeatures | None = None,
    ) -> None:
        self._backbone = backbone
        self._adapters = adapters
        self._images, self._output = images, output
        self._pooler: nn.Module | None = getattr(backbone.base_model, "pooler", None)
        # the pooler would read the first token of the whole batch
        self._body = without_pooler(backbone.base_model) if self._pooler else backbone.base_model
        #: most tokens of a sequence, virtual tokens included
        self.max_length = int(getattr(backbone.config, "max_position_embeddings", 0) or 2**31)
        self.num_computed = 0

    def __call__(self, sequences: Sequence[PoolingSequence]) -> None:
        """Set the result or the error of each sequence."""
        if not sequences:
            return
        # sequences of equal length share an attention call, whichever adapters they use
        batch = sorted(sequences, key=lambda sequence: len(sequence.example))
        try:
            with torch.no_grad():
                if self._images is None:
                    self._compute_texts(batch)
                else:
                    self._compute_images(batch, self._images)
        except (RuntimeError, MemoryError) as error:
            _LOG.error("a forward pass of %d pooling sequences failed: %s", len(batch), error)
            for sequence in batch:
                sequence.result = sequence.scored = None
                sequence.error = ComputeError(f"the forward pass failed: {error}")
        for sequence in batch:
            _check_finite(sequence)
        self.num_computed += len(batch)

    def _compute_texts(self, sequences: list[PoolingSequence]) -> None:
        batch = pack([sequence.example for sequence in sequences]).to(self._backbone.device)
        hidden = self._hidden(sequences, batch)
        whole = hidden[: batch.tokens].split(batch.lengths)
        selected = hidden[batch.select].split(batch.selected)
        labelled = []
        for sequence, own, read in zip(sequences, whole, selected, strict=True):
            if sequence.head is not None:
                labelled.append((sequence, sequence.head, read))
            elif sequence.scored_by is not None:
                sequence.scored = self._scores(sequence, sequence.scored_by, read)
            else:
                sequence.result = _embedding(sequence, own, read)
        _label(self._pool(labelled))

    def _scores(self, sequence: PoolingSequence, task: Task, hidden: Tensor) -> Any:
        """Return the raw prediction that a task makes of the backbone's own output layer."""
        blend = sequence.blend or BASE_MODEL

        def head(states: Tensor) -> Tensor:
            return self._output(states, [blend] * len(states))

        batch = pack([sequence.example]).to(self._backbone.device)
        (decoded,) = task.decode(head, hidden, batch)
        return decoded

    def _compute_images(self, sequences: list[PoolingSequence], features: ImageFeatures) -> None:
        # the size of the images depends on the adapter
        sizes: dict[tuple[int, ...], list[tuple[PoolingSequence, LinearHead, Tensor]]] = {}
        for sequence in sequences:
            if sequence.example.pixels is None or sequence.head is None:
                problem = "is a text, and the backbone reads images"
                sequence.error = EngineError(problem, place="text")
                continue
            try:
                pixels = sequence.example.pixels()
            except AdapterHubError as error:
                sequence.error = error
            else:
                members = sizes.setdefault(tuple(pixels.shape), [])
                members.append((sequence, sequence.head, pixels))
        for members in sizes.values():
            stacked = torch.stack([pixels for _, _, pixels in members]).to(self._backbone.device)
            blends = [sequence.blend or BASE_MODEL for sequence, _, _ in members]
            found = features(stacked, blends).split(1)
            _label([(each, head, own) for (each, head, _), own in zip(members, found, strict=True)])

    def _hidden(self, sequences: list[PoolingSequence], batch: PackedBatch) -> Tensor:
        """Return the last hidden states ``[num_tokens + padding, hidden_size]``."""
        device = self._backbone.device
        prefixes = [next(iter(self._adapters.prefixes(each)), None) for each in sequences]
        padding = len(batch.input_ids) - batch.tokens
        uses = [(len(each.example), each.blend or BASE_MODEL) for each in sequences]
        inputs: dict[str, Any] = {}
        positions = batch.position_ids
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

    def _pool(
        self, labelled: list[tuple[PoolingSequence, LinearHead, Tensor]]
    ) -> list[tuple[PoolingSequence, LinearHead, Tensor]]:
        """Apply an encoder's pooler to the first tokens of sequences with a sequence head."""
        firsts = [each for each in labelled if each[1].kind == "sequence"]
        if self._pooler is None or not firsts:
            return labelled
        uses = [(len(hidden), sequence.blend or BASE_MODEL) for sequence, _, hidden in firsts]
        with set_forward_context(ForwardContext(uses)):
            stacked = torch.cat([hidden for _, _, hidden in firsts])
            shared = self._pooler(stacked.unsqueeze(1)).split(1)
        pooled = [
            (sequence, head, head.pooled(hidden, self._pooler) if head.pooler else own)
            for (sequence, head, hidden), own in zip(firsts, shared, strict=True)
        ]
        return pooled + [each for each in labelled if each[1].kind != "sequence"]


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


def _label(labelled: list[tuple[PoolingSequence, LinearHead, Tensor]]) -> None:
    """Set the logits of each sequence; sequences with the same head share a product."""
    groups: dict[LinearHead, list[tuple[PoolingSequence, Tensor]]] = {}
    for sequence, head, hidden in labelled:
        groups.setdefault(head, []).append((sequence, hidden))
    for head, members in groups.items():
        logits = head.logits(torch.cat([hidden for _, hidden in members])).cpu()
        parts = logits.split([len(hidden) for _, hidden in members])
        for (sequence, _), own in zip(members, parts, strict=True):
            sequence.result = own


def _check_finite(sequence: PoolingSequence) -> None:
    if sequence.result is not None and not torch.isfinite(sequence.result).all():
        sequence.result = None
        sequence.error = EngineError(
            "the backbone returned NaN or infinite values",
            place=", ".join(key for key, _ in sequence.adapters) or "base model",
        )
