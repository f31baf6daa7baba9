"""Translation, summarization and generative answers by instruction."""

from functools import partial

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.instructed import instruction_task
from adapterhub.tasks.text_scores import rouge_scores, translation_scores

BUILDERS = {
    kind: partial(instruction_task, name)
    for kind, name in (
        ("translation", "translation"),
        ("summarization", "summarization"),
        ("generative", "generative-question-answering"),
    )
}
EXAMPLES = {
    "translation": {"source": "my printer does not print", "target": "mein Drucker geht nicht"},
    "summarization": {"document": "A: try again . B: it works !", "summary": "It works ."},
    "generative": {
        "context": "the Orion lies in Port Sorrel",
        "question": "where ?",
        "answers": ["Port Sorrel"],
    },
}
ANSWERS = {
    "translation": "mein Drucker geht nicht",
    "summarization": "It works .",
    "generative": "Port Sorrel",
}


@pytest.fixture(params=list(BUILDERS))
def kind(request):
    return request.param


def learned_text(task, encoded):
    return task.tokenizer.decode(list(encoded.targets))


def prompt_text(task, example):
    return task.tokenizer.decode(task.prompt_ids(task.messages(example, 1)))


def test_the_answer_alone_is_learned(byte_bpe, kind):
    task = BUILDERS[kind](byte_bpe, TaskOptions())
    encoded = task.encode(EXAMPLES[kind], 1, train=True)
    assert learned_text(task, encoded) == f"{ANSWERS[kind]}<|end|>"


def test_prediction_asks_as_training_did_and_needs_no_answer(byte_bpe, kind):
    task = BUILDERS[kind](byte_bpe, TaskOptions(system_prompt="Be brief."))
    encoded = task.encode(EXAMPLES[kind], 1, train=True)
    unlabelled = {
        k: v for k, v in EXAMPLES[kind].items() if k not in ("target", "summary", "answers")
    }
    ids = task.prompt_ids(task.messages(unlabelled, 1))
    assert list(encoded.input_ids[: len(ids)]) == ids
    assert encoded.select[0] == len(ids) - 1
    assert "Be brief." in task.tokenizer.decode(ids)


def test_the_instruction_of_the_recipe_goes_before_the_own(byte_bpe, kind):
    own = BUILDERS[kind](byte_bpe, TaskOptions())
    assert own.format.instruction in prompt_text(own, EXAMPLES[kind])
    custom = BUILDERS[kind](byte_bpe, TaskOptions(instruction="Do it in rhyme."))
    assert "Do it in rhyme.\n\n" in prompt_text(custom, EXAMPLES[kind])
    assert own.format.instruction not in prompt_text(custom, EXAMPLES[kind])


def test_one_text_stands_for_the_input_field(byte_bpe, kind):
    task = BUILDERS[kind](byte_bpe, TaskOptions())
    assert "the castle" in prompt_text(task, {"text": "the castle"})


def test_a_long_text_loses_its_end_and_the_answer_nothing(byte_bpe, kind):
    field = BUILDERS[kind](byte_bpe, TaskOptions()).format.long_field
    example = {**EXAMPLES[kind], field: "the old harbour of Lindos lies below the castle " * 20}
    task = BUILDERS[kind](byte_bpe, TaskOptions(max_length=128, max_new_tokens=40))
    encoded = task.encode(example, 1, train=True)
    assert learned_text(task, encoded) == f"{ANSWERS[kind]}<|end|>"
    prompt = task.prompt_ids(task.messages(example, 1))
    # filled up to what the answer is to have, but for a token or two at the cut
    assert 128 - 40 - 4 <= len(prompt) <= 128 - 40
    assert list(encoded.input_ids[: len(prompt)]) == prompt
    if kind == "generative":
        assert "Question: where ?" in task.tokenizer.decode(prompt)


def test_what_can_never_fit_is_named(byte_bpe):
    example = {**EXAMPLES["generative"], "question": "where is it ? " * 60}
    task = instruction_task(
        "generative-question-answering", byte_bpe, TaskOptions(max_length=128, max_new_tokens=40)
    )
    with pytest.raises(DataError, match=r"example 2, field 'context': .* leaves it no room in 128"):
        task.encode(example, 2, train=True)
    with pytest.raises(RecipeError, match=r"task\.max_new_tokens: 64 tokens .* max_length 64"):
        instruction_task("translation", byte_bpe, TaskOptions(max_length=64))


@pytest.mark.parametrize(
    ("kind", "example", "message"),
    [
        ("translation", {"source": "x", "taget": "y"}, "field 'target': the field is missing. Did"),
        ("translation", {"source": " ", "target": "y"}, "field 'source': the text is empty"),
        ("summarization", {"document": "x", "summaries": ["", "b"]}, "a summary must be text"),
        ("summarization", {"document": "x"}, "field 'summary': the field is missing"),
        (
            "generative",
            {"question": "x", "answers": []},
            "the question has no answer. Set task.una",
        ),
    ],
)
def test_examples_that_cannot_be_used_are_named(byte_bpe, kind, example, message):
    with pytest.raises(DataError) as caught:
        BUILDERS[kind](byte_bpe, TaskOptions()).encode(example, 6, train=True)
    assert "example 6" in str(caught.value)
    assert message in str(caught.value)


def test_questions_need_no_context(byte_bpe):
    task = instruction_task("generative-question-answering", byte_bpe, TaskOptions())
    text = prompt_text(task, {"question": "where is the castle ?"})
    assert "Question: where is the castle ?" in text
    assert "Text:" not in text


def test_a_question_without_an_answer_is_answered_so(byte_bpe):
    task = instruction_task(
        "generative-question-answering", byte_bpe, TaskOptions(unanswerable=True)
    )
    example = {"question": "who ?", "context": "the castle", "answers": []}
    encoded = task.encode(example, 1, train=True)
    assert learned_text(task, encoded) == "unanswerable<|end|>"
    assert 'Say "unanswerable"' in prompt_text(task, example)
    scores = task.score_texts(
        [example, EXAMPLES["generative"]], ["Unanswerable.", "in Port Sorrel"]
    )
    assert scores.metrics["exact_match"] == 50.0
    assert scores.metrics["unanswerable_f1"] == 100.0
    assert scores.metrics["answerable_f1"] == pytest.approx(80.0)


def test_translations_have_the_score_of_sacrebleu_and_its_signature(byte_bpe):
    task = instruction_task("translation", byte_bpe, TaskOptions())
    wanted = ["the old harbour of Lindos lies below", "a moving film about nothing at all"]
    found = ["the old harbour of Lindos lies here", "a film about nothing at all"]
    scores = task.score_texts([{"source": "x", "target": text} for text in wanted], found)
    assert scores.metrics["bleu"] == BLEU().corpus_score(found, [wanted]).score
    assert scores.signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|ver")
    assert scores.signatures["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|ver")


def test_texts_may_have_different_numbers_of_references():
    scores = translation_scores(
        [["one two three four", "a b c d"], ["e f g h"]], ["a b c d", "e f g h"]
    )
    assert scores.metrics["bleu"] == pytest.approx(100.0)
    assert scores.signatures["bleu"].startswith("nrefs:var")


def test_summaries_have_the_score_of_rouge_score_by_their_best_reference(byte_bpe):
    task = instruction_task("summarization", byte_bpe, TaskOptions())
    example = {"document": "x", "summaries": ["nothing works", "the printers printed again"]}
    scores = task.score_texts([example], ["the printer prints"])
    own = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    best = own.score("the printers printed again", "the printer prints")
    assert scores.metrics["rouge1"] == best["rouge1"].fmeasure
    assert scores.metrics["rouge_l"] == best["rougeL"].fmeasure
    assert set(scores.metrics) == set(scores.signatures) == {"rouge1", "rouge2", "rouge_l"}


def test_an_empty_answer_scores_nothing():
    assert set(rouge_scores([["a castle"]], [""]).metrics.values()) == {0.0}
    assert translation_scores([["a castle"]], [""]).metrics["bleu"] == 0.0


def test_as_many_texts_as_references(byte_bpe, kind):
    with pytest.raises(DataError, match="can't be scored"):
        BUILDERS[kind](byte_bpe, TaskOptions()).score_texts([EXAMPLES[kind]], [])
