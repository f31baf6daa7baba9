"""Pooling requests: texts or images that are labelled or embedded in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.data.packing import EncodedExample, pack
from adapterhub.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.heads import LabelingKind, LinearHead, TaskHead
    from adapterhub.engine.prepared_adapter import PreparedAdapter
    from adapterhub.errors import AdapterHubError
    from adapterhub.tasks.fields import Example

#: Mean of the hidden states of all tokens, or hidden state of the last token.
Pooling = Literal["mean", "last"]
_METHODS = {"sequence": "classify", "token": "tag", "span": "answer"}


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """Parameters of an embedding.

    Args:
        pooling: How the hidden states of the tokens become one vector.
        normalize: Whether the vector is normalized to length 1.
    """

    pooling: Pooling = "mean"
    normalize: bool = False


@dataclass(slots=True, eq=False)
class PoolingSequence:
    """A part of a pooling request that is computed at once: a window of a text, or an image.

    Args:
        example: Tokens, and the positions that the head reads.
        number: Number of the request.
        adapters: Keys and weights, in canonical order; empty for the base model.
        num_virtual_tokens: Number of virtual tokens of the prefix.
        head: Head that reads the hidden states; ``None`` for an embedding.
        params: Parameters of an embedding.
    """

    example: EncodedExample
    number: int
    adapters: tuple[tuple[str, float], ...]
    num_virtual_tokens: int
    head: LinearHead | None
    params: PoolingParams
    #: a sequence exists only once its request is validated
    validated: bool = True
    #: set while it is computed
    blend: Blend | None = None
    #: logits [num_selected, num_classes] or embedding [hidden_size], float32 on the CPU
    result: Tensor | None = None
    error: AdapterHubError | None = None

    @property
    def finished(self) -> bool:
        """Whether there is a result or an error."""
        return self.result is not None or self.error is not None


class PoolingRequest:
    """A text or image to label or embed; it gets sequences once its adapters are in host memory.

    Args:
        number: Number in order of arrival.
        adapters: Keys and weights, in canonical order; empty for the base model.
        item: Text, or a mapping with the fields of the task, to label; tokens to embed.
        kind: Kind of the head that labels, which exactly one of the adapters has; ``None`` for an
            embedding.
        params: Parameters of an embedding.
    """

    def __init__(
        self,
        number: int,
        adapters: tuple[tuple[str, float], ...],
        item: str | Example | EncodedExample,
        kind: LabelingKind | None = None,
        params: PoolingParams | None = None,
    ) -> None:
        self.number = number
        self.adapters = adapters
        self._item = {"text": item} if isinstance(item, str) else item
        self._kind = kind
        self._params = params or PoolingParams()
        self.validated = False
        self.num_virtual_tokens = 0
        self.blend: Blend | None = None
        self.sequences: tuple[PoolingSequence, ...] = ()
        self.error: AdapterHubError | None = None
        self._head: TaskHead | None = None
        #: windows of the text to label, in order
        self._windows: list[Example] = []

    @property
    def finished(self) -> bool:
        """Whether there are all results, or an error."""
        return self.error is not None or (
            self.validated and all(sequence.finished for sequence in self.sequences)
        )

    @property
    def pending(self) -> list[PoolingSequence]:
        """Sequences that are not computed yet."""
        return [sequence for sequence in self.sequences if not sequence.finished]

    def prepare(self, adapters: Sequence[PreparedAdapter], max_length: int) -> None:
        """Set the sequences; one that is empty or too long gets an error."""
        head = None
        if isinstance(self._item, EncodedExample):
            examples = [self._item]
        else:
            self._head = self._only_head(adapters)
            head, task = self._head.head, self._head.task
            self._windows = list(task.windows(self._item))
            encoded = [task.encode(window, 1, train=False) for window in self._windows]
            examples = [example for example in encoded if example is not None]
        self.sequences = tuple(
            PoolingSequence(
                example, self.number, self.adapters, self.num_virtual_tokens, head, self._params
            )
            for example in examples
        )
        for sequence in self.sequences:
            length = len(sequence.example) + self.num_virtual_tokens
            if not len(sequence.example) or length > max_length:
                sequence.error = EngineError(
                    f"has {length} tokens, the backbone reads 1 to {max_length}", place="text"
                )

    def fail(self, error: AdapterHubError) -> None:
        """End the request by an error; results that are there already stay."""
        for sequence in self.pending:
            sequence.error = error
        if not self.validated and self.error is None:
            self.error = error

    def results(self) -> list[Tensor]:
        """Return the result of every sequence."""
        for error in (self.error, *(sequence.error for sequence in self.sequences)):
            if error is not None:
                raise error
        if not self.finished:
            raise EngineError("is not computed yet", hint="Call step until it is finished")
        return [each.result for each in self.sequences if each.result is not None]

    def embedding(self) -> Tensor:
        """Return the vector ``[hidden_size]``, float32 on the CPU."""
        (vector,) = self.results()
        return vector

    def prediction(self) -> dict[str, Any]:
        """Return the task's prediction, joined over all windows."""
        results, head = self.results(), self._head
        if head is None:
            raise EngineError("has no prediction", hint="Read its embedding")
        parts = []
        for window, sequence, logits in zip(self._windows, self.sequences, results, strict=True):
            # decoding needs no pixels
            batch = pack([replace(sequence.example, pixels=None)])
            (decoded,) = head.task.decode(lambda hidden: hidden, logits, batch)
            parts.append(head.task.prediction(window, decoded))
        return head.task.join(parts)

    def _only_head(self, adapters: Sequence[PreparedAdapter]) -> TaskHead:
        place = ", ".join(key for key, _ in self.adapters) or "base model"
        heads = [each.head for each in adapters if each.head is not None]
        if len(heads) != 1:
            raise EngineError(
                f"{len(heads)} of the adapters have a head, exactly one must",
                place=place,
                hint="" if heads else "Use generate or embed",
            )
        (head,) = heads
        if head.head.kind != self._kind:
            raise EngineError(
                f"its head is for {head.task.name}",
                place=place,
                hint=f"Use {_METHODS[head.head.kind]}",
            )
        return head
