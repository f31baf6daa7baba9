"""What the backbone reads of a row, and which word of which text each of its tokens is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError
from adapterhub.evaluation.attribution.pieces import explained_words, pieces
from adapterhub.tasks.alignment import align, token_owners, untouched
from adapterhub.tasks.dialogue import Dialogue
from adapterhub.tasks.fields import is_given, text_field
from adapterhub.tasks.instructed import Instructed
from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.question_answering import QuestionAnswering
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.relation_extraction import RelationExtraction
from adapterhub.tasks.text_classification import TextClassification
from adapterhub.tasks.token_classification import TokenClassification
from adapterhub.tasks.word_windows import words_of
from adapterhub.tasks.words import Word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.base import Example, Task
    from adapterhub.tasks.chat_template import Message


@dataclass(frozen=True, slots=True)
class InputText:
    """One of the texts that the backbone reads of a row.

    Args:
        name: the field that it comes from, or who says it.
        text: as it is read, before tokens.
        words: of it, in order.
    """

    name: str
    text: str
    words: Sequence[Word]


@dataclass(frozen=True, slots=True)
class AttributionInput:
    """A row as tokens, with the word of each.

    Args:
        example: the row encoded.
        texts: that are read of it.
        owners: for each token of the example the index of its word among the words of all
            texts, in order; ``None`` for tokens of no word: special ones, spaces, and what a
            template adds.
        unread: words that no token has any part of, because they were cut off.
    """

    example: EncodedExample
    texts: Sequence[InputText]
    owners: Sequence[int | None]
    unread: int

    @property
    def words(self) -> list[tuple[InputText, Word]]:
        """The words of all texts."""
        return [(text, word) for text in self.texts for word in text.words]


def encode_for_attribution(task: Task, row: Example) -> AttributionInput:
    """Return what the backbone reads of a row of a task that has a head of its own.

    Raises:
        DataError: naming the field, when the row can't be used, or it has no words.
    """
    if isinstance(task, TokenClassification):
        found = _read_words(task, row)
    elif isinstance(task, QuestionAnswering):
        found = _read_question(task, row)
    else:
        found = _read_texts(task, row)
    if not any(owner is not None for owner in found.owners):
        raise DataError("there is no word in it to explain the answer by", place=task.name)
    return found


def encode_conversation(
    dialogue: Dialogue, messages: Sequence[Message], answer: str
) -> AttributionInput:
    """Return a conversation with the answer that was given to it.

    The head is read where it foretells the answer's tokens. The words are those of the
    messages; the answer's own are not among them.

    Args:
        dialogue: how conversations are read.
        messages: the last one the user's.
        answer: text.

    Raises:
        DataError: when the messages can't be used, or the answer is empty.
    """
    left, prompt = dialogue.fitted_prompt(messages)
    ids: list[int] = dialogue.tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not ids:
        raise DataError("the answer is empty, so there is nothing to explain")
    rendered = dialogue.template.text(left, prompt=True)
    encoding = dialogue.tokenizer(
        rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    texts, placed = _messages(dialogue, left, rendered)
    owners = token_owners(encoding["offset_mapping"], placed)
    example = EncodedExample(
        number=1,
        # the answer's last token is foretold and not read itself
        input_ids=[*prompt, *ids[:-1]],
        select=range(len(prompt) - 1, len(prompt) + len(ids) - 1),
        targets=ids,
    )
    unread = untouched(encoding["offset_mapping"], placed)
    return AttributionInput(example, texts, _filled(owners, example), unread)


def _messages(
    dialogue: Dialogue, messages: Sequence[Message], rendered: str
) -> tuple[list[InputText], list[Word]]:
    """Return the messages as texts, and where their words stand in the rendered prompt."""
    texts: list[InputText] = []
    placed: list[Word] = []
    end = 0
    for message in messages:
        # templates take away the spaces around a message
        content = message["content"].strip()
        start = rendered.find(content, end)
        if start < 0:
            raise DataError(
                "the chat template changes the messages, so their words can't be found in it"
            )
        words = explained_words(dialogue.tokenizer, content)
        texts.append(InputText(message["role"], content, words))
        placed += [Word(each.text, start + each.start, start + each.end) for each in words]
        end = start + len(content)
    return texts, placed


def texts_of(task: Task) -> TextClassification:
    """Return how a task whose head is read once a row reads its texts.

    Raises:
        DataError: when the task is none of these.
    """
    if isinstance(task, TextClassification):
        return task
    if isinstance(task, MultiLabelClassification | Ranking | RelationExtraction):
        return task.texts
    raise DataError(
        f"the answers of {task.name} can't be explained",
        hint="What can be: labels, relations, rankings, spans, and answers in text",
    )


def instructed_dialogue(task: Task) -> Dialogue | None:
    """Return how a task that generates reads conversations; ``None`` where it does not."""
    if isinstance(task, Instructed):
        return task.dialogue
    return task if isinstance(task, Dialogue) else None


def _read_texts(task: Task, row: Example) -> AttributionInput:
    names, given = ("text", "text_pair"), row
    if isinstance(task, Ranking):
        names, given = ("history", "candidate"), task.as_pair(row, 1)
    elif isinstance(task, RelationExtraction):
        given = {**row, "text": task.marked(row, 1)}
    reader = texts_of(task)
    encoding = reader.read(given, 1, offsets=True)
    example = reader.encode(_without_label(given), 1, train=False)
    pair = reader.pair(given, 1)
    texts = [_read_text(reader.tokenizer, names[0], text_field(given, "text", 1))]
    spans = _spans(encoding, 0, 0)
    owners = token_owners(spans, texts[0].words)
    unread = untouched(spans, texts[0].words)
    if pair is not None:
        second = text_field(given, "text_pair", 1)
        texts.append(_read_text(reader.tokenizer, names[1], second))
        # a decoder's second text begins with a line end of its own
        spans = _spans(encoding, 1, len(pair) - len(second))
        later = token_owners(spans, texts[1].words)
        unread += untouched(spans, texts[1].words)
        first = len(texts[0].words)
        owners = [a if b is None else b + first for a, b in zip(owners, later, strict=True)]
    return AttributionInput(example, texts, _filled(owners, example), unread)


def _spans(encoding: Any, part: int, shift: int) -> list[tuple[int, int]]:
    """Return where each token stands in a part of a pair; tokens of another part are empty."""
    return [
        (start - shift, end - shift) if own == part else (0, 0)
        for own, (start, end) in zip(
            encoding.sequence_ids(0), encoding["offset_mapping"], strict=True
        )
    ]


def _read_words(task: TokenClassification, row: Example) -> AttributionInput:
    words = words_of(row, 1)
    example = task.encode({**row, "tags": None}, 1, train=False)
    if example is None:
        raise DataError("nothing of the row can be read", place=task.name)
    joined = " ".join(word.text for word in words)
    text = text_field(row, "text", 1) if is_given(row, "text") else joined
    aligned = align(
        task.tokenizer, [word.text for word in words], task.read, task.options.max_length
    )
    cut = [_cut(task, *each) for each in zip(words, aligned.placed, strict=True)]
    placed = [piece for _, parts in cut for piece in parts]
    read = InputText("text", text, [piece for parts, _ in cut for piece in parts])
    owners = token_owners(aligned.offsets, placed)
    unread = untouched(aligned.offsets, placed)
    return AttributionInput(example, [read], _filled(owners, example), unread)


def _cut(task: TokenClassification, word: Word, placed: Word) -> tuple[list[Word], list[Word]]:
    """Return the pieces of a word where it stands in the text, and where it stands joined."""
    if placed.text != word.text:
        # another word stands in for one that the tokenizer can't read
        return [word], [placed]
    shift = placed.start - word.start
    found = pieces(task.tokenizer, word)
    return found, [Word(each.text, each.start + shift, each.end + shift) for each in found]


def _read_question(task: QuestionAnswering, row: Example) -> AttributionInput:
    window = task.window(row, 1)
    example = task.encode({**row, "answers": None}, 1, train=False)
    texts = [
        _read_text(task.tokenizer, "question", window.question),
        _read_text(task.tokenizer, "context", text_field(row, "context", 1)),
    ]
    owners = token_owners(window.question_spans, texts[0].words)
    first = len(texts[0].words)
    inside = token_owners(window.spans, texts[1].words)
    for position, owner in zip(window.positions, inside, strict=True):
        owners[position] = None if owner is None else owner + first
    unread = untouched(window.question_spans, texts[0].words)
    unread += untouched(window.spans, texts[1].words)
    return AttributionInput(example, texts, _filled(owners, example), unread)


def _read_text(tokenizer: PreTrainedTokenizerBase, name: str, text: str) -> InputText:
    return InputText(name, text, explained_words(tokenizer, text))


def _without_label(row: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in row.items() if field != "label"}


def _filled(owners: Sequence[int | None], example: EncodedExample) -> list[int | None]:
    """Return the owners of all tokens; those at the end that stand in no text have none."""
    return [*owners, *[None] * (len(example) - len(owners))]
