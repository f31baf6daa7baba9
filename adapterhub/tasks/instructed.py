"""Tasks by instruction: translation, summarization and generative question answering."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.answers import normalized, reference_answers, squad_scores
from adapterhub.tasks.conversations import conversation
from adapterhub.tasks.dialogue import ConversationTask
from adapterhub.tasks.fields import is_given, list_field, place_of, text_field
from adapterhub.tasks.generating import answer_error
from adapterhub.tasks.text_scores import TextScores, rouge_scores, translation_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.base import TaskOptions
    from adapterhub.tasks.conversations import Message
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.generating import AnswerScore
    from adapterhub.tasks.predictions import ErrorExample


@dataclass(frozen=True, slots=True)
class InstructionFormat:
    """What distinguishes one task by instruction from another.

    Args:
        name: Name of the task.
        pipeline_tag: The Hub's name of the task.
        instruction: Instruction used where the recipe has none.
        long_field: Field that is truncated where an example is too long.
        text_field: Field that may be given as ``text`` in prediction.
        prompt: Returns the user's message for instruction, example and its number.
        source: Returns the text that an encoder reads, for example and its number.
        references: Returns the reference answers to an example, the learned one first, for
            example and its number.
        score: Scores texts by the reference answers to each.
    """

    name: str
    pipeline_tag: str
    instruction: str
    long_field: str
    text_field: str
    prompt: Callable[[str, Example, int], str]
    source: Callable[[Example, int], str]
    references: Callable[[Example, int], list[str]]
    score: Callable[[Sequence[Sequence[str]], Sequence[str]], TextScores]

    def given(self, example: Example) -> Example:
        """Return an example whose main field may have been given as ``text``."""
        name = self.text_field
        if is_given(example, name) or not is_given(example, "text"):
            return example
        return {**example, name: example["text"]}

    def score_texts(self, examples: Sequence[Example], texts: Sequence[str]) -> TextScores:
        """Score generated texts by the reference answers of their examples (same order)."""
        return self.score([self.references(e, at) for at, e in enumerate(examples, start=1)], texts)


class InstructionTask(ConversationTask):
    """Text generation by an instruction and an example, through the backbone's chat template.

    Training and prediction use the same prompt. Prompt and answer share ``max_length``, of which
    ``max_new_tokens`` are reserved for the answer; a text that is too long for the rest is
    truncated at its end.
    """

    reads_fields: bool = True

    def __init__(
        self, format: InstructionFormat, tokenizer: PreTrainedTokenizerBase, options: TaskOptions
    ) -> None:
        """Set up the task with a fast tokenizer that has a chat template."""
        super().__init__(tokenizer, options)
        for setting in ("source_language", "target_language"):
            if getattr(options, setting) is not None:
                raise RecipeError(
                    "languages are given to tokenizers of encoder-decoders",
                    place=f"task.{setting}",
                    hint="Name the languages in task.instruction",
                )
        if options.max_new_tokens >= options.max_length:
            raise RecipeError(
                f"{options.max_new_tokens} tokens for the answer leave no room for the prompt "
                f"in max_length {options.max_length}",
                place="task.max_new_tokens",
            )
        self.format = format
        self.name = format.name
        self.pipeline_tag = format.pipeline_tag
        self.instruction = options.instruction or format.instruction

    @property
    def generation(self) -> InstructionTask:
        """This task."""
        return self

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample | None:
        """Encode an example with its answer, which is required; see ``Task.encode``."""
        answer = self.format.references(example, number)[0]
        exchange = {"prompt": self._prompt(example, number), "response": answer}
        messages = conversation(exchange, number, self.options.system_prompt)
        return self._encode_messages(messages, number)

    def errors(
        self, examples: Sequence[Example], decoded: Sequence[AnswerScore]
    ) -> list[ErrorExample]:
        """Return all examples, with the loss of their reference answers."""
        pairs = enumerate(zip(examples, decoded, strict=True), start=1)
        return [
            answer_error(self._prompt(each, at), self.format.references(each, at)[0], score)
            for at, (each, score) in pairs
        ]

    def messages(self, example: Example, number: int) -> list[Message]:
        """Return the prompt of an example; no answer is needed."""
        return [{"role": "user", "content": self._prompt(example, number)}]

    def question_and_reference(self, example: Example, number: int) -> tuple[list[Message], str]:
        """Return the prompt of an example, and its first reference answer."""
        return self.messages(example, number), self.format.references(example, number)[0]

    def score_texts(self, examples: Sequence[Example], texts: Sequence[str]) -> TextScores:
        """Score generated texts by the reference answers of their examples."""
        return self.format.score_texts(examples, texts)

    def _prompt(self, example: Example, number: int) -> str:
        """Return the user's message, truncated so that an answer fits beside it."""
        field, example = self.format.long_field, self.format.given(example)
        prompt = self.format.prompt(self.instruction, example, number)
        excess = self._tokens(prompt) + self.options.max_new_tokens - self.options.max_length
        while excess > 0:
            example = {**example, field: self._shorter(example, excess, number)}
            prompt = self.format.prompt(self.instruction, example, number)
            excess = self._tokens(prompt) + self.options.max_new_tokens - self.options.max_length
        return prompt

    def _shorter(self, example: Example, excess: int, number: int) -> str:
        """Return the long text without its last ``excess`` tokens."""
        text: str = example.get(self.format.long_field) or ""
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        offsets = encoding["offset_mapping"]
        shorter = text[: offsets[-excess][0]].rstrip() if excess < len(offsets) else ""
        if not shorter:
            raise DataError(
                f"the rest of the prompt leaves it no room in {self.options.max_length} tokens",
                place=place_of(number, self.format.long_field),
                hint="Train with a larger task.max_length, or less of task.max_new_tokens",
            )
        return shorter

    def _tokens(self, prompt: str) -> int:
        messages: list[Message] = [{"role": "user", "content": prompt}]
        if self.options.system_prompt:
            messages.insert(0, {"role": "system", "content": self.options.system_prompt})
        return len(self.template.prompt_ids(messages))


def instruction_format(name: str, options: TaskOptions) -> InstructionFormat:
    """Return what distinguishes a task by instruction.

    - ``translation``: examples have ``source`` and ``target``. The instruction names the languages.
      Generated translations are scored by BLEU and chrF (see ``translation_scores``).
    - ``summarization``: examples have ``document``, and ``summary`` or ``summaries``, of which the
      first is learned. Generated ones are scored by ROUGE against all (see ``rouge_scores``).
    - ``generative-question-answering``: examples have ``question``, ``answers``, and maybe
      ``context``. The first answer is learned. Generated ones are scored by exact match and F1
      against all (see ``squad_scores``). With ``unanswerable`` an example may have an empty list of
      answers; the learned answer is then ``unanswerable``, which counts as none.
    """
    if options.unanswerable:
        return _UNANSWERABLE
    return {each.name: each for each in (_TRANSLATION, _SUMMARIZATION, _QUESTIONS)}[name]


def instruction_task(
    name: str, tokenizer: PreTrainedTokenizerBase, options: TaskOptions
) -> InstructionTask:
    """Return a task by instruction on a decoder; see ``instruction_format``."""
    return InstructionTask(instruction_format(name, options), tokenizer, options)


#: Answer to a question without an answer in its context.
NO_ANSWER = "unanswerable"


def _after_instruction(field: str) -> Callable[[str, Example, int], str]:
    """Return a prompt of instruction and field."""

    def prompt(instruction: str, example: Example, number: int) -> str:
        return f"{instruction}\n\n{text_field(example, field, number)}"

    return prompt


def _field(name: str) -> Callable[[Example, int], str]:
    """Return the source of one field."""
    return lambda example, number: text_field(example, name, number)


def _summaries(example: Example, number: int) -> list[str]:
    if not is_given(example, "summaries"):
        return [text_field(example, "summary", number)]
    summaries = list_field(example, "summaries", number)
    if not all(isinstance(summary, str) and summary.strip() for summary in summaries):
        raise DataError("a summary must be text", place=place_of(number, "summaries"))
    return summaries


def _question(instruction: str, example: Example, number: int) -> str:
    question = text_field(example, "question", number)
    if not is_given(example, "context"):
        return f"{instruction}\n\nQuestion: {question}"
    context = text_field(example, "context", number)
    return f"{instruction}\n\nText: {context}\n\nQuestion: {question}"


def _question_and_context(example: Example, number: int) -> str:
    """Return the source of a question. Source: Raffel et al. 2020, arXiv:1910.10683, appendix D."""
    question = f"question: {text_field(example, 'question', number)}"
    if not is_given(example, "context"):
        return question
    return f"{question} context: {text_field(example, 'context', number)}"


def _answers(example: Example, number: int) -> list[str]:
    texts = [answer.text for answer in reference_answers(example, number)]
    if not texts:
        raise DataError(
            "the question has no answer",
            place=place_of(number, "answers"),
            hint="Set task.unanswerable: true, or remove such examples",
        )
    return texts


def _answers_or_none(example: Example, number: int) -> list[str]:
    return [answer.text for answer in reference_answers(example, number)] or [NO_ANSWER]


def _score_answers(references: Sequence[Sequence[str]], found: Sequence[str]) -> TextScores:
    metrics = squad_scores(references, found)
    return TextScores(metrics, dict.fromkeys(metrics, "SQuAD 2.0, 0 to 100"))


def _score_answers_or_none(references: Sequence[Sequence[str]], found: Sequence[str]) -> TextScores:
    wanted = [[] if list(each) == [NO_ANSWER] else each for each in references]
    given = ["" if normalized(text) == NO_ANSWER else text for text in found]
    return _score_answers(wanted, given)


_TRANSLATION = InstructionFormat(
    name="translation",
    pipeline_tag="translation",
    instruction="Translate from English to German.",
    long_field="source",
    text_field="source",
    prompt=_after_instruction("source"),
    source=_field("source"),
    references=lambda example, number: [text_field(example, "target", number)],
    score=translation_scores,
)
_SUMMARIZATION = InstructionFormat(
    name="summarization",
    pipeline_tag="summarization",
    instruction="Summarize the following text in one or two sentences.",
    long_field="document",
    text_field="document",
    prompt=_after_instruction("document"),
    source=_field("document"),
    references=_summaries,
    score=rouge_scores,
)
_QUESTIONS = InstructionFormat(
    name="generative-question-answering",
    pipeline_tag="text-generation",
    instruction="Answer the question in a few words.",
    long_field="context",
    text_field="question",
    prompt=_question,
    source=_question_and_context,
    references=_answers,
    score=_score_answers,
)
_UNANSWERABLE = replace(
    _QUESTIONS,
    instruction=f'{_QUESTIONS.instruction} Say "{NO_ANSWER}" where the text does not tell.',
    references=_answers_or_none,
    score=_score_answers_or_none,
)
