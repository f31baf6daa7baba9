"""Translation, summarization and generative question answering on an encoder-decoder."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TargetFrame
from adapterhub.tasks.fields import place_of
from adapterhub.tasks.generating import GeneratingTask, answer_error
from adapterhub.tasks.instructed import instruction_format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.attribution import AttributionInput
    from adapterhub.tasks.base import HeadKind, TaskOptions
    from adapterhub.tasks.conversations import Message
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.generating import AnswerScore
    from adapterhub.tasks.instructed import InstructionFormat
    from adapterhub.tasks.predictions import ErrorExample
    from adapterhub.tasks.text_scores import TextScores

#: Settings of languages, and what tokenizers of multilingual models call them.
_LANGUAGES = (("source_language", "src_lang"), ("target_language", "tgt_lang"))


class SourceAndTargetTask(GeneratingTask):
    """An encoder reads the source, a decoder writes the target.

    The source is the task's text after the instruction, if there is one, as in T5's ``translate
    English to German: ...``. Source and target have ``max_length`` tokens each at most; longer ones
    are truncated at their end. Special tokens, languages among them, are the tokenizer's.
    """

    peft_task_type: str = "SEQ_2_SEQ_LM"
    head: HeadKind = "seq2seq_lm"
    reads_fields: bool = True

    def __init__(
        self, format: InstructionFormat, tokenizer: PreTrainedTokenizerBase, options: TaskOptions
    ) -> None:
        """Set up the task with a fast tokenizer, of which it uses a copy."""
        super().__init__(_with_languages(tokenizer, options), options)
        if options.system_prompt:
            raise RecipeError(
                "an encoder-decoder has no conversations",
                place="task.system_prompt",
                hint="Use task.instruction",
            )
        self.format = format
        self.name = format.name
        self.pipeline_tag = format.pipeline_tag
        self.instruction = options.instruction
        self.target_frame = _target_frame(self.tokenizer)
        ends = {self.tokenizer.eos_token_id, *self.target_frame.after[:1]} - {None}
        self.stop_ids = frozenset(ends)
        self.stop_strings = ()
        if not ends:
            raise RecipeError(
                "the tokenizer has no token that ends a text",
                place="backbone.name",
                hint="Set eos_token in the tokenizer, or use another backbone",
            )

    @property
    def generation(self) -> SourceAndTargetTask:
        """This task."""
        return self

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample | None:
        """Encode an example with its answer, which is required; see ``Task.encode``."""
        answer = self.format.references(example, number)[0]
        targets, truncated = self._target_ids(answer)
        return EncodedExample(
            number=number,
            input_ids=self._source_ids(self._source(example, number)),
            select=range(len(targets)),
            targets=targets,
            truncated=truncated,
        )

    def errors(
        self, examples: Sequence[Example], decoded: Sequence[AnswerScore]
    ) -> list[ErrorExample]:
        """Return all examples, with the loss of their reference answers."""
        pairs = enumerate(zip(examples, decoded, strict=True), start=1)
        return [
            answer_error(self._source(each, at), self.format.references(each, at)[0], score)
            for at, (each, score) in pairs
        ]

    def messages(self, example: Example, number: int) -> list[Message]:
        """Return the source of an example as a message; no answer is needed."""
        return [{"role": "user", "content": self._source(example, number)}]

    def question_and_reference(self, example: Example, number: int) -> tuple[list[Message], str]:
        """Return the source of an example, and its first reference answer."""
        return self.messages(example, number), self.format.references(example, number)[0]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens that the encoder reads, of the only message."""
        if len(messages) != 1 or messages[0].get("role") != "user":
            raise DataError("an encoder-decoder reads one message of the user", place="messages")
        return self._source_ids(messages[0]["content"])

    def score_texts(self, examples: Sequence[Example], texts: Sequence[str]) -> TextScores:
        """Score generated texts by the reference answers of their examples."""
        return self.format.score_texts(examples, texts)

    def attribution_input(self, messages: Sequence[Message], answer: str) -> AttributionInput:
        """Raise an error; see ``TextGeneration.attribution_input``."""
        raise DataError(
            "what an encoder-decoder writes can't be explained by the words of its source yet"
        )

    def _source(self, example: Example, number: int) -> str:
        source = self.format.source(self.format.given(example), number)
        return f"{self.instruction} {source}" if self.instruction else source

    def _source_ids(self, text: str) -> list[int]:
        encoding = self.tokenizer(text, truncation=True, max_length=self.options.max_length)
        ids: list[int] = encoding["input_ids"]
        if not ids:
            raise DataError("the text gives no tokens", place=place_of(1, self.format.text_field))
        return ids

    def _target_ids(self, text: str) -> tuple[list[int], bool]:
        """Return the tokens of a target, and whether its end is missing."""
        ids: list[int] = self.tokenizer(text_target=text, verbose=False)["input_ids"]
        frame, longest = self.target_frame, self.options.max_length
        if len(ids) <= longest:
            return ids, False
        return [*ids[: longest - len(frame.after)], *frame.after], True


def source_and_target_task(
    name: str, tokenizer: PreTrainedTokenizerBase, options: TaskOptions
) -> SourceAndTargetTask:
    """Return a task on an encoder-decoder; see ``instruction_format``."""
    return SourceAndTargetTask(instruction_format(name, options), tokenizer, options)


def target_frame_of(tokenizer: PreTrainedTokenizerBase) -> TargetFrame | None:
    """Return the special tokens around a target, in the language that the tokenizer is set to.

    Returns:
        ``None`` for a tokenizer that can't write a target without a language.
    """
    try:
        return _target_frame(deepcopy(tokenizer))
    except (KeyError, TypeError, ValueError):
        return None


def _with_languages(
    tokenizer: PreTrainedTokenizerBase, options: TaskOptions
) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer that is set to the languages of a recipe."""
    # it changes its settings between source and target
    copied: Any = deepcopy(tokenizer)
    for setting, name in _LANGUAGES:
        language, place = getattr(options, setting), f"task.{setting}"
        if language is None:
            if hasattr(copied, name) and getattr(copied, name) is None:
                raise RecipeError(
                    "the tokenizer of this backbone needs a language",
                    place=place,
                    hint="Name it as the tokenizer does, such as en_XX or eng_Latn",
                )
            continue
        if not hasattr(copied, name):
            raise RecipeError(
                f"the tokenizer {type(tokenizer).__name__} has no languages, found {language!r}",
                place=place,
                hint="Remove it, or name the languages in task.instruction",
            )
        if not _set_language(copied, name, language):
            raise RecipeError(f"the tokenizer has no language {language!r}", place=place)
    return copied


def _set_language(tokenizer: Any, name: str, language: str) -> bool:
    """Set the language of a tokenizer; return whether it has it."""
    try:
        setattr(tokenizer, name, language)
        frame = _frame(tokenizer, "text" if name == "src_lang" else "text_target")
    except (KeyError, TypeError, ValueError):
        return False
    return tokenizer.unk_token_id not in (*frame.before, *frame.after)


def _target_frame(tokenizer: Any) -> TargetFrame:
    return _frame(tokenizer, "text_target")


def _frame(tokenizer: Any, side: Literal["text", "text_target"]) -> TargetFrame:
    """Return the special tokens around a text."""
    whole, text = (
        tokenizer(**{side: "a"}, add_special_tokens=special)["input_ids"]
        for special in (True, False)
    )
    starts = range(len(whole) - len(text) + 1)
    start = next(at for at in starts if whole[at : at + len(text)] == text)
    return TargetFrame(tuple(whole[:start]), tuple(whole[start + len(text) :]))
