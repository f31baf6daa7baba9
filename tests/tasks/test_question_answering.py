"""Extractive question answering."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adapterhub.data.packing import pack
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.question_answering import FoundSpan, QuestionAnswering

CONTEXT = "Mara Vell met the captain of the Orion in Port Sorrel ."
EXAMPLE = {
    "context": CONTEXT,
    "question": "what does the captain print ?",
    "answers": {"text": ["the Orion", "Orion"], "answer_start": [29, 33]},
}
LONG = {
    "context": "a wonderful and moving film about nothing at all . " * 6 + CONTEXT,
    "question": "captain ?",
    "answers": ["Port Sorrel"],
}
SIDES = {"first": "wordpiece", "last": "byte_bpe"}


@pytest.fixture(params=list(SIDES))
def task_for(request):
    tokenizer = request.getfixturevalue(SIDES[request.param])
    return lambda **options: QuestionAnswering(
        tokenizer, TaskOptions(**options), null=request.param
    )


def logits_for(encoded, first, last):
    """Return logits by which an answer starts at one place in ``select`` and ends at another."""
    logits = torch.zeros(len(encoded.select), 2)
    logits[first, 0] = logits[last, 1] = 20.0
    return logits


def answer_to(task, example, first, last):
    encoded = task.encode(example, 1, train=False)
    logits = logits_for(encoded, first, last)
    (span,) = task.decode(lambda h: h, logits, pack([encoded]))
    return task.prediction(example, span)


def test_the_targets_stand_for_the_first_answer_and_give_it_back_whole(task_for):
    task = task_for()
    first, last = task.encode(EXAMPLE, 1, train=True).targets
    answer = answer_to(task, EXAMPLE, first, last)
    assert (answer["answer"], answer["start"], answer["end"]) == ("the Orion", 29, 38)
    assert answer["score"] > 0.99


def test_the_first_selected_place_stands_for_no_answer(wordpiece, byte_bpe):
    encoder = QuestionAnswering(wordpiece, TaskOptions(), null="first").encode(
        EXAMPLE, 1, train=True
    )
    assert encoder.input_ids[encoder.select[0]] == wordpiece.cls_token_id
    assert set(encoder.segment_ids) == {0, 1}
    decoder = QuestionAnswering(byte_bpe, TaskOptions(), null="last").encode(EXAMPLE, 1, train=True)
    assert decoder.select[0] == len(decoder) - 1
    assert decoder.input_ids[-1] == byte_bpe.eos_token_id
    text = byte_bpe.decode(decoder.input_ids[:-1])
    assert text == f"{EXAMPLE['question']}\n{CONTEXT}"


def test_no_token_of_the_question_can_be_an_answer(task_for):
    task = task_for()
    encoded = task.encode(EXAMPLE, 1, train=False)
    read = [task.tokenizer.decode([encoded.input_ids[at]]) for at in encoded.select[1:]]
    assert "print" not in "".join(read)
    assert "".join(read).replace(" ", "").replace("#", "").lower().endswith("sorrel.")


def test_windows_of_a_long_context_share_tokens_and_lose_none(task_for):
    task = task_for(max_length=40, stride=8)
    windows = task.windows(LONG)
    assert len(windows) > 2
    seen = [task.encoder.windows(LONG, 1)[window["window"]].spans for window in windows]
    for before, after in itertools.pairwise(seen):
        # a token that is a space alone is shared too, and is no part of an answer
        assert 6 <= len(set(before) & set(after)) <= 8
    whole = task_for(max_length=500).encoder.windows(LONG, 1)[0].spans
    assert sorted(set().union(*seen)) == whole
    assert all(len(task.encode(window, 1, train=True)) <= 40 for window in windows)


def test_only_windows_with_the_whole_answer_learn_it(task_for):
    task = task_for(max_length=40, stride=8)
    windows = task.windows(LONG)
    targets = [tuple(task.encode(window, 1, train=True).targets) for window in windows]
    assert targets[0] == (0, 0)
    assert targets[-1] != (0, 0)
    for window, (first, last) in zip(windows, targets, strict=True):
        if first:
            assert answer_to(task, window, first, last)["answer"] == "Port Sorrel"


def test_offsets_of_a_later_window_count_in_the_whole_context(task_for):
    task = task_for(max_length=40, stride=8)
    window = task.windows(LONG)[-1]
    answer = answer_to(task, window, *task.encode(window, 1, train=True).targets)
    assert LONG["context"][answer["start"] : answer["end"]] == "Port Sorrel"


def test_the_likeliest_window_answers():
    answers = [
        {"answer": "a", "start": 1, "end": 2, "score": 0.2, "no_answer": 0.7},
        {"answer": "b", "start": 5, "end": 6, "score": 0.4, "no_answer": 0.5},
    ]
    for unanswerable, expected in ((False, "b"), (True, "")):
        task = QuestionAnswering.__new__(QuestionAnswering)
        task.options = TaskOptions(unanswerable=unanswerable)
        joined = task.join(answers)
        assert joined["answer"] == expected
        assert joined["no_answer"] == 0.5
    assert task.join([{**answers[0], "no_answer": 0.1}, answers[1]])["answer"] == "b"


def test_an_answer_is_no_longer_than_requested_and_never_ends_before_it_starts(wordpiece):
    task = QuestionAnswering(wordpiece, TaskOptions(max_answer_tokens=2), null="first")
    encoded = task.encode(EXAMPLE, 1, train=False)
    batch = pack([encoded])
    for first, last in ((2, 9), (9, 2)):
        (span,) = task.decode(lambda h: h, logits_for(encoded, first, last), batch)
        assert 0 <= span.last - span.first < 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(seed=st.integers(0, 10**6), longest=st.integers(1, 8))
def test_the_best_span_is_that_of_a_search_through_all(wordpiece, seed, longest):
    task = QuestionAnswering(wordpiece, TaskOptions(max_answer_tokens=longest), null="first")
    encoded = task.encode(EXAMPLE, 1, train=False)
    logits = torch.randn(len(encoded.select), 2, generator=torch.Generator().manual_seed(seed))
    (span,) = task.decode(lambda h: h, logits, pack([encoded]))
    chances = logits.softmax(dim=0)
    count = len(encoded.select) - 1
    best = max(
        float(chances[i + 1, 0] * chances[j + 1, 1])
        for i in range(count)
        for j in range(i, min(count, i + longest))
    )
    assert span.score == pytest.approx(best, rel=1e-4)
    assert span.no_answer == pytest.approx(float(chances[0].prod()), rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_start_and_end_of_each_example(wordpiece, smoothing):
    task = QuestionAnswering(wordpiece, TaskOptions(label_smoothing=smoothing), null="first")
    examples = [EXAMPLE, {**EXAMPLE, "context": "the castle lies below", "answers": ["castle"]}]
    examples = [task.encode(example, 1, train=True) for example in examples]
    batch = pack(examples)
    hidden = torch.randn(len(batch.select), 2, generator=torch.Generator().manual_seed(1))
    expected = 0.0
    for logits, encoded in zip(hidden.split(batch.selected), examples, strict=True):
        for side in (0, 1):
            target = torch.tensor([encoded.targets[side]])
            one = logits[None, :, side]
            expected += float(F.cross_entropy(one, target, label_smoothing=smoothing)) / 2
    assert float(task.loss(lambda h: h, hidden, batch)) == pytest.approx(expected, rel=1e-5)
    assert task.weight(batch) == 2.0


def test_windows_of_an_example_are_scored_as_one_answer(wordpiece):
    task = QuestionAnswering(wordpiece, TaskOptions(max_length=40, stride=8), null="first")
    examples = [EXAMPLE, *task.windows(LONG)]
    decoded = []
    for example in examples:
        first, last = task.encode(example, 1, train=True).targets
        sure = 0.9 if first else 0.1
        decoded.append(FoundSpan(max(first - 1, 0), max(last - 1, 0), sure, 1 - sure))
    assert len(examples) > 3
    assert task.evaluate(examples, decoded).metrics == {"exact_match": 100.0, "f1": 100.0}


def test_a_question_without_an_answer_needs_the_option(wordpiece):
    example = {**EXAMPLE, "answers": {"text": [], "answer_start": []}}
    with pytest.raises(
        DataError, match=r"example 3, field 'answers': the question has no answer.*una"
    ):
        QuestionAnswering(wordpiece, TaskOptions(), null="first").encode(example, 3, train=True)
    task = QuestionAnswering(wordpiece, TaskOptions(unanswerable=True), null="first")
    encoded = task.encode(example, 3, train=True)
    assert tuple(encoded.targets) == (0, 0)
    result = task.evaluate(
        [example, EXAMPLE], [FoundSpan(0, 1, 0.1, 0.8), FoundSpan(0, 1, 0.1, 0.8)]
    )
    assert result.metrics["exact_match"] == 50.0
    assert result.metrics["unanswerable_f1"] == 100.0
    assert result.metrics["answerable_f1"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": None}, "example 4, field 'answers': the field is missing"),
        ({"answers": 5}, "answers must be texts, or an object with text and answer_start"),
        ({"answers": {"text": ["Orion"], "answer_start": [3]}}, "'Orion' is not at offset"),
        ({"answers": ["castle"]}, "the answer 'castle' is not in the context"),
        ({"answers": {"text": ["Orion"], "answer_start": []}}, "0 offsets for 1 answers"),
        ({"answers": {"text": ["Orion"], "answer_start": 33}}, "answer_start must be a list"),
        ({"answers": {"text": ["Orion"], "answer_start": ["33"]}}, "answer_start must be a list"),
        ({"answers": {"text": ["Orion"], "answer_start": [33.0]}}, "answer_start must be a list"),
        ({"context": " "}, "example 4, field 'context': the text is empty"),
        ({"question": 3}, "example 4, field 'question': the value must be text"),
    ],
)
def test_examples_that_cannot_be_used_are_named(wordpiece, change, message):
    task = QuestionAnswering(wordpiece, TaskOptions(), null="first")
    with pytest.raises(DataError) as caught:
        task.encode({**EXAMPLE, **change}, 4, train=True)
    assert message in str(caught.value)


def test_a_long_question_leaves_room_for_the_context(task_for):
    example = {**EXAMPLE, "question": "what does the captain print ? " * 30}
    task = task_for(max_length=32, stride=200)
    windows = task.windows(example)
    assert all(len(task.encode(window, 1, train=True)) <= 32 for window in windows)
    assert len(windows) > 1


def test_settings_that_do_not_fit(wordpiece):
    for options, message in (
        ({"max_length": 10}, "10 tokens leave no room"),
        ({"class_weights": "balanced"}, "no class weights"),
    ):
        with pytest.raises(RecipeError, match=message):
            QuestionAnswering(wordpiece, TaskOptions(**options), null="first")
