"""Texts continued, embedded, labelled and ranked."""

import base64

import numpy as np
import openai
import pytest


@pytest.fixture(scope="module")
def labelling(served):
    for ref in ("moods", "things"):
        answer = served.post("/v1/adapters/load", {"ref": ref})
        assert answer.status_code == 200, answer.text
    return served


def test_each_prompt_has_its_answers(served):
    answer = served.client.completions.create(
        model="alpha", prompt=["the film was", "the meal"], max_tokens=4, n=2, logprobs=2, seed=3
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    report = answer.choices[0].logprobs
    assert len(report.tokens) == len(report.token_logprobs) == len(report.text_offset)
    assert all(len(each) <= 2 for each in report.top_logprobs)


def test_token_ids_and_their_text_have_the_same_continuation(served):
    options = dict(model="alpha", max_tokens=5, temperature=0)
    ids = list(served.engine.prompt_processor.encode("the film was"))
    text, same = (
        served.client.completions.create(prompt=prompt, **options).choices[0].text
        for prompt in ("the film was", ids)
    )
    assert text == same


def test_a_completion_streams(served):
    options = dict(model="beta", prompt="the day", max_tokens=6, temperature=0)
    whole = served.client.completions.create(**options)
    chunks = list(
        served.client.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_vectors_are_the_same_in_both_formats_and_differ_by_adapter(served):
    texts = ["the film was good", "the meal"]
    numbers = served.client.embeddings.create(model="alpha", input=texts, encoding_format="float")
    raw = served.post(
        "/v1/embeddings", {"model": "alpha", "input": texts, "encoding_format": "base64"}
    ).json()
    for item, encoded in zip(numbers.data, raw["data"], strict=True):
        vector = np.frombuffer(base64.b64decode(encoded["embedding"]), dtype="<f4")
        assert np.allclose(vector, item.embedding, atol=1e-6)
        assert np.isclose(np.linalg.norm(vector), 1, atol=1e-4)
    base = served.client.embeddings.create(model=served.base, input=texts)
    assert not np.allclose(base.data[0].embedding, numbers.data[0].embedding, atol=1e-3)


def test_texts_are_classified_in_one_request_or_by_different_adapters(labelling):
    one = labelling.post("/v1/classify", {"model": "moods", "input": "the film was good"})
    (found,) = one.json()["data"]
    assert found["digest"] == labelling.digest("moods") == one.headers["x-adapter-digest"]
    assert found["label"] in ("glad", "sad", "odd")
    assert found["score"] == max(found["scores"].values())
    mixed = labelling.post(
        "/v1/classify",
        {
            "items": [
                {"model": "moods", "input": "the film was good"},
                {"model": "moods@1", "input": "the day was dull"},
            ]
        },
    ).json()
    assert mixed["data"][0]["scores"] == pytest.approx(found["scores"], abs=1e-4)
    assert [each["index"] for each in mixed["data"]] == [0, 1]


def test_spans_have_offsets_of_their_text(labelling):
    text = "the film was good the meal was bad"
    (found,) = labelling.post("/v1/tag", {"model": "things", "input": [text]}).json()["data"]
    assert found["spans"]
    for span in found["spans"]:
        assert text[span["start"] : span["end"]] == span["text"]


def test_the_base_model_does_not_classify(labelling):
    answer = labelling.post("/v1/classify", {"model": labelling.base, "input": "good"})
    assert answer.status_code == 400
    assert labelling.post("/v1/tag", {"model": "moods", "input": "good"}).status_code == 400


@pytest.mark.parametrize("model", ["alpha", "moods"])
def test_documents_are_ranked(labelling, model):
    documents = ["the meal was bad", "the film was good", "the song"]
    answer = labelling.post(
        "/v1/rerank",
        {"model": model, "query": "the film was good", "documents": documents, "top_n": 2},
    ).json()
    scores = [each["relevance_score"] for each in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 2
    if model == "alpha":
        assert answer["results"][0]["index"] == 1


def test_tools_that_the_template_does_not_support_are_rejected_unless_required(served):
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        served.client.chat.completions.create(
            model="alpha", messages=[{"role": "user", "content": "the film"}], tools=[tool]
        )
