"""Texts on their way to labels or an embedding: they wait for adapters, then are read in passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from adapterhub.data.packing import pack
from adapterhub.errors import AdapterHubError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from adapterhub.data.packing import EncodedExample
    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.heads import Head, TaskHead
    from adapterhub.engine.host_cache import Prepared
    from adapterhub.engine.pooling import PoolingParams, PoolingSequence
    from adapterhub.tasks.fields import Example

#: Of heads: read once a row, once a word, or wherever an answer may start or end.
HeadName = Literal["sequence", "token", "span"]
#: A name, names with weights, or none for the bare backbone.
Adapters: TypeAlias = "str | Sequence[tuple[str, float]] | None"
#: One for each text, or one name for all.
Each: TypeAlias = "str | Sequence[Adapters]"
_METHODS = {"sequence": "classify", "token": "tag", "span": "answer"}


class PoolingRequest(ABC):
    """A text, and the passes that it is read in once its adapters are in host memory."""

    def __init__(self, number: int, adapters: tuple[tuple[str, float], ...]) -> None:
        """Wait for adapters.

        Args:
            number: counted up in the order of arrival.
            adapters: keys and weights, in canonical order; empty for the bare backbone.
        """
        self.number = number
        self.adapters = adapters
        self.settled = False
        #: positions of its trained prefix
        self.virtual = 0
        self.blend: Blend | None = None
        self.passes: tuple[PoolingSequence, ...] = ()
        self.error: AdapterHubError | None = None

    @property
    def finished(self) -> bool:
        """Whether it is read, or never will be."""
        return self.error is not None or (
            self.settled and all(request.finished for request in self.passes)
        )

    @abstractmethod
    def rows(
        self, adapters: Sequence[Prepared]
    ) -> list[tuple[EncodedExample, Head | PoolingParams]]:
        """Return what is read in passes, and what of their hidden states is wanted.

        Args:
            adapters: its own, which are there now.

        Raises:
            AdapterHubError: when they can't read it.
        """

    def values(self) -> list[Tensor]:
        """Return the result of every pass.

        Raises:
            AdapterHubError: when it went wrong, or is not finished.
        """
        if self.error is not None:
            raise self.error
        if not self.settled:
            raise EngineError("waits for its adapters", hint="Call step until it is finished")
        return [request.value() for request in self.passes]


class EmbedRequest(PoolingRequest):
    """A text that becomes a vector."""

    def __init__(
        self,
        number: int,
        adapters: tuple[tuple[str, float], ...],
        example: EncodedExample,
        wish: PoolingParams,
    ) -> None:
        """Wait for adapters.

        Args:
            number: as of every text.
            adapters: as of every text.
            example: its tokens.
            wish: how its embedding is made.
        """
        super().__init__(number, adapters)
        self.example = example
        self._wish = wish

    def rows(
        self, adapters: Sequence[Prepared]
    ) -> list[tuple[EncodedExample, Head | PoolingParams]]:
        """Return the text, whichever adapters read it."""
        return [(self.example, self._wish)]

    def value(self) -> Tensor:
        """Return the vector ``[hidden]``, float32 on the CPU.

        Raises:
            AdapterHubError: when it went wrong, or is not finished.
        """
        (vector,) = self.values()
        return vector


class LabelRequest(PoolingRequest):
    """A text that is labelled by the head of one of its adapters."""

    def __init__(
        self,
        number: int,
        adapters: tuple[tuple[str, float], ...],
        text: str | Example,
        kind: HeadName,
    ) -> None:
        """Wait for adapters.

        Args:
            number: as of every text.
            adapters: as of every text; one of them has a head.
            text: itself, or a row with the task's fields.
            kind: of the head.
        """
        super().__init__(number, adapters)
        self._row: Mapping[str, Any] = {"text": text} if isinstance(text, str) else text
        self._kind = kind
        self._reader: TaskHead | None = None
        #: parts of the text that fit into a pass, in order
        self._windows: list[Example] = []

    def rows(
        self, adapters: Sequence[Prepared]
    ) -> list[tuple[EncodedExample, Head | PoolingParams]]:
        """Return the text's windows, with the head that reads them.

        Raises:
            EngineError: when none or several of the adapters have a head, or one of another kind.
            DataError: when the text can't be used.
        """
        self._reader = reader = self._only_reader(adapters)
        task = reader.task
        self._windows = list(task.windows(self._row))
        examples = [task.encode(window, 1, train=False) for window in self._windows]
        return [(example, reader.head) for example in examples if example is not None]

    def answer(self) -> dict[str, Any]:
        """Return what the task's ``prediction`` gives, of all windows together.

        Raises:
            AdapterHubError: when it went wrong, or is not finished.
        """
        values, reader = self.values(), self._reader
        if reader is None:
            raise EngineError("waits for its adapters", hint="Call step until it is finished")
        parts = []
        for window, request, logits in zip(self._windows, self.passes, values, strict=True):
            # the pixels of a picture are read, and what is left to decode needs none of them
            batch = pack([replace(request.example, pixels=None)])
            (decoded,) = reader.task.decode(lambda hidden: hidden, logits, batch)
            parts.append(reader.task.prediction(window, decoded))
        return reader.task.join(parts)

    def _only_reader(self, adapters: Sequence[Prepared]) -> TaskHead:
        place = ", ".join(key for key, _ in self.adapters) or "bare backbone"
        found = [each.reader for each in adapters if each.reader is not None]
        if len(found) != 1:
            raise EngineError(
                f"{len(found)} of the adapters have a head, and it takes one to label a text",
                place=place,
                hint="" if found else "Use generate or embed",
            )
        (reader,) = found
        if reader.head.kind != self._kind:
            raise EngineError(
                f"its head is for {reader.task.name}",
                place=place,
                hint=f"Use {_METHODS[reader.head.kind]}",
            )
        return reader


def one_each(texts: Sequence[Any], adapters: Each | None) -> Iterator[tuple[Any, Adapters]]:
    """Yield each text with its adapters.

    Raises:
        EngineError: when there are not as many of one as of the other.
    """
    if isinstance(texts, str):
        raise EngineError("one text is given where a list of texts is asked for", place="texts")
    each = [adapters] * len(texts) if adapters is None or isinstance(adapters, str) else adapters
    if len(each) != len(texts):
        raise EngineError(f"{len(each)} adapters for {len(texts)} texts", place="adapters")
    return zip(texts, each, strict=True)
