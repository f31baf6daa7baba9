"""Texts that end a turn in the chat template end the answers of a server."""

import json

from adapterhub.server.prompts import ChatPrompts

ASK = {
    "messages": [{"role": "user", "content": "the film"}],
    "max_tokens": 12,
    "temperature": 2,
    "seed": 3,
}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} the day\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def chat(served, **changes):
    return served.post("/v1/chat/completions", {"model": "alpha", **ASK, **changes})


def streamed(answer):
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    choices = [json.loads(event)["choices"][0] for event in events]
    return "".join(each["delta"].get("content", "") for each in choices), choices[-1]


def test_the_stops_are_those_of_the_template(served):
    tokenizer = served.backbone.tokenizer
    before, tokenizer.chat_template = tokenizer.chat_template, TEMPLATE
    try:
        ids, texts = ChatPrompts(tokenizer, served.engine.prompt_processor).stops
    finally:
        tokenizer.chat_template = before
    assert texts == ("the day",)
    assert ids == {tokenizer.eos_token_id}


def content(answer):
    return answer.json()["choices"][0]["message"]["content"]


def test_an_answer_ends_where_the_template_ends_a_turn(served, monkeypatch):
    answers = {seed: content(chat(served, seed=seed)) for seed in range(12)}
    seed, whole = max(answers.items(), key=lambda each: len(set(each[1].split())))
    word = next(each for each in whole.split() if each != whole.split()[0])
    ids, _ = served.chats.stops
    monkeypatch.setitem(vars(served.chats), "stops", (ids, (word,)))
    (choice,) = chat(served, seed=seed).json()["choices"]
    cut = whole[: whole.index(word)]
    assert (choice["message"]["content"], choice["finish_reason"]) == (cut, "stop")
    text, last = streamed(chat(served, seed=seed, stream=True))
    assert (text, last["finish_reason"]) == (cut, "stop")
    # a client may ask for everything
    assert content(chat(served, seed=seed, ignore_eos=True)).startswith(whole)
