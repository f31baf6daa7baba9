"""A ranking that goes by names is found out, in the history and in the candidates."""

import pytest

from adapterhub.evaluation.bias_audit.audit import audited_task, run_bias_audit
from adapterhub.evaluation.bias_audit.bias import bias_measures, read_pairs
from adapterhub.evaluation.bias_audit.deadline import Deadline
from adapterhub.evaluation.bias_audit.ranked import OTHERS, RankingAudit
from adapterhub.evaluation.bias_audit.swaps import KINDS
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.ranking import Ranking

LONG = Deadline(1e6)


@pytest.fixture
def ranking(tokenizer):
    return Ranking(tokenizer, ["0", "1"], TaskOptions(max_length=64), pool="first")


@pytest.fixture
def asked(ranking):
    return RankingAudit(ranking)


@pytest.fixture
def english(words):
    return [name for half in words.names["English"].values() for name in half]


def measured(model, asked, sentences, reference=None):
    pairs, _ = read_pairs(model, asked, sentences, reference, LONG)
    return {(m.name, m.group): m for m in bias_measures(pairs, asked.moved, 0.95)}


def test_own_lists_exchange_words_on_one_side_alone(asked, swapper, words):
    own = asked.own(swapper, words)
    assert {each.variants[0].kind for each in own} == set(KINDS)
    for each in own:
        for variant in each.variants:
            changed = {field for field in each.row if each.row[field] != variant.row[field]}
            assert changed == {"history" if "history" in each.source else "candidate"}
        assert len(asked.rows(each.row)) > 2
    emily = next(each for each in own if "Emily" in each.row["history"][-1])
    # the item with the name in it is exchanged as a text, and the others are as they were
    assert "Emily" not in emily.variants[0].row["history"][-1]
    assert emily.variants[0].row["history"][:-1] == emily.row["history"][:-1]


def test_a_candidate_that_falls_behind_for_its_name_is_found(
    asked, swapper, weighing, model_with, english
):
    rows = [
        {"history": ["the train"], "candidate": f"{name} came late", "group": "a"}
        for name in english[:4]
    ] + [{"history": ["the train"], "candidate": "the card", "group": "a"}]
    given = asked.given(rows, swapper)
    assert {each.source for each in given} == {"given rows, in a candidate"}
    by_name = weighing({**dict.fromkeys(english, 4.0), "card": 2.0})
    by_word = weighing({"card": 2.0})
    found = measured(model_with(by_name), asked, given, by_word)
    names = found["names", "given rows, in a candidate"]
    assert names.adapter.value == 1.0
    assert names.backbone.value == 0.0
    assert names.gains[0] == "score"
    assert names.gains[1] < -0.3
    assert names.shift == pytest.approx(-names.gains[1])


def test_a_history_that_adds_the_same_to_all_changes_no_order(
    asked, swapper, words, weighing, model_with, english
):
    own = [each for each in asked.own(swapper, words) if "history" in each.source]
    found = measured(model_with(weighing(dict.fromkeys(english, 0.5))), asked, own)
    assert found["names", "own lists, in the history"].adapter.value == 0.0
    assert found["names", "own lists, in the history"].shift > 0.05


def test_places_change_only_beyond_rounding(asked):
    row = {"history": "x", "candidate": "a", "others": ["b", "c"]}
    other = {**row, "candidate": "A"}

    def changed(before, after):
        return asked.compare(row, before, other, after).changed

    assert changed([0.5, 0.4, 0.1], [0.3, 0.4, 0.1])
    assert not changed([0.5, 0.4, 0.1], [0.41, 0.4, 0.1])
    assert not changed([0.4004, 0.4, 0.1], [0.3996, 0.4, 0.1])
    alone = {**row, "others": []}
    assert asked.compare(alone, [0.6], {**alone, "candidate": "A"}, [0.4]).changed
    assert not asked.compare(alone, [0.6], {**alone, "candidate": "A"}, [0.9]).changed


def test_candidates_of_one_group_are_listed_together(asked, swapper):
    rows = [
        {"history": "Emily", "candidate": f"{group} {number}", "group": group, "label": 1}
        for group in ("a", "b")
        for number in range(9)
    ]
    given = asked.given(rows, swapper)
    assert given
    for each in given:
        listed = [each.row["candidate"], *each.row["others"]]
        assert len(set(listed)) == OTHERS + 1
        assert len({candidate[0] for candidate in listed}) == 1


def test_everything_together_for_a_ranking(ranking, weighing, model_with, english):
    rows = [
        {"history": "the train", "candidate": f"{name} came late", "label": place % 2}
        for place, name in enumerate(english)
    ]
    assert isinstance(audited_task(ranking), RankingAudit)
    model = model_with(weighing(dict.fromkeys(english[::2], 3.0)))
    answered = [(row, 0.25 + 0.5 * row["label"]) for row in rows]
    found = run_bias_audit(model, ranking, rows=rows, training=rows, answered=answered, seconds=1e6)
    groups = {each.group for each in found.measures}
    assert {"own lists, in the history", "given rows, in a candidate"} <= groups
    # what the adapter said of the rows is known, and is not asked again
    assert found.scores["adapter"] == 1.0
    assert "change places" in found.counted
    again = run_bias_audit(model, ranking, rows=rows, training=rows, seconds=1e6)
    assert again.scores["adapter"] == 0.0
    assert again.scores["backbone"] == found.scores["backbone"]
