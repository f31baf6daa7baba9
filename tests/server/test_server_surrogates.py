"""Lone surrogates and unexpected faults have an error response on every route."""

import json

import pytest

LONE = "\ud800 film"
BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": LONE}]},
    "/v1/completions": {"prompt": ["the film", LONE]},
    "/v1/embeddings": {"input": LONE},
    "/v1/rerank": {"query": "a film", "documents": [LONE]},
    "/v1/classify": {"input": {"text": "a film", "text_pair": LONE}},
    "/v1/tag": {"input": LONE},
    "/v1/generate": {"input": {"source": LONE}},
    "/v1/adapters/load": {"ref": LONE},
    "/v1/adapters/alias": {"ref": "alpha", "alias": "prod", "why": LONE},
}


@pytest.mark.parametrize("path", BODIES)
def test_a_lone_surrogate_is_refused(served, path):
    named = {} if path.startswith("/v1/adapters") else {"model": "alpha"}
    answer = served.request("POST", path, content=json.dumps(named | BODIES[path]))
    assert answer.status_code == 400, answer.text
    assert "unicode" in answer.json()["error"]["message"]


def test_a_lone_surrogate_in_a_tool_is_refused(served, monkeypatch):
    monkeypatch.setattr(served.chats, "supports_tools", True)
    template = served.backbone.tokenizer.chat_template
    with_tools = "{{ tools[0]['function']['description'] }}" + template
    monkeypatch.setattr(served.backbone.tokenizer, "chat_template", with_tools)
    parameters = {"type": "object", "description": LONE}
    function = {"name": "f", "description": "a film", "parameters": parameters}
    body = {
        "model": "alpha",
        "messages": [{"role": "user", "content": "a film"}],
        "tools": [{"type": "function", "function": function}],
        "max_tokens": 1,
    }
    answer = served.request("POST", "/v1/chat/completions", content=json.dumps(body))
    assert answer.status_code == 200
    monkeypatch.setattr(
        served.backbone.tokenizer,
        "chat_template",
        with_tools.replace("['description']", "['parameters']['description']"),
    )
    answer = served.request("POST", "/v1/chat/completions", content=json.dumps(body))
    assert (answer.status_code, "lone surrogate" in answer.text) == (400, True)


def test_an_unexpected_fault_has_a_whole_response(served, monkeypatch):
    def broken(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(type(served.server.names), "resolve", broken)
    answer = served.post("/v1/embeddings", {"model": "alpha", "input": "the film"})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the server failed. Its log has the reason"
