"""A real instruction-tuned backbone: answers that follow a schema, and calls of tools."""

import json

import pytest
from http_server_helpers import running_server

from adapterhub.registry import Registry

pytestmark = pytest.mark.weights

ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    registry = Registry(tmp_path_factory.mktemp("chat-backbone"))
    with running_server(
        "smollm2-135m-instruct", registry, max_num_seqs=4, kv_cache_tokens=4096
    ) as served:
        yield served


@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_follows_its_schema(served, streams):
    answer = served.client.chat.completions.create(
        model="smollm2-135m-instruct",
        messages=[{"role": "user", "content": "Name a colour."}],
        max_tokens=40,
        stream=streams,
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": COLOUR}},
    )
    text = (
        "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        if streams
        else answer.choices[0].message.content
    )
    assert json.loads(text)["colour"] in ("red", "blue")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_required_call_is_a_call(served, choice):
    options = dict(
        model="smollm2-135m-instruct",
        messages=ASK,
        max_tokens=60,
        tools=[WEATHER],
        tool_choice=choice,
        temperature=0,
    )
    answer = served.client.chat.completions.create(**options).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    chunks = list(served.client.chat.completions.create(**options, stream=True))
    (delta,) = [c.choices[0].delta for c in chunks if c.choices[0].delta.tool_calls]
    assert delta.tool_calls[0].function.arguments == call.function.arguments


def test_a_json_object_is_json(served):
    answer = served.client.chat.completions.create(
        model="smollm2-135m-instruct",
        messages=[{"role": "user", "content": "Give me a small JSON object with one key."}],
        max_tokens=200,
        temperature=0,
        response_format={"type": "json_object"},
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
