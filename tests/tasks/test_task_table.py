"""The table of tasks."""

import pytest

from adapterhub.errors import RecipeError
from adapterhub.tasks.base import TaskOptions, join_predictions
from adapterhub.tasks.table import TASKS, build_task, fields_of, missing_fields

#: what reads images has tests of its own
TEXT_TASKS = [name for name, entry in TASKS.items() if not entry.media_field]
LABELS = {
    "text-classification": ["bad", "good"],
    "token-classification": ["O", "B-LOC"],
    "relation-extraction": ["Makes(e1,e2)", "Other"],
    "ranking": ["0", "1"],
    "question-answering": [],
    "dialogue": [],
    "translation": [],
    "summarization": [],
    "generative-question-answering": [],
}
#: of the head, where they are the task's own
HEAD = {"question-answering": ["start", "end"]}


@pytest.mark.parametrize("name", TEXT_TASKS)
def test_the_table_and_the_task_say_the_same(byte_bpe, name):
    task = build_task(name, byte_bpe, "decoder", LABELS[name], TaskOptions())
    assert task.name == name
    assert task.default_metric == TASKS[name].default_metric
    assert list(task.labels) == HEAD.get(name, LABELS[name])


def test_the_kind_of_backbone_decides_where_the_head_is_read(wordpiece, byte_bpe):
    example = {"text": "the castle", "tokens": ["harbour"]}

    def places(name, tokenizer, kind):
        task = build_task(name, tokenizer, kind, LABELS[name], TaskOptions())
        encoded = task.encode(example, 1, train=False)
        return list(encoded.select), len(encoded)

    assert places("text-classification", wordpiece, "encoder")[0] == [0]
    last, length = places("text-classification", byte_bpe, "decoder")
    assert last == [length - 1]
    assert places("token-classification", wordpiece, "encoder")[0] == [1]
    last, length = places("token-classification", byte_bpe, "decoder")
    assert last == [length - 1]
    assert length > 1


def test_an_unknown_task_is_named_with_its_neighbour():
    for ask in (fields_of, lambda name: missing_fields(name, [])):
        with pytest.raises(RecipeError) as caught:
            ask("text-clasification")
        assert str(caught.value) == (
            "task.name: there is no task 'text-clasification'. Did you mean 'text-classification'?"
        )


@pytest.mark.parametrize("name", ["translation", "summarization", "generative-question-answering"])
def test_tasks_that_generate_need_a_backbone_that_does(wordpiece, name):
    with pytest.raises(RecipeError, match=rf"task\.name: {name} needs a backbone that generates"):
        build_task(name, wordpiece, "encoder", [], TaskOptions())


@pytest.mark.parametrize("kind", ["encoder", "encoder-decoder"])
def test_dialogue_needs_a_decoder(wordpiece, kind):
    with pytest.raises(RecipeError, match=rf"dialogue needs a decoder, this backbone is an {kind}"):
        build_task("dialogue", wordpiece, kind, [], TaskOptions())


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("text-classification", {"instruction": "Sort it."}),
        ("dialogue", {"unanswerable": True}),
        ("translation", {"stride": 5}),
        ("question-answering", {"instruction": "Answer."}),
    ],
)
def test_a_setting_that_the_task_does_not_use_is_rejected(byte_bpe, name, setting):
    (key,) = setting
    with pytest.raises(RecipeError, match=rf"task\.{key}: {name} does not use this setting"):
        build_task(name, byte_bpe, "decoder", LABELS[name], TaskOptions(**setting))


def test_fields():
    assert fields_of("text-classification") == (("text", "label"), ("text_pair",))
    assert fields_of("token-classification") == (("tokens", "tags"), ())
    assert fields_of("dialogue") == (
        (),
        ("messages", "prompt", "response", "input", "system", "tools", "functions"),
    )


@pytest.mark.parametrize(
    ("name", "present", "missing"),
    [
        ("text-classification", ["text", "id"], ("label",)),
        ("dialogue", ["messages"], ()),
        ("dialogue", ["prompt", "response"], ()),
        ("dialogue", ["prompt"], ("response",)),
        ("dialogue", [], ("messages",)),
        ("summarization", ["document", "summaries"], ()),
        ("summarization", ["document"], ("summary",)),
        ("question-answering", ["context", "answers"], ("question",)),
    ],
)
def test_missing_fields(name, present, missing):
    assert missing_fields(name, present) == missing


def test_only_lists_are_joined():
    assert join_predictions([{"label": "a"}]) == {"label": "a"}
    assert join_predictions([{"spans": [1]}, {"spans": []}, {"spans": [2]}]) == {"spans": [1, 2]}
    with pytest.raises(ValueError, match="2 predictions"):
        join_predictions([{"label": "a"}, {"label": "b"}])
    with pytest.raises(ValueError, match="0 predictions"):
        join_predictions([])
