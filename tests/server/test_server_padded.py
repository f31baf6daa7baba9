"""A backbone without a fast path is served like any other: chat and completions, streamed."""

import pytest
from http_server_helpers import running_server
from padded_architectures import save_architecture

from adapterhub.registry import Registry

ASK = [{"role": "user", "content": "the film was good"}]


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    folder = save_architecture(tmp_path_factory.mktemp("backbone") / "lfm2", "lfm2")
    registry = Registry(tmp_path_factory.mktemp("padded"))
    with running_server(folder, registry) as served:
        yield served


def test_chat_and_its_stream_give_the_same_text(padded):
    assert not padded.engine._engine.core.paged
    create = padded.client.chat.completions.create
    options = {"model": padded.base, "messages": ASK, "max_tokens": 12, "temperature": 0}
    whole = create(**options)
    chunks = list(create(**options, stream=True))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == whole.choices[0].message.content
    assert streamed
    assert whole.usage.prompt_tokens > 0


def test_completions_and_their_stream_give_the_same_text(padded):
    create = padded.client.completions.create
    options = {"model": padded.base, "prompt": "the day was", "seed": 7, "max_tokens": 12, "n": 2}
    whole = create(**options, temperature=1.0)
    texts = ["", ""]
    for chunk in create(**options, temperature=1.0, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert padded.stats().running == 0
