"""Ranking for recommendation."""

import pytest
import torch
from sklearn.metrics import ndcg_score, roc_auc_score

from adapterhub.data.packing import pack
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.ranking import Ranking, RelevanceJudgments, ranking_scores

EXAMPLE = {"history": ["the old castle", "a moving film"], "candidate": "the Orion", "label": 1}


def task_for(tokenizer, pool="first", **options):
    return Ranking(tokenizer, ["0", "1"], TaskOptions(**options), pool=pool)


def test_history_and_candidate_are_read_as_a_pair(wordpiece, byte_bpe):
    encoded = task_for(wordpiece).encode(EXAMPLE, 1, train=True)
    assert set(encoded.segment_ids) == {0, 1}
    assert tuple(encoded.targets) == (1,)
    ids = task_for(byte_bpe, "last").encode(EXAMPLE, 1, train=True).input_ids
    assert byte_bpe.decode(ids) == "the old castle; a moving film\nthe Orion"


def test_one_text_and_a_list_of_one_are_the_same_history(byte_bpe):
    task = task_for(byte_bpe, "last")
    one, listed = ({**EXAMPLE, "history": value} for value in ("a film", ["a film"]))
    assert task.encode(one, 1, train=True) == task.encode(listed, 1, train=True)


def test_a_long_history_loses_its_oldest_and_the_candidate_nothing(byte_bpe):
    example = {**EXAMPLE, "history": [f"film {number}" for number in range(40)]}
    encoded = task_for(byte_bpe, "last", max_length=60).encode(example, 1, train=True)
    text = byte_bpe.decode(encoded.input_ids)
    assert text.endswith("film 38; film 39\nthe Orion")
    assert "film 0;" not in text
    assert 40 < len(encoded) <= 60


def test_someone_without_a_history_can_be_ranked_for(byte_bpe):
    encoded = task_for(byte_bpe, "last").encode({**EXAMPLE, "history": []}, 1, train=True)
    assert byte_bpe.decode(encoded.input_ids) == "-\nthe Orion"


@pytest.mark.parametrize("label", [1, "1", True, 1.0])
def test_labels_may_be_written_in_many_ways(wordpiece, label):
    if label is True:
        with pytest.raises(DataError, match="'true' is not among"):
            task_for(wordpiece).encode({**EXAMPLE, "label": label}, 1, train=True)
        return
    assert tuple(
        task_for(wordpiece).encode({**EXAMPLE, "label": label}, 1, train=True).targets
    ) == (1,)


def test_labels_other_than_0_and_1_are_rejected(wordpiece):
    with pytest.raises(RecipeError, match="the labels must be 0 and 1, not 1, 2, 3, 4, 5"):
        Ranking(wordpiece, ["1", "2", "3", "4", "5"], TaskOptions(), pool="first")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": 5}, "field 'history': a history must be a text or a list of texts"),
        ({"history": None}, "field 'history': the field is missing"),
        ({"candidate": ""}, "field 'candidate': the text is empty"),
        ({"label": 3}, "field 'label': the label '3' is not among"),
    ],
)
def test_examples_that_cannot_be_used_are_named(wordpiece, change, message):
    with pytest.raises(DataError) as caught:
        task_for(wordpiece).encode({**EXAMPLE, **change}, 4, train=True)
    assert str(caught.value).startswith("example 4")
    assert message in str(caught.value)


def test_prediction_is_the_probability_of_label_1(wordpiece):
    task = task_for(wordpiece)
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    examples = [task.encode(EXAMPLE, 1, train=False)] * 2
    decoded = task.decode(lambda h: h, logits, pack(examples))
    assert decoded == pytest.approx([torch.sigmoid(torch.tensor(v)).item() for v in (2.0, -1.0)])
    assert task.prediction(EXAMPLE, decoded[0]) == {"score": decoded[0]}


def test_the_metrics_are_those_of_scikit_learn(wordpiece):
    examples = [
        {**EXAMPLE, "label": label, "group": group, "gain": gain}
        for label, group, gain in ((1, "a", 5), (0, "a", 2), (1, "b", 4), (0, "b", 1), (1, "b", 5))
    ]
    chances = [0.2, 0.7, 0.9, 0.1, 0.4]
    metrics = task_for(wordpiece).evaluate(examples, chances).metrics
    assert metrics["auc"] == roc_auc_score([1, 0, 1, 0, 1], chances)
    each = (
        ndcg_score([[5, 2]], [[0.2, 0.7]], k=10),
        ndcg_score([[4, 1, 5]], [[0.9, 0.1, 0.4]], k=10),
    )
    assert metrics["ndcg_at_10"] == pytest.approx(sum(each) / 2)
    assert metrics["groups"] == 2.0


def test_groups_that_have_no_ranking_are_left_out():
    scores = ranking_scores(
        RelevanceJudgments([1, 0, 0, 1], [1, 0, 0, 1], ["a", "b", "b", "c"]), [0.5] * 4
    )
    assert scores == {"auc": 0.5, "groups": 0.0}


def test_examples_of_no_group_are_no_list():
    labels, chances = [1, 0, 1, 0], [0.9, 0.1, 0.2, 0.8]
    assert ranking_scores(RelevanceJudgments(labels, labels, [""] * 4), chances) == {
        "auc": 0.75,
        "groups": 0.0,
    }
    some = ranking_scores(RelevanceJudgments(labels, labels, ["a", "a", "", ""]), chances)
    assert (some["groups"], some["ndcg_at_10"]) == (1.0, 1.0)


def test_only_the_first_ten_count():
    gains = [0.0] * 12
    gains[11] = 1.0
    falling = [1 - number / 20 for number in range(12)]
    labels = [int(gain) for gain in gains]
    assert (
        ranking_scores(RelevanceJudgments(labels, gains, ["a"] * 12), falling)["ndcg_at_10"] == 0.0
    )
    rising = falling[::-1]
    assert (
        ranking_scores(RelevanceJudgments(labels, gains, ["a"] * 12), rising)["ndcg_at_10"] == 1.0
    )


def test_one_label_alone_has_no_auc(wordpiece):
    with pytest.raises(DataError, match=r"all examples have the label 1\. AUC needs"):
        task_for(wordpiece).evaluate([EXAMPLE, EXAMPLE], [0.5, 0.6])
    with pytest.raises(DataError, match="no examples"):
        task_for(wordpiece).evaluate([], [])
    for gain in (-1, float("nan"), float("inf"), "5", True):
        with pytest.raises(DataError, match="example 1, field 'gain': a gain must be a number"):
            task_for(wordpiece).evaluate(
                [{**EXAMPLE, "gain": gain}, {**EXAMPLE, "label": 0}], [0.5, 0.6]
            )
