"""Disparity is detected for a head that depends on names, and for no other."""

import numpy as np
import pytest

from adapterhub.evaluation.bias_audit import audit as audit_module
from adapterhub.evaluation.bias_audit import disparity
from adapterhub.evaluation.bias_audit.audit import run_bias_audit
from adapterhub.evaluation.bias_audit.counterfactuals import SENTENCES, given_sets
from adapterhub.evaluation.bias_audit.disparity import (
    compare_pairs,
    disparity_examples,
    disparity_metrics,
)
from adapterhub.evaluation.bias_audit.inference import Deadline, encode_examples, predict_by
from adapterhub.evaluation.bias_audit.linear_probe import fit_linear_probe
from adapterhub.evaluation.bias_audit.substitution import ATTRIBUTES, NAMES
from adapterhub.evaluation.bias_audit.task_audits import LabelAudit

LONG = Deadline(1e6)


@pytest.fixture
def english(words):
    return [name for half in words.names["English"].values() for name in half]


def rates(pairs, labels=("no", "yes")):
    return {(m.name, m.group): m for m in disparity_metrics(pairs, labels, 0.95)}


def test_a_head_that_depends_on_names_changes_every_prediction(
    own, task, head_for, model_with, english
):
    model = model_with(head_for(english), task)
    pairs, done = compare_pairs(model, LabelAudit(task), own, head_for(["the"]), LONG)
    assert done == len(own)
    found = rates(pairs)
    names = found["names", "built-in sentences"]
    assert names.adapter.value == 1.0
    assert names.backbone.value == 0.0
    assert names.delta.value == 1.0
    assert names.delta.interval.low > 0.8
    assert names.got_worse
    # the three counterfactuals of a sentence count as one independent unit
    assert names.units == len([each for each in own if each.counterfactuals[0].attribute == NAMES])
    assert names.count == 3 * names.units
    assert names.largest_gain[0] == "no"
    assert names.largest_gain[1] > 0.9
    for kind in ("pronouns", "nationalities"):
        assert found[kind, "built-in sentences"].adapter.value == 0.0
        assert not found[kind, "built-in sentences"].got_worse
    assert {each.what for each in disparity_examples(pairs, 5)} == {"names"}


def test_a_head_that_depends_on_other_words_changes_none(own, task, head_for, model_with, english):
    pairs, _ = compare_pairs(
        model_with(head_for(["the"]), task), LabelAudit(task), own, head_for(english), LONG
    )
    found = rates(pairs)
    assert all(each.adapter.value == 0.0 for each in found.values())
    assert found["names", "built-in sentences"].delta.value == -1.0
    assert not any(each.got_worse for each in found.values())
    # none of so many is not none of all
    assert 0 < found["names", "built-in sentences"].adapter.interval.high < 0.1


def test_a_head_that_depends_on_one_group_is_detected(own, task, head_for, model_with, words):
    arabic = [name for half in words.names["Arabic"].values() for name in half]
    pairs, _ = compare_pairs(model_with(head_for(arabic), task), LabelAudit(task), own, None, LONG)
    found = rates(pairs)
    assert found["names", "to Arabic"].adapter.value == 1.0
    assert found["names", "to Arabic"].largest_gain == ("yes", pytest.approx(1.0, abs=0.05))
    others = [m for (kind, group), m in found.items() if kind == "names" and "to " in group]
    assert sum(m.adapter.value for m in others) == 1.0
    assert all(m.backbone is None and m.delta is None for m in found.values())


def test_given_examples_are_sampled_beside_builtin_sentences(
    own, task, substituter, head_for, model_with, english
):
    examples = [{"text": f"{name} came late", "label": "no"} for name in english] * 9
    examples += [{"text": "nothing to see", "label": "no"}] * 50
    given = given_sets(examples, substituter, limit=30)
    assert len(given) == 30
    assert given_sets(examples, substituter, limit=30) == given
    pairs, _ = compare_pairs(
        model_with(head_for(english), task), LabelAudit(task), [*own, *given], None, LONG
    )
    assert rates(pairs)["names", "given examples"].units == 30


def test_after_the_deadline_some_of_each_attribute_were_predicted(own, task, head_for, model_with):
    pairs, done = compare_pairs(
        model_with(head_for(["the"]), task), LabelAudit(task), own, None, Deadline(0)
    )
    assert done == disparity._BATCH < len(own)
    assert {pair.counterfactual.attribute for pair in pairs} == set(ATTRIBUTES)
    assert {pair.source for pair in pairs} == {SENTENCES}


def test_the_probe_is_trained_on_labelled_examples(task, model_with, head_for, own):
    examples = [
        {**each.example, "label": "yes" if "The" in each.example["text"] else "no"} for each in own
    ]
    model = model_with(head_for(["the"]), task)
    encoded = encode_examples(task, examples, train=True)
    head = fit_linear_probe(model, encoded)
    said = ["yes" if int(found.argmax()) else "no" for found in predict_by(model, head, encoded)]
    right = np.mean([a == example["label"] for a, example in zip(said, examples, strict=True)])
    assert right > 0.9
    assert head.num_examples == len(examples)


def test_the_audit_names_its_baseline(task, tokenizer, model_with, head_for, english):
    examples = [{"text": f"{name} came late", "label": "no"} for name in english]
    examples += [{"text": "the train", "label": "yes"} for _ in english]
    model = model_with(head_for(english), task)
    found = run_bias_audit(model, tokenizer, examples=examples, training=examples, seconds=1e6)
    assert found.kind == "bias"
    assert found.scores == {"adapter": 0.0, "backbone": 1.0}
    assert f"trained on {len(examples)} examples" in found.baseline
    alone = run_bias_audit(model, tokenizer, seconds=1e6)
    assert alone.baseline == ""
    assert all(each.backbone is None for each in alone.metrics)


def test_a_huge_text_is_left_out_in_every_form(task, head_for, model_with, tokenizer, monkeypatch):
    monkeypatch.setattr(audit_module, "MAX_CHARACTERS", 40)
    model = model_with(head_for(["the"]), task)
    short = {"text": "the doctor has met his sister", "label": "no"}
    long = {"text": f"{short['text']} {short['text']}", "label": "yes"}
    seen = []
    monkeypatch.setattr(
        LabelAudit, "given_sets", lambda _, examples, __: seen.extend(examples) or []
    )
    run_bias_audit(model, tokenizer, examples=[short, long], training=[long], seconds=1e6)
    assert seen == [short]


@pytest.mark.parametrize("value", ["a" * 50, ["a" * 25] * 2, [{"content": "a" * 50}]])
def test_the_size_of_an_example_counts_all_of_its_texts(value, monkeypatch):
    monkeypatch.setattr(audit_module, "MAX_CHARACTERS", 49)
    assert not audit_module._bounded([{"text": value}])
    monkeypatch.setattr(audit_module, "MAX_CHARACTERS", 50)
    assert audit_module._bounded([{"text": value}])
