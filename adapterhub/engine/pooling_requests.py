"""Pooling requests: texts or images that are labelled or embedded in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.data.packing import EncodedExample, pack
from adapterhub.engine.adapter_slots import BASE_MODEL, blend_runs
from adapterhub.engine.sequences import first_active
from adapterhub.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from torch import Tensor

    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.heads import AdapterHead, LabelingKind, TaskHead
    from adapterhub.engine.prepared_adapter import PreparedAdapter
    from adapterhub.errors import AdapterHubError
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example

#: Mean of the hidden states of all tokens, hidden state of the last token, or the hidden states of
#: the selected tokens.
Pooling = Literal["mean", "last", "selected"]
_METHODS = {"sequence": "classify", "token": "tag", "span": "answer"}


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """Parameters of an embedding.

    Args:
        pooling: How the hidden states of the tokens become one vector, or several.
        normalize: Whether a vector is normalized to length 1.
    """

    pooling: Pooling = "mean"
    normalize: bool = False


@dataclass(slots=True, eq=False)
class PoolingSequence:
    """A part of a pooling request computed at once: a window of a text, an image or a recording.

    Args:
        example: Tokens, and the positions that the head reads.
        number: Number of the request.
        adapters: Keys and weights, in canonical order; empty for the base model.
        num_virtual_tokens: Number of virtual tokens of the prefix.
        head: Head that reads the hidden states; ``None`` for an embedding or scores.
        params: Parameters of an embedding.
        scored_by: Task that scores the targets by the backbone's own output layer.
    """

    example: EncodedExample
    number: int
    adapters: tuple[tuple[str, float], ...]
    num_virtual_tokens: int
    head: AdapterHead | None
    params: PoolingParams
    scored_by: Task | None = None
    #: position from which the adapters are active; the base model computes the tokens before it
    active_from: int = 0
    #: a sequence exists only once its request is validated
    validated: bool = True
    #: set while it is computed
    blend: Blend | None = None
    #: logits [num_selected, num_classes], embedding [hidden_size] or hidden states
    #: [num_selected, hidden_size], float32 on the CPU
    result: Tensor | None = None
    #: raw prediction of ``scored_by``
    scored: Any = None
    error: AdapterHubError | None = None

    @property
    def runs(self) -> list[tuple[int, Blend]]:
        """Numbers of tokens and their blends, in order, while it is computed."""
        return blend_runs(self.blend or BASE_MODEL, 0, len(self.example), self.active_from)

    @property
    def finished(self) -> bool:
        """Whether there is a result or an error."""
        outcomes = (self.result, self.scored, self.error)
        return any(outcome is not None for outcome in outcomes)


class PoolingRequest:
    """A text, image or recording to label, score or embed.

    It gets sequences once its adapters are in host memory.

    Args:
        number: Number in order of arrival.
        adapters: Keys and weights, in canonical order; empty for the base model.
        item: Text, or a mapping with the fields of the task, to label; or an encoded example.
        kind: Kind of the head that labels, which exactly one of the adapters has; ``None`` for an
            embedding or scores.
        params: Parameters of an embedding.
        scored_by: Task that scores the targets of the item by the backbone's own output layer.
        base: Whether the head reads the base model, without the adapters that it belongs to.
    """

    def __init__(
        self,
        number: int,
        adapters: tuple[tuple[str, float], ...],
        item: str | Example | EncodedExample,
        kind: LabelingKind | None = None,
        params: PoolingParams | None = None,
        *,
        scored_by: Task | None = None,
        base: bool = False,
    ) -> None:
        self.number = number
        self.adapters = adapters
        self._item = {"text": item} if isinstance(item, str) else item
        self._kind = kind
        self._params = params or PoolingParams()
        self._scored_by, self._base = scored_by, base
        self.validated = False
        self.num_virtual_tokens = 0
        self.blend: Blend | None = None
        self.sequences: tuple[PoolingSequence, ...] = ()
        self.error: AdapterHubError | None = None
        #: set while the item is tokenized on another thread
        self.encoding: Future[None] | None = None
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
    def reads_head(self) -> bool:
        """Whether the head of an adapter reads the hidden states."""
        return self._kind is not None

    @property
    def pending(self) -> list[PoolingSequence]:
        """Sequences that are not computed yet."""
        return [sequence for sequence in self.sequences if not sequence.finished]

    @property
    def size(self) -> int:
        """Characters to tokenize; 0 for an encoded example."""
        if isinstance(self._item, EncodedExample):
            return 0
        return sum(len(value) for value in self._item.values() if isinstance(value, str | list))

    def select_head(self, adapters: Sequence[PreparedAdapter]) -> None:
        """Find the head that labels, if the request is to label."""
        if self._kind is not None:
            self._head = self._only_head(adapters)

    def encode(self, adapters: Sequence[PreparedAdapter], max_length: int) -> None:
        """Set the sequences; one that is empty or too long gets an error."""
        head = None if self._head is None else self._head.head
        used = () if self._base else self.adapters
        virtual = 0 if self._base else self.num_virtual_tokens
        invocation = next((each.invocation for each in adapters if each.invocation), ())
        sequences = tuple(
            PoolingSequence(
                example,
                self.number,
                used,
                virtual,
                head,
                self._params,
                self._scored_by,
                first_active(example.input_ids, invocation),
            )
            for example in self._examples()
        )
        for sequence in sequences:
            length = len(sequence.example) + virtual
            if not len(sequence.example) or length > max_length:
                sequence.error = EngineError(
                    f"has {length} tokens, the backbone reads 1 to {max_length}", place="text"
                )
        self.sequences = sequences

    def _examples(self) -> list[EncodedExample]:
        """Return the item, or its windows, as model input."""
        if isinstance(self._item, EncodedExample):
            return [self._item]
        if self._head is None:
            raise EngineError("is not encoded", place="item")
        task = self._head.task
        self._windows = list(task.windows(self._item))
        encoded = [task.encode(window, 1, train=False) for window in self._windows]
        return [example for example in encoded if example is not None]

    def fail(self, error: AdapterHubError) -> None:
        """End the request by an error; results that are there already stay."""
        for sequence in self.pending:
            sequence.error = error
        if not self.validated and self.error is None:
            self.error = error

    def results(self) -> list[Tensor]:
        """Return the result of every sequence."""
        self._require_results()
        return [each.result for each in self.sequences if each.result is not None]

    def embedding(self) -> Tensor:
        """Return the vector ``[hidden_size]``, float32 on the CPU."""
        (vector,) = self.results()
        return vector

    def scores(self) -> Any:
        """Return the raw prediction of the task that scored the item."""
        self._require_results()
        (sequence,) = self.sequences
        return sequence.scored

    def prediction(self) -> dict[str, Any]:
        """Return the task's prediction, joined over all windows."""
        results, head = self.results(), self._head
        if head is None or len(results) != len(self._windows):
            raise EngineError("has no prediction", hint="Read its results")
        parts = []
        for window, sequence, logits in zip(self._windows, self.sequences, results, strict=True):
            # decoding needs no input
            batch = pack([replace(sequence.example, media=None)])
            (decoded,) = head.task.decode(lambda hidden: hidden, logits, batch)
            parts.append(head.task.prediction(window, decoded))
        return head.task.join(parts)

    def _require_results(self) -> None:
        for error in (self.error, *(sequence.error for sequence in self.sequences)):
            if error is not None:
                raise error
        if not self.finished:
            raise EngineError("is not computed yet", hint="Call step until it is finished")

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
