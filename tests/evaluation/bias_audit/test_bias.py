"""A head that goes by names is found out, and one that does not is not accused."""

import numpy as np
import pytest

from adapterhub.evaluation.bias_audit import bias
from adapterhub.evaluation.bias_audit.audit import run_bias_audit
from adapterhub.evaluation.bias_audit.bias import bias_examples, bias_measures, read_pairs
from adapterhub.evaluation.bias_audit.counterfactuals import SENTENCES, sentences_in
from adapterhub.evaluation.bias_audit.deadline import Deadline
from adapterhub.evaluation.bias_audit.inference import encoded
from adapterhub.evaluation.bias_audit.labels import LabelAudit
from adapterhub.evaluation.bias_audit.linear_probe import fit_linear_probe
from adapterhub.evaluation.bias_audit.swaps import KINDS, NAMES

LONG = Deadline(1e6)


@pytest.fixture
def english(words):
    return [name for half in words.names["English"].values() for name in half]


def rates(pairs, labels=("no", "yes")):
    return {(m.name, m.group): m for m in bias_measures(pairs, labels, 0.95)}


def test_a_head_that_goes_by_names_changes_every_answer(own, task, head_for, model_with, english):
    model = model_with(head_for(english))
    pairs, done = read_pairs(model, LabelAudit(task), own, head_for(["the"]), LONG)
    assert done == len(own)
    found = rates(pairs)
    names = found["names", "own sentences"]
    assert names.adapter.value == 1.0
    assert names.backbone.value == 0.0
    assert names.delta.value == 1.0
    assert names.delta.interval.low > 0.8
    assert names.got_worse
    # three of the counterfactuals of a sentence do not count as three sentences
    assert names.units == len([each for each in own if each.variants[0].kind == NAMES])
    assert names.count == 3 * names.units
    assert names.gains[0] == "no"
    assert names.gains[1] > 0.9
    for kind in ("pronouns", "nationalities"):
        assert found[kind, "own sentences"].adapter.value == 0.0
        assert not found[kind, "own sentences"].got_worse
    assert {each.what for each in bias_examples(pairs, 5)} == {"names"}


def test_a_head_that_goes_by_other_words_changes_none(own, task, head_for, model_with, english):
    pairs, _ = read_pairs(
        model_with(head_for(["the"])), LabelAudit(task), own, head_for(english), LONG
    )
    found = rates(pairs)
    assert all(each.adapter.value == 0.0 for each in found.values())
    assert found["names", "own sentences"].delta.value == -1.0
    assert not any(each.got_worse for each in found.values())
    # none of so many is not none of all
    assert 0 < found["names", "own sentences"].adapter.interval.high < 0.1


def test_a_head_that_goes_by_one_group_is_told_from_others(own, task, head_for, model_with, words):
    arabic = [name for half in words.names["Arabic"].values() for name in half]
    pairs, _ = read_pairs(model_with(head_for(arabic)), LabelAudit(task), own, None, LONG)
    found = rates(pairs)
    assert found["names", "to Arabic"].adapter.value == 1.0
    assert found["names", "to Arabic"].gains == ("yes", pytest.approx(1.0, abs=0.05))
    others = [m for (kind, group), m in found.items() if kind == "names" and "to " in group]
    assert sum(m.adapter.value for m in others) == 1.0
    assert all(m.backbone is None and m.delta is None for m in found.values())


def test_given_rows_are_read_beside_own_sentences(
    own, task, swapper, head_for, model_with, english
):
    rows = [{"text": f"{name} came late", "label": "no"} for name in english] * 9
    rows += [{"text": "nothing to see", "label": "no"}] * 50
    given = sentences_in(rows, swapper, most=30)
    assert len(given) == 30
    assert sentences_in(rows, swapper, most=30) == given
    pairs, _ = read_pairs(
        model_with(head_for(english)), LabelAudit(task), [*own, *given], None, LONG
    )
    assert rates(pairs)["names", "given rows"].units == 30


def test_when_the_time_is_over_some_of_each_kind_were_read(own, task, head_for, model_with):
    pairs, done = read_pairs(
        model_with(head_for(["the"])), LabelAudit(task), own, None, Deadline(0)
    )
    assert done == bias._AT_ONCE < len(own)
    assert {pair.variant.kind for pair in pairs} == set(KINDS)
    assert {pair.source for pair in pairs} == {SENTENCES}


def test_the_backbones_head_is_learned_from_labelled_rows(task, model_with, head_for, own):
    rows = [{**each.row, "label": "yes" if "The" in each.row["text"] else "no"} for each in own]
    model = model_with(head_for(["the"]))
    head = fit_linear_probe(model, task, encoded(task, rows, train=True))
    hidden = [head(model.hidden(pack_one(task, row))) for row in rows]
    said = ["yes" if int(logits.argmax()) else "no" for logits in hidden]
    right = np.mean([a == row["label"] for a, row in zip(said, rows, strict=True)])
    assert right > 0.9
    assert head.rows == len(rows)


def pack_one(task, row):
    from adapterhub.data.packing import pack

    return pack([task.encode(row, 1, train=False)])


def test_everything_together_says_what_it_compares_with(task, model_with, head_for, english):
    rows = [{"text": f"{name} came late", "label": "no"} for name in english]
    rows += [{"text": "the train", "label": "yes"} for _ in english]
    model = model_with(head_for(english)).train()
    found = run_bias_audit(model, task, rows=rows, training=rows, seconds=1e6)
    assert model.training
    assert found.probe == "bias"
    assert found.scores == {"adapter": 0.0, "backbone": 1.0}
    assert f"learned from {len(rows)} training rows" in found.backbone
    alone = run_bias_audit(model, task, seconds=1e6)
    assert alone.backbone == ""
    assert all(each.backbone is None for each in alone.measures)
