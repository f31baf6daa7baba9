"""OpenAI's own client against the server."""

import json

import openai
import pytest

HELLO = [{"role": "user", "content": "the film was good"}]


def test_models_are_the_backbone_and_its_adapters_with_their_parent(served):
    models = {model.id: model for model in served.client.models.list()}
    assert models[served.base].parent is None
    for name in ("alpha", "alpha@1", "alpha@prod", "beta", "moods"):
        assert models[name].parent == served.base
    assert not any(name.startswith("foreign") for name in models)
    paths = models[served.base].forward_paths
    assert paths["packed"]
    assert paths["paged"]
    assert paths["reasons"] == []


def test_a_chat_response_names_its_adapters(served):
    raw = served.client.chat.completions.with_raw_response.create(
        model="alpha@prod", messages=HELLO, max_tokens=5, temperature=0
    )
    answer = raw.parse()
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    digest = served.digest("alpha")
    assert raw.headers["x-adapter-digest"] == digest
    assert raw.headers["x-backbone-fingerprint"] == served.backbone.fingerprint
    assert raw.headers["x-request-id"]
    assert answer.adapterhub["adapters"] == [{"ref": "alpha@prod", "digest": digest, "weight": 1.0}]


@pytest.mark.parametrize("model", ["alpha", "beta", "alpha@prod*0.7+beta*0.3", None])
def test_a_stream_is_the_answer_in_chunks_with_usage_last(served, model):
    options = dict(
        model=model or served.base,
        messages=HELLO,
        max_tokens=8,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    whole = served.client.chat.completions.create(**options)
    chunks = list(
        served.client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 8


def test_the_blend_is_neither_of_its_adapters(served):
    def send(model):
        return served.client.chat.completions.create(
            model=model, messages=HELLO, max_tokens=8, temperature=0, logprobs=True
        )

    blend, alpha, beta = send("alpha*0.7+beta*0.3"), send("alpha"), send("beta")
    first = [each.choices[0].logprobs.content[0].logprob for each in (blend, alpha, beta)]
    assert len(set(first)) == 3
    assert [part["weight"] for part in blend.adapterhub["adapters"]] == [0.7, 0.3]


def test_without_options_the_last_chunk_has_the_usage(served):
    stream = served.client.chat.completions.create(
        model="alpha", messages=HELLO, max_tokens=3, stream=True
    )
    chunks = list(stream)
    assert chunks[-1].usage.completion_tokens >= 1
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_the_same_seed_gives_the_same_answers_and_n_of_them(served):
    def send(seed):
        answer = served.client.chat.completions.create(
            model="alpha", messages=HELLO, max_tokens=12, n=3, seed=seed, temperature=2.0
        )
        return [choice.message.content for choice in answer.choices]

    assert len(send(1)) == 3
    assert send(1) == send(1)
    assert send(1) != send(2)


def test_text_ends_before_a_stop_string(served):
    options = dict(model="beta", messages=HELLO, max_tokens=12, temperature=0)
    words = served.client.chat.completions.create(**options).choices[0].message.content.split()
    stop = words[1]
    answer = served.client.chat.completions.create(**options, stop=[stop])
    assert answer.choices[0].finish_reason == "stop"
    assert stop not in answer.choices[0].message.content


def test_an_unknown_adapter_is_not_found_with_a_suggestion(served):
    with pytest.raises(openai.NotFoundError) as caught:
        served.client.chat.completions.create(model="alpa", messages=HELLO)
    assert "alpha" in str(caught.value)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        served.client.chat.completions.create(model="GPT 4 turbo!", messages=HELLO, stream=True)


def test_an_adapter_of_another_backbone_is_a_conflict(served):
    with pytest.raises(openai.ConflictError) as caught:
        served.client.chat.completions.create(model="foreign", messages=HELLO)
    assert "sha256:other" in str(caught.value)


def test_a_too_long_prompt_is_an_error_with_both_lengths(served):
    long = [{"role": "user", "content": "the film " * 600}]
    with pytest.raises(openai.BadRequestError) as caught:
        served.client.chat.completions.create(model="alpha", messages=long)
    assert str(served.server.backbones.first.context_length) in str(caught.value)
    assert "12" in str(caught.value)


def test_fields_that_routers_add_have_no_other_value(served):
    body = {"model": "alpha", "messages": HELLO, "max_tokens": 2, "temperature": 0}
    plain = served.post("/v1/chat/completions", body).json()["choices"]
    added = dict.fromkeys(
        ("no_stop_trim", "continue_final_message", "return_hidden_states"), False
    ) | dict.fromkeys(
        ("skip_special_tokens", "separate_reasoning", "stream_reasoning", "include_reasoning"), True
    )
    answer = served.post("/v1/chat/completions", body | added)
    assert answer.json()["choices"] == plain
    for name, value in added.items():
        refused = served.post("/v1/chat/completions", {**body, name: not value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)


def test_an_unknown_field_is_an_error_in_openais_form(served):
    answer = served.post(
        "/v1/chat/completions", {"model": "alpha", "messages": HELLO, "temprature": 1}
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == "temprature"


def test_a_stream_ends_with_done(served):
    answer = served.post(
        "/v1/chat/completions",
        {"model": "beta", "messages": HELLO, "max_tokens": 2, "stream": True},
    )
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: ")) for line in lines[:-1])
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_body_that_is_not_declared_as_json_is_an_error(served):
    options = {"content": b'{"model": "alpha"}', "headers": {"content-type": "text/plain"}}
    answer = served.request("POST", "/v1/completions", **options)
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["error"]["message"]
