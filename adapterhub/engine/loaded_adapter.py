"""A loaded adapter: predictions of its task, with it and without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from adapterhub.data.packing import EncodedExample, pack
from adapterhub.engine.heads import LABELING_KINDS
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.engine.transcription import transcribe_all
from adapterhub.errors import DataError
from adapterhub.tasks.recordings import audio_field
from adapterhub.tasks.transcription import TranscriptionOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.adapters.manifest import Manifest
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.audio import AudioFile
    from adapterhub.data.packing import PackedBatch
    from adapterhub.engine.engine import Engine
    from adapterhub.engine.heads import LabelingKind
    from adapterhub.engine.pooling_requests import PoolingRequest
    from adapterhub.tasks.base import Task, TextGeneration
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.transcription import Transcript

#: Tokens of pooling requests that are queued together; more would only make the queue long.
_QUEUED_TOKENS = 16384
#: Recordings that are transcribed together.
_QUEUED_RECORDINGS = 64
_PROBE = "The quick brown fox jumps over the lazy dog, then asks: what is 12 + 7?"
_Add: TypeAlias = "Callable[[Engine, EncodedExample], PoolingRequest]"


class EngineHolder(Protocol):
    """What a loaded adapter needs of its local engine."""

    backbone: Backbone

    @property
    def engine(self) -> Engine:
        """The engine that computes."""

    def num_virtual_tokens(self, name: str) -> int:
        """Return the number of virtual tokens of a loaded adapter."""

    def reserve_cache(self, longest: int, tokens: int = 0) -> None:
        """Make room in the KV cache for sequences, the longest of so many tokens."""

    def load(self, artifact: Artifact, *, name: str, force: bool = False) -> LoadedAdapter:
        """Load another adapter."""

    def exchange(self, name: str, artifact: Artifact) -> LoadedAdapter:
        """Replace a loaded adapter by another of the same task."""

    def lend_backbone(self) -> AbstractContextManager[Backbone]:
        """Lend the backbone without the layers of the engine."""

    def close(self) -> None:
        """Restore the backbone."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedAdapter:
    """An adapter in a local engine, with its task.

    Every method computes with the adapter, or where ``with_adapter`` is false with the base model
    alone; the adapter's head then reads the base model.
    """

    local: EngineHolder
    name: str
    artifact: Artifact
    task: Task

    @property
    def manifest(self) -> Manifest:
        """Manifest of the artifact."""
        return self.artifact.manifest

    @property
    def digest(self) -> str:
        """Digest of the artifact."""
        return self.artifact.digest

    @property
    def backbone(self) -> Backbone:
        """Backbone of the engine."""
        return self.local.backbone

    def predict(
        self, examples: Sequence[Example], *, with_adapter: bool = True
    ) -> list[dict[str, Any]]:
        """Label examples, or answer them if the task is given by an instruction.

        Args:
            examples: Examples with the fields of the task; labels are not needed.
            with_adapter: Whether the adapter is used.

        Returns:
            The task's ``prediction`` of each example: a label with scores, or spans with
            character offsets. Long texts are cut into windows and joined again. A task with an
            instruction returns ``{"answer"}``.

        Raises:
            DataError: If the adapter holds conversations, or an example is invalid.
        """
        task, generation = self.task, self.task.generation
        if task.transcription is not None:
            heard = [audio_field(each, at) for at, each in enumerate(examples, start=1)]
            found = self.transcribe(heard, with_adapter=with_adapter)
            return [each.prediction() for each in found]
        if generation is not None and generation.reads_fields:
            messages = [generation.messages(each, i) for i, each in enumerate(examples, start=1)]
            texts = self.generate(messages, with_adapter=with_adapter)
            return [{"answer": text} for text in texts]
        if generation is not None:
            problem = "answers in text"
            raise DataError(
                problem, place=self.name, hint="Use adapterhub chat, or Model.generate in Python"
            )
        windows = [
            (at, window, encoded)
            for at, example in enumerate(examples)
            for window in task.windows(example)
            if (encoded := task.encode(window, at + 1, train=False)) is not None
        ]
        decoded = self.decode([encoded for *_, encoded in windows], with_adapter=with_adapter)
        answers: list[list[dict[str, Any]]] = [[] for _ in examples]
        for (at, window, _), each in zip(windows, decoded, strict=True):
            answers[at].append(task.prediction(window, each))
        return [task.join(parts) if parts else {} for parts in answers]

    def decode(self, examples: Sequence[EncodedExample], *, with_adapter: bool = True) -> list[Any]:
        """Return the raw prediction of each encoded example, as ``Task.decode`` does."""
        return self.decode_with_loss(examples, with_adapter=with_adapter)[0]

    def decode_with_loss(
        self, examples: Sequence[EncodedExample], *, with_adapter: bool = True
    ) -> tuple[list[Any], float | None]:
        """Return the raw predictions, and their mean loss if the examples have targets.

        The loss of a task that generates text is one of its metrics, and ``None`` here.
        """
        task = self.task
        if task.generation is not None:
            used = self.name if with_adapter else None
            scored = self._compute(
                examples, lambda engine, each: engine.add_scoring(each, used, task=task)
            )
            return [request.scores() for request in scored], None
        logits = self.logits(examples, with_adapter=with_adapter)
        decoded: list[Any] = []
        loss = weight = 0.0
        for example, own in zip(examples, logits, strict=True):
            batch = _batch_of(example)
            decoded += task.decode(_identity, own, batch)
            if len(example.targets):
                loss += float(task.loss(_identity, own, batch))
                weight += task.weight(batch)
        return decoded, loss / weight if weight else None

    def logits(
        self, examples: Sequence[EncodedExample], *, with_adapter: bool = True
    ) -> list[Tensor]:
        """Return the outputs of the head, float32 ``[num_selected, num_classes]`` each.

        Raises:
            EngineError: If the task has no head of its own.
        """
        kind = _kind_of(self.task)
        requests = self._compute(
            examples,
            lambda engine, each: engine.add_labeling(
                each, self.name, kind=kind, base=not with_adapter
            ),
        )
        return [found for request in requests for found in request.results()]

    def states(
        self, examples: Sequence[EncodedExample], *, with_adapter: bool = True
    ) -> list[Tensor]:
        """Return the hidden states at the selected tokens, ``[num_selected, hidden_size]`` each."""
        used = self.name if with_adapter else None
        requests = self._compute(
            examples, lambda engine, each: engine.add_embedding(each, used, pooling="selected")
        )
        return [found for request in requests for found in request.results()]

    def embed(self, examples: Sequence[EncodedExample], *, with_adapter: bool = True) -> Tensor:
        """Return the mean hidden state of each example, ``[num_examples, hidden_size]``."""
        used = self.name if with_adapter else None
        requests = self._compute(examples, lambda engine, each: engine.add_embedding(each, used))
        return torch.stack([request.embedding() for request in requests])

    def generate(
        self,
        conversations: Iterable[Sequence[Mapping[str, str]]],
        *,
        max_new_tokens: int | None = None,
        with_adapter: bool = True,
    ) -> list[str]:
        """Generate the next message of conversations, greedily.

        Args:
            conversations: Messages with ``role`` and ``content``, the last one the user's.
            max_new_tokens: Most tokens of an answer; the recipe's by default.
            with_adapter: Whether the adapter is used; the prompt format is the adapter's anyway.

        Raises:
            DataError: If the task does not generate text.
        """
        task = self._generation()
        prompts = [task.prompt_ids([dict(m) for m in messages]) for messages in conversations]
        return self.generate_from(prompts, max_new_tokens, with_adapter=with_adapter)

    def generate_from(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | None = None,
        *,
        with_adapter: bool = True,
    ) -> list[str]:
        """Generate the texts that follow prompts of token ids, greedily; see ``generate``."""
        task = self._generation()
        if not prompts:
            return []
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens or task.options.max_new_tokens,
            stop=task.stop_strings,
            stop_token_ids=tuple(sorted(task.stop_ids)),
            num_beams=task.options.num_beams,
        )
        self._reserve_cache(prompts, params.max_tokens, with_adapter=with_adapter)
        used = self.name if with_adapter else None
        prepare = self.local.engine.prompt_processor.prepare
        prepared = [prepare(prompt, params, task.target_frame) for prompt in prompts]
        outputs = self.local.engine.generate(prepared, [used] * len(prompts))
        texts = []
        for output in outputs:
            if output.error is not None:
                raise output.error
            texts.append(task.text_of(output.outputs[0].tokens))
        return texts

    def write(self, examples: Sequence[Example], *, with_adapter: bool = True) -> list[str]:
        """Return a text for each labelled example, to be scored by its reference.

        Args:
            examples: Examples with the fields of the task.
            with_adapter: Whether the adapter is used.

        Raises:
            DataError: If the task does not generate text, or an example is invalid.
        """
        task = self._generation()
        numbered = list(enumerate(examples, start=1))
        if self.task.transcription is not None:
            heard = [audio_field(each, at) for at, each in numbered]
            return [each.text for each in self.transcribe(heard, with_adapter=with_adapter)]
        questions = [task.question_and_reference(each, at)[0] for at, each in numbered]
        return self.generate(questions, with_adapter=with_adapter)

    def transcribe(
        self,
        recordings: Sequence[AudioFile],
        options: TranscriptionOptions | None = None,
        *,
        with_adapter: bool = True,
    ) -> list[Transcript]:
        """Transcribe recordings of any length.

        Args:
            recordings: Recordings.
            options: Language, task and sampling; the recipe's by default.
            with_adapter: Whether the adapter is used.

        Raises:
            DataError: If the task does not transcribe, or a recording can't be read.
        """
        task = self.task.transcription
        if task is None:
            raise DataError("does not transcribe", place=self.name, hint="Use adapterhub predict")
        found: list[Transcript] = []
        options = options or TranscriptionOptions()
        self.local.reserve_cache(task.window_tokens, task.window_tokens * len(recordings))
        base = not with_adapter and self.task.generation is None
        used = self.name if with_adapter or base else None
        # spectrograms stay in memory until they are computed
        for start in range(0, len(recordings), _QUEUED_RECORDINGS):
            some = recordings[start : start + _QUEUED_RECORDINGS]
            steps = [task.transcribe(each, options) for each in some]
            found += transcribe_all(self.local.engine, steps, [used] * len(some), base=base)
        return found

    def _compute(self, examples: Sequence[EncodedExample], add: _Add) -> list[PoolingRequest]:
        """Return finished requests of examples; those of similar length are computed together."""
        found: dict[int, PoolingRequest] = {}
        order = sorted(range(len(examples)), key=lambda at: -len(examples[at]))
        engine, queued, tokens = self.local.engine, [], 0
        for place, at in enumerate(order, start=1):
            found[at] = add(engine, examples[at])
            queued.append(found[at])
            tokens += len(examples[at])
            if tokens >= _QUEUED_TOKENS or place == len(order):
                while not all(request.finished for request in queued):
                    engine.step()
                queued, tokens = [], 0
        return [found[at] for at in range(len(examples))]

    def _reserve_cache(
        self, prompts: Sequence[Sequence[int]], answer: int, *, with_adapter: bool
    ) -> None:
        config = self.local.engine.config
        virtual = self.local.num_virtual_tokens(self.name) if with_adapter else 0
        lengths = sorted((virtual + len(prompt) + answer for prompt in prompts), reverse=True)
        # the last block of a sequence may be almost empty
        blocks = [-(-length // config.block_size) for length in lengths]
        tokens = sum(blocks[: config.max_num_seqs]) * config.block_size
        self.local.reserve_cache(lengths[0], tokens)

    def _generation(self) -> TextGeneration:
        if self.task.generation is None:
            raise DataError(
                "does not generate text", place=self.name, hint="Use adapterhub predict"
            )
        return self.task.generation


def _identity(logits: Tensor) -> Tensor:
    return logits


def _batch_of(example: EncodedExample) -> PackedBatch:
    # decoding needs no input
    return pack([replace(example, media=None)])


def _kind_of(task: Task) -> LabelingKind:
    kind = LABELING_KINDS.get(task.head)
    if kind is None:
        raise DataError("has no head of its own", place=task.name)
    return kind
