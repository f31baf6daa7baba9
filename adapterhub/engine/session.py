"""Several adapters on one backbone, computed by peft, one adapter per batch."""

from __future__ import annotations

import io
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig
from PIL import Image

from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.backbones.generation import generate_ids
from adapterhub.backbones.task_model import restore_task_model
from adapterhub.data.batching import batches_by_length
from adapterhub.data.images import ImageFile
from adapterhub.data.packing import EncodedExample, pack
from adapterhub.engine.adapter_task import task_of
from adapterhub.errors import (
    AdapterHubError,
    DataError,
    NoEffectError,
    NotFoundError,
    did_you_mean,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.adapters.manifest import Manifest
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.tasks.base import Task

#: Most tokens of a batch.
BATCH_TOKENS = 2048
#: Most conversations of a batch.
BATCH_CONVERSATIONS = 8
_PROBE = "The quick brown fox jumps over the lazy dog, then asks: what is 12 + 7?"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedAdapter:
    """A loaded adapter with its task and model."""

    name: str
    digest: str
    manifest: Manifest
    task: Task
    model: TaskModel


class Session:
    """One backbone and the adapters loaded on it. Not safe for use from several threads.

    Args:
        backbone: Frozen backbone shared by all adapters.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._adapters: dict[str, LoadedAdapter] = {}

    @property
    def adapters(self) -> Mapping[str, LoadedAdapter]:
        """The loaded adapters by name."""
        return dict(self._adapters)

    def load(self, artifact: Artifact, *, name: str, force: bool = False) -> LoadedAdapter:
        """Load an artifact strictly.

        Args:
            artifact: Verified artifact.
            name: Unused name for the adapter.
            force: Whether to accept an adapter that was trained on another backbone.

        Raises:
            FingerprintMismatch: If it was trained on another backbone.
            StrictLoadError: If its tensors do not fit the model one to one.
            NoEffectError: If it does not change the output.
        """
        if name in self._adapters:
            raise AdapterHubError("is already loaded", place=name)
        manifest = artifact.manifest
        check_fingerprint(
            self.backbone.fingerprint, name, manifest.backbone.fingerprint, force=force
        )
        task = task_of(manifest, self.backbone)
        model = restore_task_model(
            self.backbone,
            head=task.head,
            labels=task.labels,
            config=PeftConfig.from_peft_type(**artifact.adapter_config),
            tensors=artifact.weights.tensors,
            adapter_name=artifact.digest.removeprefix("sha256:")[:16],
        )
        loaded = LoadedAdapter(name, artifact.digest, manifest, task, model)
        if not self._has_effect(loaded):
            model.remove()
            raise NoEffectError(
                "does not change the output of the backbone",
                place=name,
                hint="It was stored untrained, or its tensors are all zero; train it again",
            )
        self._adapters[name] = loaded
        return loaded

    def unload(self, name: str) -> None:
        """Remove an adapter.

        Raises:
            NotFoundError: If it is not loaded.
        """
        self._get(name).model.remove()
        del self._adapters[name]

    def model(self, name: str) -> TaskModel:
        """Activate an adapter and return its model.

        Raises:
            NotFoundError: If it is not loaded.
        """
        model = self._get(name).model
        model.activate()
        return model

    def predict(
        self, name: str, examples: Sequence[Mapping[str, Any]], *, with_adapter: bool = True
    ) -> list[dict[str, Any]]:
        """Label examples, or answer them if the task is given by an instruction.

        Args:
            name: Name of a loaded adapter.
            examples: Examples with the fields of the task; labels are not needed.
            with_adapter: Whether the adapter is active; without it, its head reads the base model.

        Returns:
            The task's ``prediction`` of each example: a label with scores, or spans with
            character offsets. Long texts are cut into windows and joined again. A task with an
            instruction returns ``{"answer"}``.

        Raises:
            NotFoundError: If the adapter is not loaded.
            DataError: If the adapter generates text, or an example is invalid.
        """
        task = self._get(name).task
        generation = task.generation
        if generation is not None and generation.instruction:
            messages = [generation.messages(each, i) for i, each in enumerate(examples, start=1)]
            texts = self.generate(name if with_adapter else None, messages, like=name)
            return [{"answer": text} for text in texts]
        if generation is not None:
            raise DataError("answers in text", place=name, hint="Use generate, or adapterhub chat")
        windows = [(index, w) for index, each in enumerate(examples) for w in task.windows(each)]
        encoded = [task.encode(w, index + 1, train=False) for index, w in windows]
        batch = [example for example in encoded if example is not None]
        decoded = self._decode(name, batch, with_adapter=with_adapter)
        answers: list[list[dict[str, Any]]] = [[] for _ in examples]
        for (index, window), each in zip(windows, decoded, strict=True):
            answers[index].append(task.prediction(window, each))
        return [task.join(parts) if parts else {} for parts in answers]

    def generate(
        self,
        name: str | None,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        *,
        max_new_tokens: int | None = None,
        like: str | None = None,
    ) -> list[str]:
        """Generate the next message of conversations, greedily.

        Args:
            name: Name of a loaded dialogue adapter; ``None`` uses the base model.
            conversations: Messages with ``role`` and ``content``, the last one the user's.
            max_new_tokens: Most tokens of an answer; the recipe's by default.
            like: Adapter whose prompt format the base model gets.

        Raises:
            NotFoundError: If the adapter is not loaded.
            DataError: If the adapter does not generate text.
        """
        chosen = self._get(name or like or self._any_dialogue())
        task = chosen.task.generation
        if task is None:
            raise DataError("does not generate text", place=chosen.name, hint="Use predict")
        chosen.model.activate()
        limit = max_new_tokens or task.options.max_new_tokens
        prompts = [task.prompt_ids([dict(m) for m in messages]) for messages in conversations]
        answers: list[str] = []
        for start in range(0, len(prompts), BATCH_CONVERSATIONS):
            part = prompts[start : start + BATCH_CONVERSATIONS]
            with chosen.model.disable_adapter() if name is None else nullcontext():
                ids = generate_ids(
                    chosen.model, part, limit, stop_ids=task.stop_ids, with_adapter=name is not None
                )
            answers += [task.text_of(each) for each in ids]
        return answers

    def _decode(
        self, name: str, examples: Sequence[EncodedExample], *, with_adapter: bool
    ) -> list[Any]:
        adapter = self._get(name)
        adapter.model.activate()
        decoded: list[Any] = [None] * len(examples)
        batches = batches_by_length([len(example) for example in examples], BATCH_TOKENS)
        context = nullcontext() if with_adapter else adapter.model.disable_adapter()
        with torch.no_grad(), context:
            for indices in batches:
                batch = pack([examples[index] for index in indices]).to(self.backbone.device)
                hidden = adapter.model.hidden(batch)
                outputs = adapter.task.decode(adapter.model.head, hidden, batch)
                for index, output in zip(indices, outputs, strict=True):
                    decoded[index] = output
        return decoded

    def _has_effect(self, adapter: LoadedAdapter) -> bool:
        """Return whether the adapter changes the output of the base model."""
        model = adapter.model
        model.activate()
        batch = pack([self._probe(adapter.task)]).to(self.backbone.device)
        with torch.no_grad():
            with model.disable_adapter():
                base = model.hidden(batch)
            if not torch.equal(base, model.hidden(batch)):
                return True
            # even with an unchanged base model, a head of its own may distinguish classes
            return adapter.task.generation is None and bool(model.head(base).std(dim=-1).any())

    def _probe(self, task: Task) -> EncodedExample:
        """Return an example that shows an adapter's effect."""
        if self.backbone.kind == "vision":
            example = task.encode({"image": _probe_image()}, 1, train=False)
            if example is not None:
                return example
        ids = self.backbone.tokenizer(_PROBE)["input_ids"]
        return EncodedExample(1, ids, range(len(ids)))

    def _any_dialogue(self) -> str:
        for name, adapter in self._adapters.items():
            if adapter.task.generation is not None:
                return name
        raise NotFoundError("no dialogue adapter is loaded", hint="Load one, or name it in like")

    def _get(self, name: str) -> LoadedAdapter:
        if name not in self._adapters:
            raise NotFoundError(
                "is not loaded", place=name, hint=did_you_mean(name, self._adapters)
            )
        return self._adapters[name]


def _probe_image() -> ImageFile:
    """Return an image of colour gradients."""
    side = Image.linear_gradient("L")
    across = side.transpose(Image.Transpose.ROTATE_90)
    content = io.BytesIO()
    Image.merge("RGB", (side, across, side)).save(content, "PNG")
    return ImageFile("probe", content.getvalue())
