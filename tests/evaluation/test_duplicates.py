"""Duplicates, contradictions and leaks are counted, near ones too."""

import numpy as np
import pytest

from adapterhub.data.dataset import Dataset
from adapterhub.data.field_mapping import answer_text, example_text
from adapterhub.evaluation.duplicates import leak, split_facts
from adapterhub.evaluation.errors import most_confused
from adapterhub.evaluation.power_law import fit_power_law
from adapterhub.tasks.predictions import LabelChoices


def examples(*pairs):
    return Dataset.whole("x.jsonl", [{"text": text, "label": label} for text, label in pairs])


def test_repeats_count_but_for_case_and_punctuation_and_contradictions_are_told():
    facts = split_facts(
        "train",
        examples(
            ("Good day", "a"), ("good day!", "a"), ("bad", "a"), ("Bad.", "b"), ("x y z", "b")
        ),
    )
    assert (facts.examples, facts.repeated, facts.contradicting) == (5, 2, 1)
    assert facts.labels == {"a": 3, "b": 2}
    assert facts.longest_words == 3


def test_a_text_that_is_in_training_leaks_and_so_does_one_that_nearly_is():
    long = "the quick brown fox jumps over the lazy dog and runs far away into the woods"
    training = examples((long, "a"), ("something else entirely, about cooking rice", "b"))
    held_out = examples(
        (long.upper(), "a"),
        (long.replace("woods", "wood"), "a"),
        ("a third text on trains and their stations", "b"),
    )
    found = leak("validation", held_out, training)
    assert (found.same, found.near, found.looked_at) == (1, 1, 2)
    (pair,) = found.pairs
    assert pair.training == long
    assert pair.similarity > 0.9


def test_nothing_leaks_where_nothing_is_alike():
    found = leak("test", examples(("alpha beta", "a")), examples(("gamma delta", "a")))
    assert (found.same, found.near, found.pairs) == (0, 0, ())


def test_the_text_of_an_example_holds_no_answer():
    assert example_text({"text": "a", "text_pair": "b", "label": "c"}) == "a | b"
    assert example_text({"tokens": ["a", "b"], "tags": ["O", "O"]}) == "a b"
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert example_text({"messages": talk}) == "hi ho"


@pytest.mark.parametrize(
    ("asked", "one", "other"),
    [
        ({"source": "A dog."}, {"target": "Ein Hund."}, {"target": "Der Hund."}),
        ({"document": "long"}, {"summary": "short"}, {"summaries": ["short", "brief"]}),
        (
            {"context": "In 1820.", "question": "When?"},
            {"answers": {"text": ["1820"], "answer_start": [3]}},
            {"answers": ["In 1820"]},
        ),
        ({"history": ["a"], "candidate": "b"}, {"label": 1, "gain": 5}, {"label": 0, "gain": 2}),
    ],
)
def test_no_answer_of_any_task_hides_that_a_text_is_in_training(asked, one, other):
    training, held_out = ({**asked, **answer} for answer in (one, other))
    assert leak("test", Dataset.whole("b", [held_out]), Dataset.whole("a", [training])).same == 1
    facts = split_facts("train", Dataset.whole("a", [training, held_out]))
    assert (facts.repeated, facts.contradicting) == (1, 1)
    assert example_text(training) == example_text(held_out)


def test_answers_are_shown_as_texts():
    assert answer_text({"answers": {"text": ["1820", "In 1820"], "answer_start": [3, 0]}}) == (
        "1820 In 1820"
    )


def test_the_labels_confused_most_come_first():
    matrix = np.array([[8, 2, 0], [5, 5, 0], [0, 0, 10]])
    gold, predicted = (
        np.repeat(each, matrix.reshape(-1)) for each in np.indices((3, 3)).reshape(2, 9)
    )
    choices = LabelChoices("examples", ("a", "b", "c"), gold, predicted)
    assert (choices.confusion() == matrix).all()
    first, second = most_confused(choices, 5)
    assert (first.gold, first.predicted, first.count, first.share) == ("b", "a", 5, 0.5)
    assert (second.gold, second.predicted, second.count, second.share) == ("a", "b", 2, 0.2)


def test_a_power_law_is_found_again_and_too_few_points_give_none():
    sizes = [50, 100, 200, 400, 800]
    law = fit_power_law(sizes, [0.05 + 2.0 * n**-0.6 for n in sizes])
    assert law is not None
    assert abs(law.error(1600) - (0.05 + 2.0 * 1600**-0.6)) < 0.003
    assert fit_power_law(sizes[:3], [0.5, 0.4, 0.3]) is None
