"""What every task offers to training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.chat_template import Message
    from adapterhub.tasks.text_scores import TextScores

#: Which head the task puts on the backbone: its own language-model head, or a new
#: linear layer read once an example (``sequence``), once a word (``token``), at every token
#: that may start or end an answer (``span``), or once an image (``image``).
HeadKind = Literal["causal_lm", "sequence", "token", "span", "image"]

#: Maps hidden states ``[selected, hidden]`` to logits ``[selected, classes]``.
Head: TypeAlias = "Callable[[Tensor], Tensor]"

#: A data example after field mapping, keyed by the task's own field names.
Example: TypeAlias = Mapping[str, Any]

#: Whether every position sees the whole example (``encoder``) or only what is before it, or
#: whether examples are images (``vision``).
BackboneKind = Literal["encoder", "decoder", "vision"]

#: What makes a backbone's input: of texts tokens, of images pixels.
Preprocessor: TypeAlias = "PreTrainedTokenizerBase | BaseImageProcessor"


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Settings of a task that come from the recipe.

    Args:
        max_length: longest input in tokens; longer ones are cut.
        label_smoothing: share of the target's probability spread over all classes.
        class_weights: ``None``, ``"balanced"`` (inverse frequency in the training examples), or
            a weight per label name.
        max_new_tokens: longest generated answer, for tasks that generate.
        system_prompt: first message of every conversation, or empty.
        instruction: what the backbone is told to do; the task's own where empty.
        multi_label: a text may have any number of labels.
        threshold: probability from which on a label is given, with ``multi_label``.
        out_of_scope: label of texts that no other label fits.
        stride: tokens that one window of a long context shares with the next.
        max_answer_tokens: longest answer that is looked for in a context.
        unanswerable: a question may have no answer in its context.
        calibrate: fit ``temperature`` on the validation examples.
        temperature: logits are divided by it before they become probabilities.
        image_size: side in pixels that images are brought to; the backbone's own where
            ``None``.
    """

    max_length: int = 512
    label_smoothing: float = 0.0
    class_weights: str | Mapping[str, float] | None = None
    max_new_tokens: int = 64
    system_prompt: str = ""
    instruction: str = ""
    multi_label: bool = False
    threshold: float = 0.5
    out_of_scope: str | None = None
    stride: int = 128
    max_answer_tokens: int = 30
    unanswerable: bool = False
    calibrate: bool = False
    temperature: float = 1.0
    image_size: int | None = None

    @classmethod
    def of_section(cls, section: Mapping[str, Any]) -> TaskOptions:
        """Return the settings in a recipe's task section; one that it lacks has its default.

        Recipes are stored with adapters, and older ones know fewer settings.
        """
        return cls(
            **{each.name: section[each.name] for each in fields(cls) if each.name in section}
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of a task's metrics over a set of examples.

    Args:
        metrics: name to value, all floats.
        table: one record a class for the per-label table, or empty.
    """

    metrics: Mapping[str, float]
    table: Sequence[Mapping[str, float | str]] = field(default_factory=tuple)


class Task(Protocol):
    """One task: how examples become examples, and hidden states become loss and answers.

    A task holds the tokenizer or image processor, the labels and its options; it never holds a
    model.
    """

    #: e.g. ``text-classification``
    name: str
    #: the Hub's name of the task, for cards
    pipeline_tag: str
    #: peft's ``TaskType`` name, e.g. ``SEQ_CLS``
    peft_task_type: str
    head: HeadKind
    #: label names in the order of the head's outputs; empty where there is no own head
    labels: tuple[str, ...]
    #: whether training and scoring read all windows of an example, or its start alone
    reads_windows: bool
    #: metric watched by default, and whether a larger value is better
    default_metric: tuple[str, bool]

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample | None:
        """Encode one example; ``None`` where nothing is left to learn from after cutting.

        Args:
            example: keyed by the task's field names.
            number: of the example in its source, from 1.
            train: the example must have its label; else it is used where it is there, and
                the example has no targets where it is not.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the loss summed over the batch, as a scalar.

        Args:
            head: maps ``[n, hidden]`` to logits ``[n, classes]``.
            hidden: ``[selected, hidden]``, in the order of ``batch.select``.
        """

    def weight(self, batch: PackedBatch) -> float:
        """Return what the summed loss is divided by: a count, or a sum of class weights."""

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[Any]:
        """Return one raw prediction an example, small and on the CPU, for ``evaluate``."""

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Score raw predictions against their examples (same order).

        Where the task reads windows, examples are windows, those of an example one after the other.
        """

    def windows(self, example: Example) -> list[Example]:
        """Return the example cut into examples that fit ``max_length``, to lose nothing of it.

        For prediction, and for scoring long examples in full. A task whose answers can't be
        joined returns the example itself.
        """

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the predictions for the windows of one example, in order, as one.

        Raises:
            ValueError: when there are none, or more than the task can join.
        """

    def prediction(self, example: Example, decoded: Any) -> dict[str, Any]:
        """Return a raw prediction in the form that users see, made of plain JSON values."""


class GeneratingTask(Task, Protocol):
    """A task whose answers are generated texts."""

    options: TaskOptions
    #: tokens at which generation ends
    stop_ids: frozenset[int]

    def question(self, example: Example, number: int) -> list[Message]:
        """Return the messages that an example asks with, for ``prompt_ids``.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens after which the answer starts.

        Raises:
            DataError: when the messages can't be used, or are too long.
        """

    def text_of(self, ids: Sequence[int]) -> str:
        """Return generated tokens as text, without special tokens and outer spaces."""

    def score_texts(self, examples: Sequence[Example], texts: Sequence[str]) -> TextScores:
        """Score generated texts by the right answers of their examples (same order).

        Raises:
            DataError: when there are no texts, or an example has no answer.
        """


def join_predictions(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the answers to the windows of one example as one: lists are joined in order.

    Raises:
        ValueError: when there are no answers, or several that hold more than lists.
    """
    if len(answers) == 1:
        return dict(answers[0])
    if not answers or not all(isinstance(v, list) for answer in answers for v in answer.values()):
        raise ValueError(f"{len(answers)} answers can't be joined")
    return {key: [item for answer in answers for item in answer[key]] for key in answers[0]}
