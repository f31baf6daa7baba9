"""Dialogues with tools, further roles, parts of content, and templates that drop reasoning."""

import copy
import json

import pytest

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.dialogue import Dialogue

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
#: in the manner of Qwen 2.5
WITH_TOOLS = """
{%- if tools %}<|start|>system
{% for t in tools %}{{ t | tojson }}
{% endfor %}<|end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}<|start|>user
<result>{{ m.content }}</result><|end|>
{% else %}<|start|>{{ m.role }}
{{ m.content }}
{%- for c in m.tool_calls or [] %}{% set f = c.function %}
{{- '<call>' }}{{ f.name }} {{ f.arguments | tojson }}</call>
{%- endfor %}<|end|>
{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|start|>assistant
{% endif %}"""
#: in the manner of Qwen 3: reasoning of earlier turns is left out
REASONING = """
{%- for m in messages %}<|start|>{{ m.role }}
{% if m.role == 'assistant' and loop.last %}<think>{{ m.reasoning_content or '' }}</think>
{%- endif %}
{{- m.content }}<|end|>
{% endfor %}
{%- if add_generation_prompt %}<|start|>assistant
{% endif %}"""


def user(text):
    return {"role": "user", "content": text}


def answer(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(arguments):
    return {"id": "1", "type": "function", "function": {"name": "look", "arguments": arguments}}


def task_with(tokenizer, template, **options):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return Dialogue(changed, TaskOptions(**options))


def learned(task, example):
    encoded = task.encode(example, 1, train=True)
    return task.tokenizer.decode(list(encoded.targets))


def read(task, example):
    return task.tokenizer.decode(list(task.encode(example, 1, train=True).input_ids))


MESSAGES = [
    user("lamp ?"),
    answer(None, tool_calls=[call('{"at": 1}')]),
    {"role": "tool", "tool_call_id": "1", "content": "a lamp"},
    answer("A lamp ."),
]
LEARNED = '<call>look {"at": 1}</call><|end|>A lamp .<|end|>'


def test_tools_their_calls_and_results_are_rendered_and_calls_are_learned(byte_bpe):
    task = task_with(byte_bpe, WITH_TOOLS)
    example = {"tools": TOOLS, "messages": MESSAGES}
    assert learned(task, example) == LEARNED
    rendered = read(task, example)
    whole = task.tokenizer.apply_chat_template(
        [MESSAGES[0], answer("", tool_calls=[call({"at": 1})]), *MESSAGES[2:]],
        tools=TOOLS,
        tokenize=False,
    )
    assert whole.startswith(rendered)
    assert '"name": "look"' in rendered
    assert "<result>a lamp</result>" in rendered


@pytest.mark.parametrize(
    "example",
    [
        {"tools": json.dumps(TOOLS), "messages": MESSAGES},
        {"functions": [TOOLS[0]["function"]], "messages": MESSAGES},
        {
            "tools": TOOLS,
            "messages": [
                MESSAGES[0],
                answer(None, function_call={"name": "look", "arguments": '{"at": 1}'}),
                {"role": "function", "name": "look", "content": "a lamp"},
                MESSAGES[3],
            ],
        },
    ],
    ids=["text", "functions", "function_call"],
)
def test_older_forms_of_tools_are_the_same(byte_bpe, example):
    task = task_with(byte_bpe, WITH_TOOLS)
    assert learned(task, example) == LEARNED
    assert read(task, example) == read(task, {"tools": TOOLS, "messages": MESSAGES})


def test_a_prompt_has_the_tools_that_training_saw(byte_bpe):
    task = task_with(byte_bpe, WITH_TOOLS, system_prompt="Be kind.")
    example = {"tools": TOOLS, "messages": MESSAGES[:2]}
    prompt, reference = task.question_and_reference(example, 1)
    assert reference == '<call>look {"at": 1}</call>'
    encoded = task.encode(example, 1, train=True)
    ids = task.prompt_ids([dict(each) for each in prompt])
    assert list(encoded.input_ids[: len(ids)]) == ids
    # after the result of a tool the assistant answers
    later = task.question_and_reference({"tools": TOOLS, "messages": MESSAGES}, 1)[0]
    assert "<result>a lamp</result>" in task.tokenizer.decode(task.prompt_ids(later))


def test_tools_stay_when_the_oldest_turns_are_dropped(byte_bpe):
    long = {"tools": TOOLS, "messages": [user("old"), answer("older"), *MESSAGES]}
    whole = task_with(byte_bpe, WITH_TOOLS).encode(long, 1, train=True)
    task = task_with(byte_bpe, WITH_TOOLS, max_length=len(whole) - 1)
    rendered = read(task, long)
    assert "older" not in rendered
    assert '"name": "look"' in rendered


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"messages": [user("a"), answer("b")], "tools": TOOLS}, "has tools, which the chat temp"),
        ({"messages": [user("a"), answer("b", tool_calls=[call({})])]}, "leaves out a call of a"),
        (
            {"messages": [user("a"), answer("b", reasoning_content="since")]},
            "message 2: the chat template of the backbone leaves out reasoning_content",
        ),
        ({"messages": [user("a"), answer("b", tool_calls=[{}])]}, "needs a function with a name"),
        (
            {"messages": [user("a"), answer("b", tool_calls=[call("{")])]},
            "example 1, field 'messages': the arguments of a call are not JSON",
        ),
        ({"messages": [user("a"), answer("b")], "tools": "{"}, "field 'tools': is not JSON"),
        ({"messages": [user("a"), answer("b")], "tools": [1]}, "must be a list of tools"),
        ({"messages": [user("a"), answer(None)]}, "a message has no text under 'content'"),
        (
            {"messages": [user([{"type": "image_url", "image_url": {}}]), answer("b")]},
            "a part of the content is 'image_url', and only text is read",
        ),
    ],
)
def test_what_the_template_would_drop_is_refused(byte_bpe, example, message):
    with pytest.raises(DataError) as caught:
        Dialogue(byte_bpe, TaskOptions()).encode(example, 1, train=True)
    assert message in str(caught.value)


def test_a_result_that_the_template_drops_is_refused(byte_bpe):
    task = task_with(byte_bpe, WITH_TOOLS.replace("{{ m.content }}</result>", "</result>"))
    with pytest.raises(DataError, match=r"message 3: .* leaves out the result of a tool"):
        task.encode({"messages": MESSAGES}, 1, train=True)


def test_developers_and_parts_of_text(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    parts = [{"type": "text", "text": "pri"}, {"type": "text", "text": "nt"}]
    other = {"messages": [{"role": "developer", "content": "x"}, user(parts), answer("try")]}
    plain = {"messages": [{"role": "system", "content": "x"}, user("print"), answer("try")]}
    assert read(task, other) == read(task, plain)


def test_only_the_last_answer_is_learned_where_a_recipe_says_so(byte_bpe):
    messages = [user("a"), answer("one"), user("b"), answer("two"), user("c")]
    task = Dialogue(byte_bpe, TaskOptions(learned_turns="last"))
    assert learned(task, {"messages": messages}) == "two<|end|>"
    assert "one" in read(task, {"messages": messages})
    messages[3]["weight"] = 0
    assert task.encode({"messages": messages}, 1, train=True) is None


def test_templates_that_drop_earlier_reasoning_learn_the_last_answer_or_refuse(byte_bpe):
    first, last = answer("one"), answer("two", reasoning_content="since")
    example = {"messages": [user("a"), first, user("b"), last]}
    every = task_with(byte_bpe, REASONING)
    with pytest.raises(RecipeError, match=r"Set task\.learned_turns: last"):
        every.encode(example, 1, train=True)
    task = task_with(byte_bpe, REASONING, learned_turns="last")
    assert learned(task, example) == "<think>since</think>two<|end|>"
    encoded = task.encode(example, 1, train=True)
    prompt = task.prompt_ids(task.question_and_reference(example, 1)[0])
    assert list(encoded.input_ids[: len(prompt)]) == prompt
    # one answer alone is exact with either setting
    single = {"messages": [user("b"), last]}
    assert learned(every, single) == learned(task, example)
