"""Resampled metrics equal those of the task, and intervals have their coverage."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from adapterhub.evaluation.bootstrap import intervals, resampled
from adapterhub.evaluation.example_statistics import ReevaluatedExamples, scores_of
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.dialogue import Dialogue
from adapterhub.tasks.generating import AnswerScore
from adapterhub.tasks.predictions import ExampleStatistics
from adapterhub.tasks.question_answering import FoundSpan, QuestionAnswering
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.text_classification import TextClassification
from adapterhub.tasks.token_classification import TokenClassification, WordTags


@pytest.fixture
def tokenizer(encoder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder)


OPTIONS = TaskOptions(max_length=32)


def classified(tokenizer, count=60, labels=("calm", "glad", "sad"), seed=0, options=OPTIONS):
    draw = np.random.default_rng(seed)
    task = TextClassification(tokenizer, labels, options, pool="first")
    examples = [{"text": "the day", "label": labels[int(i)]} for i in draw.integers(0, 3, count)]
    table = draw.dirichlet([0.5] * 3, count)
    return task, examples, [torch.tensor(each) for each in table]


def tagged(tokenizer):
    labels = ["O", "B-A", "I-A", "B-B", "I-B"]
    task = TokenClassification(tokenizer, labels, OPTIONS, pool="first")
    draw = np.random.default_rng(1)
    examples, decoded = [], []
    for _ in range(40):
        gold = draw.integers(0, 5, 6)
        found = np.where(draw.random(6) < 0.7, gold, draw.integers(0, 5, 6))
        examples.append({"tokens": ["day"] * 6, "tags": [labels[i] for i in gold]})
        decoded.append(WordTags(tuple(int(i) for i in found), (0.5,) * 6))
    return task, examples, decoded


def talked():
    draw = np.random.default_rng(2)
    task = Dialogue.__new__(Dialogue)
    examples = [{"prompt": "a", "response": "b"}] * 30
    return task, examples, [AnswerScore(float(draw.random() * 9), 5, int(n)) for n in range(0, 30)]


def answered(tokenizer, *, unanswerable):
    draw = np.random.default_rng(8)
    options = TaskOptions(max_length=24, stride=4, unanswerable=unanswerable)
    task = QuestionAnswering(tokenizer, options, null="first")
    examples, decoded = [], []
    for number in range(20):
        context = " ".join(draw.choice(["the day", "was", "fine", "and long"], 20))
        answers = [] if unanswerable and number % 3 == 0 else [context.split(" ")[2]]
        for window in task.windows({"context": context, "question": "when", "answers": answers}):
            first = int(draw.integers(0, 3))
            examples.append(window)
            decoded.append(FoundSpan(first, first, float(draw.random()), float(draw.random())))
    return task, examples, decoded


@pytest.mark.parametrize(
    "kind", ["classes", "scoped", "tags", "talks", "answers", "none or answers"]
)
def test_sums_over_examples_give_the_metrics_of_the_task(kind, tokenizer):
    cases = {
        "classes": lambda: classified(tokenizer),
        "scoped": lambda: classified(
            tokenizer, options=OPTIONS.model_copy(update={"out_of_scope": "glad"})
        ),
        "tags": lambda: tagged(tokenizer),
        "talks": talked,
        "answers": lambda: answered(tokenizer, unanswerable=False),
        "none or answers": lambda: answered(tokenizer, unanswerable=True),
    }
    task, examples, decoded = cases[kind]()
    fast, slow = scores_of(task, examples, decoded), ReevaluatedExamples(task, examples, decoded)
    assert isinstance(fast, ExampleStatistics)
    drawn = np.random.default_rng(3).integers(0, fast.size, (5, fast.size))
    drawn[0] = np.arange(fast.size)
    found, expected = fast.metrics(drawn), slow.metrics(drawn)
    assert found.keys() <= expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, err_msg=name)


def test_a_resample_that_lacks_a_label_is_scored_as_scikit_learn_does(tokenizer):
    task, examples, decoded = classified(tokenizer)
    scores = scores_of(task, examples, decoded)
    gold = [task.labels.index(example["label"]) for example in examples]
    found = [int(each.argmax()) for each in decoded]
    chosen = [i for i in range(len(examples)) if gold[i] != 1 and found[i] != 1]
    drawn = np.array([(chosen * len(examples))[: len(examples)]])
    y, p = [gold[i] for i in drawn[0]], [found[i] for i in drawn[0]]
    metrics = scores.metrics(drawn)
    assert metrics["macro_f1"][0] == pytest.approx(f1_score(y, p, average="macro"))
    assert metrics["accuracy"][0] == pytest.approx(accuracy_score(y, p))


def test_intervals_hold_the_truth_as_often_as_they_say(tokenizer):
    draw = np.random.default_rng(4)
    covered = 0
    for trial in range(200):
        right = (draw.random(150) < 0.8).astype(float)
        values = np.stack([right, np.ones(150)], axis=-1)
        scores = ExampleStatistics(values, lambda s: {"share": s[..., 0] / s[..., 1]}, ("share",))
        found = intervals(scores, resamples=400, seed=trial)["share"]
        covered += found.low <= 0.8 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_same_seed_draws_the_same_examples_however_they_are_cut(tokenizer):
    task, examples, decoded = classified(tokenizer)
    scores = scores_of(task, examples, decoded)
    first, again = (resampled(scores, resamples=50, seed=5)["accuracy"] for _ in range(2))
    assert (first == again).all()
    assert len(first) == 50
    slow = resampled(
        ReevaluatedExamples(task, examples, decoded, max_resamples=7), resamples=50, seed=5
    )
    assert (slow["accuracy"] == first[:7]).all()


def ranked(tokenizer, users=12, each=6):
    """Return users of different taste, each of whose examples the model gets alike."""
    draw = np.random.default_rng(6)
    task = Ranking(tokenizer, ["0", "1"], OPTIONS, pool="first")
    examples, chances = [], []
    for user in range(users):
        skill = draw.normal()
        for _ in range(each):
            label = int(draw.integers(0, 2))
            example = {"history": "the day", "candidate": "the day", "label": label}
            examples.append({**example, "group": f"user {user}", "gain": 4 * label + 1})
            chances.append(float(draw.normal() + skill * (2 * label - 1)))
    return task, examples, chances


def test_users_are_drawn_and_not_their_ratings(tokenizer):
    task, examples, chances = ranked(tokenizer)
    scores = scores_of(task, examples, chances)
    assert scores.size == 12
    drawn = np.random.default_rng(7).integers(0, 12, (4, 12))
    found = scores.metrics(drawn)
    names = sorted({example["group"] for example in examples})
    for place, users in enumerate(drawn):
        taken, said = [], []
        for copy, user in enumerate(users):
            for example, chance in zip(examples, chances, strict=True):
                if example["group"] == names[user]:
                    # someone drawn twice is two users with a list each
                    taken.append({**example, "group": f"{copy}"})
                    said.append(chance)
        expected = task.evaluate(taken, said).metrics
        for name in ("auc", "ndcg_at_10"):
            assert found[name][place] == pytest.approx(expected[name])


def test_examples_of_a_user_that_fall_together_make_intervals_wider(tokenizer):
    task, examples, chances = ranked(tokenizer, users=25, each=20)
    apart = [{key: example[key] for key in example if key != "group"} for example in examples]
    together = intervals(scores_of(task, examples, chances), seed=1)["auc"]
    alone = intervals(scores_of(task, apart, chances), seed=1)["auc"]
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


@pytest.mark.parametrize("grouped", [True, False])
def test_a_resample_with_one_label_tells_nothing_and_breaks_nothing(grouped, tokenizer):
    task, examples, _ = ranked(tokenizer, users=2, each=1)
    examples = [{**example, "label": place, "gain": 1} for place, example in enumerate(examples)]
    if not grouped:
        examples = [
            {key: example[key] for key in example if key != "group"} for example in examples
        ]
    scores = scores_of(task, examples, [0.2, 0.8])
    values = resampled(scores, resamples=40, seed=0)["auc"]
    assert np.isnan(values).any()
    assert set(values[~np.isnan(values)]) == {1.0}
    assert intervals(scores)["auc"].low == 1.0
