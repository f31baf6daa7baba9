"""Long texts are refused before they are tokenized, on every route that tokenizes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from http_server_helpers import SMALL

from adapterhub.server import tokenization

#: Longer than a context of the longest tokens.
LONG = "the film was good and " * 20_000


@pytest.fixture
def tokenized(served, monkeypatch):
    """Sizes of the texts that are tokenized."""
    sizes = []
    processor = served.engine.prompt_processor
    encode = type(processor).encode

    def counted(self, text, **options):
        sizes.append(len(text))
        return encode(self, text, **options)

    monkeypatch.setattr(type(processor), "encode", counted)
    return sizes


def bodies(base, text):
    chat = [{"role": "user", "content": text}]
    parts = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    yield "/v1/chat/completions", {"model": base, "messages": chat}
    yield "/v1/chat/completions", {"model": base, "messages": parts, "stream": True}
    yield "/v1/completions", {"model": base, "prompt": text}
    yield "/v1/completions", {"model": base, "prompt": ["short", text]}
    yield "/v1/embeddings", {"model": base, "input": ["short", text]}
    yield "/v1/rerank", {"model": base, "query": "short", "documents": [text]}
    yield "/v1/classify", {"model": "moods", "input": text}
    yield "/v1/classify", {"model": "moods", "input": {"text": "short", "text_pair": text}}
    yield "/v1/tag", {"model": "things", "input": ["short", text]}
    yield "/v1/answer", {"model": "things", "input": {"question": text, "context": "short"}}
    yield "/v1/generate", {"model": "alpha", "input": {"source": text}}


def test_a_text_that_cannot_fit_is_refused_by_its_size(served, tokenized):
    for path, body in bodies(served.base, LONG):
        answer = served.post(path, body)
        assert answer.status_code == 400, (path, answer.text)
        message = answer.json()["error"]["message"]
        assert "bytes" in message or "at most 262144 characters" in message, message
    assert max(tokenized, default=0) < 100


def test_a_long_conversation_is_refused_by_its_number_of_messages(served, tokenized):
    messages = [{"role": "user", "content": "a"}] * (SMALL["kv_cache_tokens"] + 1)
    answer = served.post("/v1/chat/completions", {"model": served.base, "messages": messages})
    assert "messages, the limit is" in answer.json()["error"]["message"]
    assert answer.status_code == 400
    assert not tokenized


def test_long_texts_that_may_fit_wait_in_the_turn_of_their_caller(served, monkeypatch):
    costs = []
    admit = served.server.access.admit

    def recorded(caller, adapter, cost=1, **options):
        costs.append(cost)
        return admit(caller, adapter, cost, **options)

    monkeypatch.setattr(served.server.access, "admit", recorded)
    monkeypatch.setattr(tokenization, "_CHUNK", 100)
    text = "the film " * 40
    with ThreadPoolExecutor(4) as pool:
        body = {"model": served.base, "prompt": text, "max_tokens": 1}
        answers = list(pool.map(lambda _: served.post("/v1/completions", body), range(4)))
    for answer in answers:
        assert answer.status_code == 200
    assert costs.count(len(text) / 4) == 4
