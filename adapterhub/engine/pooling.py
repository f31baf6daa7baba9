"""Single passes: rows that are read once, for labels or for an embedding, mixed over adapters.

All of them are one kind of batch: the body computes rows of any adapters in one forward pass,
and each row's hidden states then go to its own head, or are averaged.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from adapterhub.backbones.heads import without_pooler
from adapterhub.data.packing import pack
from adapterhub.engine.adapter_slots import BARE
from adapterhub.engine.forward_context import ForwardContext, set_forward_context
from adapterhub.errors import AdapterHubError, ComputeError, EngineError
from adapterhub.kernels.attention.layout import PackedSequences

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.engine.adapter_manager import AdapterManager
    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.heads import Head
    from adapterhub.engine.image_body import ImageBody
    from adapterhub.engine.prefixes import PrefixStates

_LOG = logging.getLogger(__name__)

#: How hidden states become one vector: their mean, or that of the last token.
Pooling = Literal["mean", "last"]


class PoolingParams(NamedTuple):
    """How an embedding is made.

    Args:
        pooling: of the row's tokens.
        normalize: to length 1.
    """

    pooling: Pooling = "mean"
    normalize: bool = False


@dataclass(slots=True, eq=False)
class PoolingSequence:
    """One row on its way through a pass.

    Args:
        example: its tokens, and where the head reads them.
        adapters: keys and weights, in canonical order; empty for the bare backbone.
        reader: the head that reads it, or how its embedding is made.
    """

    example: EncodedExample
    adapters: tuple[tuple[str, float], ...]
    reader: Head | PoolingParams
    #: positions of its trained prefix
    virtual: int = 0
    #: its adapters were seen to go together
    settled: bool = True
    #: of the text that it is of
    number: int = 0
    #: set while it is computed
    blend: Blend | None = None
    #: logits ``[selected, classes]`` or an embedding ``[hidden]``, float32 on the CPU
    result: Tensor | None = None
    error: AdapterHubError | None = None

    @property
    def finished(self) -> bool:
        """Whether there is a result or an error."""
        return self.result is not None or self.error is not None

    def value(self) -> Tensor:
        """Return the result.

        Raises:
            AdapterHubError: when this row went wrong, or is not finished.
        """
        if self.error is not None:
            raise self.error
        if self.result is None:
            raise EngineError("is not computed yet", hint="Call step until it is finished")
        return self.result


class PoolingRunner:
    """The queue of passes, first come first served.

    Args:
        backbone: with its sites in place.
        adapter_manager: of the adapters.
        tokens: most tokens of a batch; a single row may be longer.
        pictures: computes rows that are pictures; where there is none, rows are texts.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter_manager: AdapterManager,
        *,
        tokens: int,
        pictures: ImageBody | None = None,
    ) -> None:
        self._backbone = backbone
        self._pictures = pictures
        # the pooler would read the first token of the whole batch
        self._body = (
            without_pooler(backbone.base_model) if _pooler(backbone) else backbone.base_model
        )
        self._residency = adapter_manager
        self._tokens = tokens
        self._longest = int(getattr(backbone.config, "max_position_embeddings", 0) or 2**31)
        self._waiting: deque[PoolingSequence] = deque()
        #: passes in a row in which the first one that could start found no room on the device
        self.refused = 0
        self.computed_rows = 0
        self.computed_tokens = 0

    @property
    def busy(self) -> bool:
        """Whether any row waits."""
        return bool(self._waiting)

    def add(
        self,
        example: EncodedExample,
        adapters: tuple[tuple[str, float], ...],
        reader: Head | PoolingParams,
        *,
        number: int,
        virtual: int,
    ) -> PoolingSequence:
        """Let a row take part in one of the next passes; one that is too long has its error.

        Args:
            example: its tokens, and where the head reads them.
            adapters: keys and weights, seen to go together.
            reader: a head, or how an embedding is made.
            number: of the text that it is of, counted up in the order of arrival.
            virtual: positions of its trained prefix.
        """
        request = PoolingSequence(example, adapters, reader, virtual=virtual, number=number)
        length = len(example) + virtual
        if not len(example) or length > self._longest:
            request.error = EngineError(
                f"has {length} positions, the backbone reads 1 to {self._longest}", place="text"
            )
        else:
            self._waiting.append(request)
        return request

    def firsts(self) -> list[PoolingSequence]:
        """Return the first row that waits of each set of adapters; without any it needs none."""
        found: dict[tuple[tuple[str, float], ...], PoolingSequence] = {}
        for request in self._waiting:
            found.setdefault(request.adapters, request)
        found.pop((), None)
        return list(found.values())

    def drop(self, request: PoolingSequence, error: AdapterHubError) -> None:
        """Take a row out that waits."""
        if request in self._waiting:
            self._waiting.remove(request)
            request.error = error

    def drop_all(self, adapters: tuple[tuple[str, float], ...], error: AdapterHubError) -> None:
        """Take out every row that waits for these adapters."""
        for request in [each for each in self._waiting if each.adapters == adapters]:
            self.drop(request, error)

    def cancel_all(self) -> None:
        """Take all rows out."""
        for request in list(self._waiting):
            self.drop(request, ComputeError("was given up after a fault"))

    def step(self) -> list[PoolingSequence]:
        """Compute one batch; return the rows that are finished by it."""
        rows = self._take()
        if not rows:
            return []
        # rows of equal length are attended to in one call; which adapter they use never decides
        rows.sort(key=lambda request: len(request.example))
        try:
            with torch.no_grad():
                self._compute(rows)
        except (RuntimeError, MemoryError) as error:
            _LOG.error("a pass of %d rows failed: %s", len(rows), error)
            for request in rows:
                request.result = None
                request.error = ComputeError(f"the pass could not be computed: {error}")
        finally:
            for request in rows:
                self._residency.release(request)
        self.computed_rows += len(rows)
        self.computed_tokens += sum(len(request.example) for request in rows)
        return rows

    def _take(self) -> list[PoolingSequence]:
        """Take the first row, and later ones that fit beside it; their adapters are acquired."""
        taken: list[PoolingSequence] = []
        room, refused = self._tokens, False
        for request in list(self._waiting):
            if taken and len(request.example) > room:
                continue
            if not self._residency.ready(request):
                continue
            if not self._residency.acquire(request):
                refused = refused or not taken
                # passes give their room back at once, so overtaking costs the first one nothing
                continue
            self._waiting.remove(request)
            taken.append(request)
            room -= len(request.example)
        self.refused = self.refused + 1 if refused else 0
        return taken

    def _compute(self, rows: list[PoolingSequence]) -> None:
        if self._pictures is None:
            self._compute_texts(rows)
        else:
            self._compute_pictures(rows, self._pictures)
        for row in rows:
            if row.result is not None and not torch.isfinite(row.result).all():
                row.result = None
                row.error = EngineError(
                    "the backbone gave values that are NaN or infinite",
                    place=", ".join(key for key, _ in row.adapters) or "bare backbone",
                )

    def _compute_texts(self, rows: list[PoolingSequence]) -> None:
        batch = pack([request.example for request in rows]).to(self._backbone.device)
        hidden = self._hidden(rows, batch)
        whole = hidden[: batch.tokens].split(batch.lengths)
        read = hidden[batch.select].split(batch.selected)
        self._embed([(row, own) for row, own in zip(rows, whole, strict=True)])
        self._label(self._pool([(row, own) for row, own in zip(rows, read, strict=True)]))

    def _compute_pictures(self, rows: list[PoolingSequence], body: ImageBody) -> None:
        # an adapter chooses the size of the pictures that it reads
        sizes: dict[tuple[int, ...], list[tuple[PoolingSequence, Tensor]]] = {}
        for row in rows:
            if row.example.pixels is None:
                row.error = EngineError("is a text, and the backbone reads pictures", place="text")
                continue
            try:
                pixels = row.example.pixels()
            except AdapterHubError as error:
                row.error = error
            else:
                sizes.setdefault(tuple(pixels.shape), []).append((row, pixels))
        for members in sizes.values():
            stacked = torch.stack([pixels for _, pixels in members]).to(self._backbone.device)
            blends = [row.blend or BARE for row, _ in members]
            features = body.features(stacked, blends).split(1)
            self._label([(row, own) for (row, _), own in zip(members, features, strict=True)])

    def _hidden(self, rows: list[PoolingSequence], batch: PackedBatch) -> Tensor:
        """Return the last hidden states ``[tokens + fill, hidden]``."""
        device = self._backbone.device
        prefixes = [next(iter(self._prefixes(row)), None) for row in rows]
        fill = len(batch.input_ids) - batch.tokens
        uses = [(len(row.example), row.blend or BARE) for row in rows]
        inputs: dict[str, Any] = {}
        positions = batch.position_ids
        if self._backbone.kind == "decoder":
            inputs["use_cache"] = False
            shifts = [prefix.length if prefix else 0 for prefix in prefixes]
            counts = torch.tensor([*batch.lengths, fill])
            positions = positions + torch.tensor([*shifts, 0]).repeat_interleave(counts).to(device)
        if batch.segment_ids is not None:
            inputs["token_type_ids"] = batch.segment_ids.unsqueeze(0)
        with set_forward_context(ForwardContext([*uses, (fill, BARE)])):
            output = self._body(
                input_ids=batch.input_ids.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                # a ready mask is passed on as it is; the attention of passes has its own
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
                packed=PackedSequences(batch.lengths, tuple(prefixes)),
                **inputs,
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def _embed(self, rows: list[tuple[PoolingSequence, Tensor]]) -> None:
        for request, hidden in rows:
            if isinstance(request.reader, PoolingParams):
                states = hidden.float()
                vector = states.mean(dim=0) if request.reader.pooling == "mean" else states[-1]
                if request.reader.normalize:
                    vector = torch.nn.functional.normalize(vector, dim=0)
                request.result = vector.cpu()

    def _label(self, rows: list[tuple[PoolingSequence, Tensor]]) -> None:
        groups: dict[Head, list[tuple[PoolingSequence, Tensor]]] = {}
        for request, hidden in rows:
            if not isinstance(request.reader, PoolingParams):
                groups.setdefault(request.reader, []).append((request, hidden))
        for head, members in groups.items():
            logits = head.logits(torch.cat([hidden for _, hidden in members])).cpu()
            parts = logits.split([len(hidden) for _, hidden in members])
            for (request, _), own in zip(members, parts, strict=True):
                request.result = own

    def _pool(
        self, rows: list[tuple[PoolingSequence, Tensor]]
    ) -> list[tuple[PoolingSequence, Tensor]]:
        """Bring first tokens through an encoder's pooler where a head reads whole rows."""
        pooler = _pooler(self._backbone)
        reads = [_reads_rows(request.reader) for request, _ in rows]
        if pooler is None or not any(reads):
            return rows
        firsts = [rows[index] for index, pools in enumerate(reads) if pools]
        stacked = torch.cat([hidden for _, hidden in firsts])
        with set_forward_context(
            ForwardContext([(len(hidden), request.blend or BARE) for request, hidden in firsts])
        ):
            pooled: list[Tensor] = list(pooler(stacked.unsqueeze(1)).split(1))
        for index, (request, hidden) in enumerate(firsts):
            if not isinstance(request.reader, PoolingParams) and request.reader.pooler is not None:
                pooled[index] = request.reader.pooled(hidden, pooler)
        found = iter(pooled)
        return [
            (request, next(found) if pools else hidden)
            for (request, hidden), pools in zip(rows, reads, strict=True)
        ]

    def _prefixes(self, request: PoolingSequence) -> list[PrefixStates]:
        found = [self._residency.prefix(key) for key, _ in request.adapters]
        return [prefix for prefix in found if prefix is not None]


def _pooler(backbone: Backbone) -> nn.Module | None:
    pooler: nn.Module | None = getattr(backbone.base_model, "pooler", None)
    return pooler


def _reads_rows(reader: Head | PoolingParams) -> bool:
    return not isinstance(reader, PoolingParams) and reader.kind == "sequence"
