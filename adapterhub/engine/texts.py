"""Texts on their way to labels: cut into rows, read in passes, joined again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from adapterhub.data.packing import pack
from adapterhub.engine.heads import head_tensors, make_head
from adapterhub.errors import EngineError
from adapterhub.tasks.base import join_predictions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.packing import Example
    from adapterhub.engine.heads import Head
    from adapterhub.engine.passes import PassRequest, SinglePasses
    from adapterhub.tasks.base import Row, Task
    from adapterhub.weights import AdapterWeights

#: Of heads: read once a row, or once a word.
HeadName = Literal["sequence", "token"]
#: What a text asks for: an adapter, or several with weights.
Asked: TypeAlias = "str | Sequence[tuple[str, float]] | None"
#: One for each text, or one name for all.
Each: TypeAlias = "str | Sequence[Asked]"
_METHODS = {"sequence": "classify", "token": "tag"}


@dataclass(frozen=True, slots=True, eq=False)
class LabelRequest:
    """A text, and the passes that it is read in.

    Args:
        task: that reads it.
        windows: parts of the text, in order.
        passes: of each of them.
    """

    task: Task
    windows: tuple[Row, ...]
    passes: tuple[PassRequest, ...]

    @property
    def finished(self) -> bool:
        """Whether all passes are done."""
        return all(request.finished for request in self.passes)

    def answer(self) -> dict[str, Any]:
        """Return what the task's ``prediction`` gives, of all windows together.

        Raises:
            EngineError: when a pass went wrong, or is not finished.
        """
        parts = [
            self.task.prediction(window, self._decoded(request.example, request.value()))
            for window, request in zip(self.windows, self.passes, strict=True)
        ]
        return join_predictions(parts)

    def _decoded(self, example: Example, logits: Tensor) -> Any:
        (decoded,) = self.task.decode(lambda hidden: hidden, logits, pack([example]))
        return decoded


class Labeller:
    """The tasks and heads of adapters that label, by key.

    Args:
        backbone: that they were trained on.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._known: dict[str, tuple[Task, Head]] = {}

    def take(
        self, weights: AdapterWeights, task: Task | None, *, key: str, name: str
    ) -> frozenset[str]:
        """Keep the head of an adapter that labels; return the keys of its tensors.

        Args:
            weights: of the adapter.
            task: that it was trained for, if that is known.
            key: of the adapter.
            name: of the adapter, for messages.

        Raises:
            StrictLoadError: when the head is not whole.
        """
        if task is None or task.head == "causal_lm":
            return frozenset()
        found, backbone = head_tensors(weights), self._backbone
        self._known[key] = (
            task,
            make_head(
                found,
                task,
                kind=backbone.kind,
                width=backbone.config.hidden_size,
                device=backbone.device,
                name=name,
            ),
        )
        return found.keys

    def forget(self, key: str) -> None:
        """Forget an adapter's, where it has any."""
        self._known.pop(key, None)

    def ask(
        self,
        text: str | Row,
        adapters: tuple[tuple[str, float], ...],
        kind: HeadName,
        passes: SinglePasses,
    ) -> LabelRequest:
        """Put a text into the queue.

        Args:
            text: itself, or a row with the task's fields.
            adapters: keys and weights, one of them with a head.
            kind: of the head.
            passes: the queue.

        Raises:
            EngineError: when none or several of the adapters have a head, or one of another kind.
            DataError: when the text can't be used.
        """
        task, head = self._reader(adapters, kind)
        row: Mapping[str, Any] = {"text": text} if isinstance(text, str) else text
        windows = task.windows(row)
        examples = [task.encode(window, 1, train=False) for window in windows]
        requests = [passes.add(each, adapters, head) for each in examples if each is not None]
        return LabelRequest(task, tuple(windows), tuple(requests))

    def _reader(self, adapters: tuple[tuple[str, float], ...], kind: HeadName) -> tuple[Task, Head]:
        place = ", ".join(key for key, _ in adapters) or "bare backbone"
        found = [self._known[key] for key, _ in adapters if key in self._known]
        if len(found) != 1:
            raise EngineError(
                f"{len(found)} of the adapters have a head, and it takes one to label a text",
                place=place,
                hint="" if found else "Use generate or embed",
            )
        task, head = found[0]
        if head.kind != kind:
            raise EngineError(
                f"its head is for {task.name}", place=place, hint=f"Use {_METHODS[head.kind]}"
            )
        return task, head


def one_each(texts: Sequence[Any], adapters: Each | None) -> Iterator[tuple[Any, Asked]]:
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
