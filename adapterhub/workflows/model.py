"""Model facade: one adapter on its backbone, ready to predict, evaluate and explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from peft import PeftConfig

from adapterhub.backbones.task_model import restore_task_model
from adapterhub.data.media import read_media
from adapterhub.errors import DataError
from adapterhub.evaluation.attribution.explain import explain, explain_text, window_inputs
from adapterhub.evaluation.attribution.methods import STEPS
from adapterhub.registry.registry import Registry
from adapterhub.tasks.table import entry_of
from adapterhub.workflows.open_adapter import open_adapter, open_backbone_of
from adapterhub.workflows.score import score
from adapterhub.workflows.stored_examples import examples_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.evaluation.attribution.explain import Explanation
    from adapterhub.evaluation.attribution.methods import AttributionMethod
    from adapterhub.registry.version import Version
    from adapterhub.specs import ComputeDtype
    from adapterhub.tasks.base import Task

#: A text, the path of an image or recording, or the fields of the task by name.
Input: TypeAlias = "str | Path | Mapping[str, Any]"
Prediction: TypeAlias = "dict[str, Any]"


class Model:
    """An adapter on the backbone that it was trained on. Not safe for use from several threads.

    Make one with `load`. An input is a text, the path of an image or recording, or a mapping
    with the fields of the task, such as ``{"question": …, "context": …}`` or ``{"messages": […]}``.

    Args:
        ref: Reference of the adapter.
        registry: Registry that stores it.
        device: Torch device; the first GPU or else the CPU by default.
        force: Accept a backbone with another fingerprint.
        compute_dtype: Type of activations; as in training by default.
    """

    def __init__(
        self,
        ref: str,
        registry: Registry,
        *,
        device: str | None = None,
        force: bool = False,
        compute_dtype: ComputeDtype | None = None,
    ) -> None:
        self._device = device
        self._loaded, self._version = open_adapter(
            registry, ref, force=force, device=device, compute_dtype=compute_dtype
        )
        self._float32: Backbone | None = None

    @property
    def version(self) -> Version:
        """Stored version of the adapter."""
        return self._version

    @property
    def backbone(self) -> Backbone:
        """Frozen backbone of the adapter."""
        return self._loaded.backbone

    @property
    def task(self) -> str:
        """Name of the task, such as ``text-classification``."""
        return self._loaded.manifest.task

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of `predict_proba`; empty for a task without labels."""
        return self._loaded.manifest.labels

    @property
    def input_field(self) -> str:
        """Field of the task that an input other than a mapping is put in, such as ``image``."""
        return entry_of(self.task).media_field or "text"

    @property
    def generates(self) -> bool:
        """Whether predictions are generated texts."""
        return self._loaded.task.generation is not None

    def summary(self, prediction: Prediction) -> str:
        """Return a prediction as one line of text."""
        return self._loaded.task.summary(prediction)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
        self, inputs: Input, *, max_new_tokens: int | None = None
    ) -> Prediction: ...
    @overload
    def predict(
        self, inputs: Sequence[Input], *, max_new_tokens: int | None = None
    ) -> list[Prediction]: ...
    def predict(
        self, inputs: Input | Sequence[Input], *, max_new_tokens: int | None = None
    ) -> Prediction | list[Prediction]:
        """Predict labels, spans, scores or answers.

        Args:
            inputs: One input, or a sequence of them.
            max_new_tokens: Longest generated answer in tokens; as in the recipe by default.

        Returns:
            One prediction for one input, else a list of them. Its keys depend on the task:
            ``label``, ``score`` and ``scores``; ``labels`` with several labels; ``spans`` with
            character offsets; ``answer``; ``text`` and ``segments`` of a recording.

        Raises:
            DataError: When an input cannot be used; the message names it.
        """
        examples = [self._example(each) for each in _as_list(inputs)]
        if self._loaded.task.transcription is not None and max_new_tokens is not None:
            raise DataError(
                "a transcript is as long as the recording", place="max_new_tokens", hint="Remove it"
            )
        if self.generates and self._loaded.task.transcription is None:
            texts = self.generate(examples, max_new_tokens=max_new_tokens)
            found: list[Prediction] = [{"answer": text} for text in texts]
        else:
            found = self._loaded.predict(examples)
        return found[0] if _is_single(inputs) else found

    def predict_proba(self, inputs: Input | Sequence[Input]) -> NDArray[np.float64]:
        """Predict the probability of each label.

        Args:
            inputs: One input, or a sequence of them.

        Returns:
            Probabilities ``[num_labels]`` of one input, else ``[num_inputs, num_labels]``, in
            the order of `labels`. They sum to 1 unless an input may have several labels.

        Raises:
            DataError: When the task has no label for each input, or an input cannot be used.
        """
        found = self.predict(_as_list(inputs))
        if any("scores" not in each for each in found):
            problem = f"{self.task} has no label probabilities"
            raise DataError(problem, place=self._loaded.name, hint="Use adapterhub predict")
        table = np.array([[each["scores"][label] for label in self.labels] for each in found])
        return table[0] if _is_single(inputs) else table.reshape(len(found), len(self.labels))

    def generate(
        self,
        inputs: Sequence[Mapping[str, Any]],
        *,
        max_new_tokens: int | None = None,
        base: bool = False,
    ) -> list[str]:
        """Generate answers greedily.

        Args:
            inputs: Mappings with ``messages``, or with the fields of the task.
            max_new_tokens: Longest answer in tokens; as in the recipe by default.
            base: Generate with the base model, without the adapter.

        Raises:
            DataError: When the task does not generate text, or an input cannot be used.
        """
        name, task = self._loaded.name, self._loaded.task.generation
        if task is None:
            raise DataError("does not generate text", place=name, hint="Use adapterhub predict")
        conversations = [task.messages(each, at) for at, each in enumerate(inputs, start=1)]
        return self._loaded.generate(
            conversations, max_new_tokens=max_new_tokens, with_adapter=not base
        )

    def evaluate(
        self,
        data: Path | str,
        *,
        fields: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> dict[str, float]:
        """Compute the metrics of the task on a file of labelled examples.

        Args:
            data: Path of the file: JSON Lines, CSV, TSV, Parquet or CoNLL, possibly gzipped.
            fields: Task field to the column of the file; as in the recipe by default.
            limit: Number of examples to read; all by default.

        Raises:
            DataError: When an example cannot be used; the message names file and example.
        """
        manifest = self._loaded.manifest
        return score(self._loaded, examples_for(manifest, Path(data), fields=fields, limit=limit))

    def explain(
        self,
        input: Input,
        *,
        label: str | None = None,
        span: tuple[int, int] | None = None,
        steps: int = STEPS,
        method: AttributionMethod | None = None,
    ) -> list[Explanation]:
        """Attribute a prediction to the words of the input.

        The explained prediction is that of `predict`. Gradients need float32: where the model
        computes in another type, a second copy of the backbone is loaded for the first
        explanation.

        Args:
            input: Input to explain.
            label: Label to explain; the predicted label by default. With spans, their label.
            span: Characters ``(start, end)``; only predicted spans that overlap are explained.
            steps: Points of the integration path.
            method: ``gradients`` or ``ablation``; by the kind of backbone by default.

        Returns:
            One explanation, or one for each predicted span.

        Raises:
            DataError: When the input cannot be used, or there is no such label or span.
            MissingExtraError: When Captum is not installed.
        """
        loaded, example = self._loaded, self._example(input)
        generation = loaded.task.generation
        if generation is None:
            inputs = window_inputs(loaded.task, example)
            decoded = loaded.decode([each.example for each in inputs])
            with self._gradient_model() as model:
                return explain(
                    model,
                    loaded.task,
                    example,
                    label=label,
                    span=span,
                    steps=steps,
                    method=method,
                    decoded=decoded,
                )
        if label is not None or span is not None:
            raise DataError(
                "generates text, so there are no labels or spans to choose from",
                place=loaded.name,
                hint="Leave out the label and the span",
            )
        messages = generation.messages(example, 1)
        (answer,) = loaded.generate([messages])
        with self._gradient_model() as model:
            return [explain_text(model, loaded.task, messages, answer, steps=steps, method=method)]

    @contextmanager
    def _gradient_model(self) -> Iterator[TaskModel]:
        """Yield the adapter in float32 as a model with gradients, on a backbone without engine."""
        loaded = self._loaded
        with (
            self._float32_backbone() as backbone,
            closing(model_of(loaded.artifact, loaded.task, backbone)) as model,
        ):
            yield model

    def _float32_backbone(self) -> AbstractContextManager[Backbone]:
        if self.backbone.quantization.compute_dtype == "float32":
            return self._loaded.local.lend_backbone()
        if self._float32 is None:
            self._float32 = open_backbone_of(
                self._loaded.artifact, device=self._device, compute_dtype="float32"
            )
        return nullcontext(self._float32)

    def _example(self, given: Input) -> dict[str, Any]:
        entry = entry_of(self.task)
        example: dict[str, Any] = (
            dict(given) if isinstance(given, Mapping) else {self.input_field: given}
        )
        if isinstance(path := example.get(entry.media_field), str | Path):
            example[entry.media_field] = read_media(Path(path), entry.media_file())
        return example


def model_of(artifact: Artifact, task: Task, backbone: Backbone) -> TaskModel:
    """Return an artifact as a model with gradients, on a backbone without an engine."""
    return restore_task_model(
        backbone,
        head=task.head,
        labels=task.labels,
        config=PeftConfig.from_peft_type(**artifact.adapter_config),
        tensors=artifact.weights.tensors,
        adapter_name="explained",
    )


def load(
    ref: str,
    *,
    registry: Registry | None = None,
    device: str | None = None,
    force: bool = False,
    compute_dtype: ComputeDtype | None = None,
) -> Model:
    """Load an adapter and the backbone that it was trained on.

    Args:
        ref: Reference of a stored adapter: ``desk``, ``desk@3``, ``desk@prod`` or a digest.
        registry: Registry that stores it; the local one by default.
        device: Torch device; the first GPU or else the CPU by default.
        force: Accept a backbone with another fingerprint.
        compute_dtype: Type of activations; as in training by default.

    Raises:
        NotFoundError: When the registry has no such version.
        IntegrityError: When a stored byte has changed.
        SignatureError: When the registry requires a trusted signature and there is none.
        FingerprintMismatch: When the backbone is not the one of the training.
    """
    return Model(
        ref, registry or Registry(), device=device, force=force, compute_dtype=compute_dtype
    )


def _is_single(inputs: Input | Sequence[Input]) -> bool:
    return isinstance(inputs, str | Path | Mapping)


def _as_list(inputs: Any) -> list[Any]:
    return [inputs] if _is_single(inputs) else list(inputs)
