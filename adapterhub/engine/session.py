"""Several stored adapters on one loaded backbone, each answering in its turn.

Every adapter stays resident beside the others on the shared body; which one computes is
chosen at each call. It is peft's own arithmetic, one adapter a batch.
"""

from __future__ import annotations

import io
from contextlib import nullcontext
from dataclasses import dataclass, replace
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
from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    DataError,
    NoEffectError,
    NotFoundError,
    did_you_mean,
)
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.adapters.manifest import Manifest
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.tasks.base import Task

#: Tokens computed at once.
BATCH_TOKENS = 2048
#: Conversations answered at once.
BATCH_CONVERSATIONS = 8
_PROBE = "The quick brown fox jumps over the lazy dog, then asks: what is 12 + 7?"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedAdapter:
    """An adapter ready to answer.

    Args:
        name: as loaded.
        digest: of the artifact.
        manifest: of the artifact.
        task: built from the manifest.
        model: on the shared body.
    """

    name: str
    digest: str
    manifest: Manifest
    task: Task
    model: TaskModel


class Session:
    """One backbone and the adapters loaded on it. Not safe for use from several threads."""

    def __init__(self, backbone: Backbone) -> None:
        """Serve adapters on ``backbone``, whose weights never change."""
        self.backbone = backbone
        self._adapters: dict[str, LoadedAdapter] = {}

    @property
    def adapters(self) -> Mapping[str, LoadedAdapter]:
        """The loaded adapters by name."""
        return dict(self._adapters)

    def load(self, artifact: Artifact, *, name: str, force: bool = False) -> LoadedAdapter:
        """Put an artifact on the backbone, strictly.

        Args:
            artifact: verified, as ``read_artifact`` returns it.
            name: under which it is asked for; must be free.
            force: accept an adapter that was trained on another backbone.

        Raises:
            FingerprintMismatch: when it was trained on another backbone.
            StrictLoadError: when its tensors do not fit the model one to one.
            NoEffectError: when it changes nothing in the output.
        """
        if name in self._adapters:
            raise AdapterHubError("is loaded already", place=name)
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
                "changes nothing in the output of the backbone",
                place=name,
                hint="It was stored untrained, or its tensors are all zero; train it again",
            )
        self._adapters[name] = loaded
        return loaded

    def unload(self, name: str) -> None:
        """Take an adapter off the backbone.

        Raises:
            NotFoundError: when it isn't loaded.
        """
        self._get(name).model.remove()
        del self._adapters[name]

    def model(self, name: str) -> TaskModel:
        """Return an adapter's model, made the one that computes.

        Raises:
            NotFoundError: when it isn't loaded.
        """
        model = self._get(name).model
        model.activate()
        return model

    def predict(
        self, name: str, rows: Sequence[Mapping[str, Any]], *, bare: bool = False
    ) -> list[dict[str, Any]]:
        """Label rows with an adapter that labels, or answer them by one that is instructed.

        Args:
            name: of a loaded adapter.
            rows: with the task's fields; labels are not needed.
            bare: read the bare backbone with the adapter's head, for comparison.

        Returns:
            For each row what the task's ``prediction`` gives: a label with scores, or spans
            with character offsets. Long rows are cut into windows and joined again. A task by
            instruction generates: ``{"answer"}``.

        Raises:
            NotFoundError: when the adapter isn't loaded.
            DataError: when the adapter generates text, or a row can't be used.
        """
        task = self._get(name).task
        generation = task.generation
        if generation is not None and generation.instruction:
            asked = [generation.messages(row, number) for number, row in enumerate(rows, start=1)]
            texts = self.generate(None if bare else name, asked, like=name)
            return [{"answer": text} for text in texts]
        if generation is not None:
            raise DataError("answers in text", place=name, hint="Use generate, or adapterhub chat")
        windows = [(index, w) for index, row in enumerate(rows) for w in task.windows(row)]
        encoded = [task.encode(w, index + 1, train=False) for index, w in windows]
        examples = [example for example in encoded if example is not None]
        decoded = self._decode(name, examples, bare=bare)
        answers: list[list[dict[str, Any]]] = [[] for _ in rows]
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
        """CompletionOutput conversations, greedily.

        Args:
            name: of a loaded dialogue adapter; ``None`` asks the bare backbone.
            conversations: messages with ``role`` and ``content``, the last one the user's.
            max_new_tokens: longest answer; the recipe's where not given.
            like: adapter whose prompt the bare backbone is asked with.

        Raises:
            NotFoundError: when the adapter isn't loaded.
            DataError: when the adapter does not generate text.
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

    def _decode(self, name: str, examples: Sequence[EncodedExample], *, bare: bool) -> list[Any]:
        adapter = self._get(name)
        adapter.model.activate()
        decoded: list[Any] = [None] * len(examples)
        batches = batches_by_length([len(example) for example in examples], BATCH_TOKENS)
        without = adapter.model.disable_adapter() if bare else nullcontext()
        with torch.no_grad(), without:
            for indices in batches:
                batch = pack([examples[index] for index in indices]).to(self.backbone.device)
                hidden = adapter.model.hidden(batch)
                outputs = adapter.task.decode(adapter.model.head, hidden, batch)
                for index, output in zip(indices, outputs, strict=True):
                    decoded[index] = output
        return decoded

    def _has_effect(self, adapter: LoadedAdapter) -> bool:
        """Tell whether the adapter's output differs from what is there without it."""
        model = adapter.model
        model.activate()
        batch = pack([self._probe(adapter.task)]).to(self.backbone.device)
        with torch.no_grad():
            with model.disable_adapter():
                bare = model.hidden(batch)
            if not torch.equal(bare, model.hidden(batch)):
                return True
            # the body is as before; a head of its own still tells classes apart
            return adapter.task.generation is None and bool(model.head(bare).std(dim=-1).any())

    def _probe(self, task: Task) -> EncodedExample:
        """Return a row to see an adapter's effect on."""
        if self.backbone.kind == "vision":
            example = task.encode({"image": _probe_picture()}, 1, train=False)
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


def _probe_picture() -> ImageFile:
    """Return a picture whose colours run from corner to corner."""
    side = Image.linear_gradient("L")
    across = side.transpose(Image.Transpose.ROTATE_90)
    content = io.BytesIO()
    Image.merge("RGB", (side, across, side)).save(content, "PNG")
    return ImageFile("probe", content.getvalue())


def task_of(manifest: Manifest, backbone: Backbone) -> Task:
    """Build the task that an adapter was trained for.

    Raises:
        ArtifactError: when its manifest does not say how texts are read for it.
    """
    section = manifest.recipe.get("task")
    if section is None:
        raise ArtifactError(
            "has no section 'task'", place="recipe", hint="Train, import or compose it again"
        )
    options = TaskOptions.of_section(section)
    return build_task(
        manifest.task,
        backbone.preprocessor,
        backbone.kind,
        list(manifest.labels),
        # the rows that balanced weights are counted from are not here, nor is anything learned
        replace(options, class_weights=None, label_smoothing=0.0),
    )
