"""Token classification."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adapterhub.data.packing import pack
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions, join_predictions
from adapterhub.tasks.token_classification import TokenClassification, WordTags

LABELS = ("O", "B-LOC", "B-PER", "I-PER")
EXAMPLE = {
    "tokens": ["Mara", "Vell", "met", "Orion", "in", "Lindos"],
    "tags": ["B-PER", "I-PER", "O", "I-PER", "O", "B-LOC"],
}


def task_for(tokenizer, read="first", **options):
    return TokenClassification(tokenizer, LABELS, TaskOptions(**options), pool=read)


def said(*names, score=1.0):
    return WordTags(tuple(LABELS.index(name) for name in names), (score,) * len(names))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_one_target_a_word_and_gold_tags_are_repaired(wordpiece, byte_bpe, kind):
    task = task_for(wordpiece) if kind == "encoder" else task_for(byte_bpe, read="last")
    encoded = task.encode(EXAMPLE, 1, train=True)
    assert len(encoded.select) == 6
    assert len(encoded) > 6
    # the I-PER of Orion begins a span
    assert list(encoded.targets) == [2, 3, 0, 2, 0, 1]


def test_words_beyond_the_cut_are_not_learned_and_count_as_outside(wordpiece):
    task = task_for(wordpiece, max_length=8)
    encoded = task.encode(EXAMPLE, 1, train=True)
    kept = len(encoded.select)
    assert 0 < kept < 6
    assert len(encoded.targets) == kept
    names = ["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC"][:kept]
    result = task.evaluate([EXAMPLE], [said(*names)])
    assert result.metrics["truncated_words"] == 6 - kept
    gold = ["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC"]
    right = kept + sum(tag == "O" for tag in gold[kept:])
    assert result.metrics["token_accuracy"] == pytest.approx(right / 6)
    assert result.metrics["entity_recall"] < 1.0


def test_nothing_to_learn_where_the_first_word_does_not_fit(byte_bpe):
    example = {"tokens": ["Zyxwvutsrqponmlkjihg"], "tags": ["B-LOC"]}
    task = task_for(byte_bpe, read="last", max_length=4)
    assert task.encode(example, 1, train=True) is None
    encoded = task.encode(example, 1, train=False)
    assert len(encoded.select) == 0
    decoded = task.decode(lambda h: h, torch.zeros(0, 4), pack([encoded]))
    assert task.prediction(example, decoded[0]) == {"spans": []}


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"tokens": ["a"]}, "example 5, field 'tags': the field is missing"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "example 5, field 'tags': 1 tags for 2 words"),
        ({"tokens": [], "tags": []}, "example 5, field 'tokens': the list is empty"),
        ({"tokens": "a b", "tags": ["O"]}, "example 5, field 'tokens': the value must be a list"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "a word must be text, not 3"),
        ({"tokens": ["a"], "tags": ["B-LOK"]}, "'B-LOK' is not among the 4 training labels. Did"),
    ],
)
def test_examples_that_cannot_be_used_are_named(wordpiece, example, message):
    with pytest.raises(DataError) as caught:
        task_for(wordpiece).encode(example, 5, train=True)
    assert message in str(caught.value)


def test_labels_must_be_bio(wordpiece):
    with pytest.raises(RecipeError, match="'NOUN' is not a BIO tag"):
        TokenClassification(wordpiece, ["O", "NOUN"], TaskOptions(), pool="first")


def test_spans_and_words_are_scored_as_conlleval_does(wordpiece):
    task = task_for(wordpiece)
    examples = [
        {"tokens": ["a", "b", "c", "d"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]},
        {"tokens": ["a", "b"], "tags": ["O", "B-LOC"]},
    ]
    # an inside tag without its beginning counts as a span; borders must be right
    decoded = [said("I-PER", "I-PER", "O", "B-PER"), said("B-LOC", "B-LOC")]
    result = task.evaluate(examples, decoded)
    assert result.metrics == {
        "entity_precision": pytest.approx(2 / 4),
        "entity_recall": pytest.approx(2 / 3),
        "entity_f1": pytest.approx(4 / 7),
        "token_accuracy": pytest.approx(4 / 6),
        "truncated_words": 0.0,
    }
    assert [(r["label"], r["support"]) for r in result.table] == [("LOC", 2.0), ("PER", 1.0)]
    assert result.table[1]["precision"] == pytest.approx(1 / 2)


def test_examples_without_any_span_score_nought(wordpiece):
    example = {"tokens": ["a", "b"], "tags": ["O", "O"]}
    result = task_for(wordpiece).evaluate([example], [said("O", "O")])
    assert result.metrics["entity_f1"] == 0.0
    assert result.metrics["token_accuracy"] == 1.0
    assert result.table == []


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_summed_loss_over_weight_is_the_mean_of_torch_over_a_padded_batch(wordpiece, smoothing):
    weights = {"O": 0.25, "B-PER": 2.0}
    task = task_for(wordpiece, label_smoothing=smoothing, class_weights=weights)
    examples = [EXAMPLE, {"tokens": ["the", "castle"], "tags": ["O", "B-LOC"]}]
    batch = pack([task.encode(example, 1, train=True) for example in examples])
    torch.manual_seed(1)
    logits = torch.randn(8, 4)
    padded, targets = torch.randn(2, 6, 4), torch.full((2, 6), -100)
    padded[0], padded[1, :2] = logits[:6], logits[6:]
    targets[0], targets[1, :2] = torch.tensor([2, 3, 0, 2, 0, 1]), torch.tensor([0, 1])
    expected = F.cross_entropy(
        padded.view(-1, 4),
        targets.view(-1),
        weight=torch.tensor([0.25, 1.0, 2.0, 1.0]),
        label_smoothing=smoothing,
    )
    summed = task.loss(lambda h: h, logits, batch)
    assert float(summed) / task.weight(batch) == pytest.approx(float(expected), rel=1e-5)


def test_decode_gives_each_example_its_own_words(wordpiece):
    task = task_for(wordpiece)
    examples = [{"tokens": ["Lindos"]}, {"tokens": ["Mara", "Vell", "met"]}]
    batch = pack([task.encode(example, 1, train=False) for example in examples])
    logits = 9.0 * torch.eye(4)[[1, 2, 3, 0]]
    first, second = task.decode(lambda h: h, logits, batch)
    assert first.labels == (1,)
    assert second.labels == (2, 3, 0)
    assert min(second.scores) > 0.99


def test_spans_have_offsets_in_the_text(wordpiece):
    task = task_for(wordpiece)
    example = {"text": "So  Mara Vell\nmet (Lindos)."}
    tags = WordTags((0, 3, 3, 0, 0, 1, 0, 0), (1.0, 0.5, 0.7, 1.0, 1.0, 0.9, 1.0, 1.0))
    person, place = task.prediction(example, tags)["spans"]
    assert person == {
        "label": "PER",
        "start": 4,
        "end": 13,
        "text": "Mara Vell",
        "score": pytest.approx(0.6),
    }
    assert example["text"][place["start"] : place["end"]] == place["text"] == "Lindos"


def test_spans_of_given_words_have_offsets_in_the_joined_words(wordpiece):
    example = {"tokens": EXAMPLE["tokens"]}
    tags = said("O", "O", "O", "B-PER", "I-PER", "O")
    (span,) = task_for(wordpiece).prediction(example, tags)["spans"]
    assert (span["text"], span["start"], span["end"]) == ("Orion in", 14, 22)
    assert " ".join(EXAMPLE["tokens"])[14:22] == "Orion in"


QUIET = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)


@QUIET
@given(
    words=st.lists(
        st.sampled_from(["Mara", "met", "the", "Orion", ".", "!", "harbour", "\u200b"]),
        min_size=1,
        max_size=40,
    ),
    limit=st.integers(6, 20),
)
def test_windows_lose_no_word_and_each_fits(wordpiece, byte_bpe, words, limit):
    example = {"tokens": words, "tags": ["O"] * len(words)}
    for tokenizer, read in ((wordpiece, "first"), (byte_bpe, "last")):
        task = task_for(tokenizer, read=read, max_length=limit)
        windows = task.windows(example)
        assert [word for window in windows for word in window["tokens"]] == words
        for window in windows:
            encoded = task.encode(window, 1, train=False)
            assert len(encoded.select) == len(window["tokens"]) == len(encoded.targets)
            assert len(encoded) <= limit


def test_answers_to_windows_join_to_spans_of_the_whole_text(wordpiece):
    task = task_for(wordpiece, max_length=12)
    text = "the harbour of Lindos . " * 4
    windows = task.windows({"text": text})
    assert len(windows) > 1
    assert all(window["tokens"][-1] == "." for window in windows)
    answers = []
    for window in windows:
        names = ["B-LOC" if word == "Lindos" else "O" for word in window["tokens"]]
        answers.append(task.prediction(window, said(*names)))
    spans = join_predictions(answers)["spans"]
    assert [span["start"] for span in spans] == [15, 39, 63, 87]
    assert all(text[span["start"] : span["end"]] == "Lindos" for span in spans)


@pytest.mark.parametrize("segmentation", ["unspaced", "characters"])
def test_plain_chinese_text_gives_spans_in_characters(wordpiece, segmentation):
    task = task_for(wordpiece, segmentation=segmentation)
    example = {"text": "林涛去过长沙。"}
    assert len(task.encode(example, 1, train=False).select) == 7
    tags = said("B-PER", "I-PER", "O", "O", "B-LOC", "I-PER", "O")
    found = task.prediction(example, tags)["spans"]
    offsets = [(each["label"], each["start"], each["end"]) for each in found]
    assert offsets == [("PER", 0, 2), ("LOC", 4, 5), ("PER", 5, 6)]
    assert [each["text"] for each in found] == ["林涛", "长", "沙"]


def test_windows_of_chinese_text_keep_offsets(wordpiece):
    task = task_for(wordpiece, segmentation="characters", max_length=6)
    text = "林涛去过长沙。他住那里。"
    windows = task.windows({"text": text})
    assert len(windows) > 1
    places = [place for window in windows for place in window["offsets"]]
    assert "".join(text[start:end] for start, end in places) == text
