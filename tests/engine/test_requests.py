"""Requests in the engine: sampled, streamed, constrained, stopped, each failing alone."""

import asyncio
import re
from contextlib import aclosing

import pytest
import torch
from engine_helpers import greedy_params, make_peer, some_specs

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.async_engine import AsyncEngine
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import EngineError, NotFoundError, RequestError
from adapterhub.specs import QuantizationSpec

SIZES = EngineConfig(
    max_num_seqs=6, max_num_batched_tokens=32, kv_cache_tokens=256, block_size=4, rank_slots=32
)
PROMPT = "the film was good"


@pytest.fixture(scope="module")
def engine(decoder):
    built = Engine(load_backbone(str(decoder), QuantizationSpec("none", "float32")), SIZES)
    for number, spec in enumerate(some_specs()[:2]):
        built.load_weights(
            make_peer(decoder, spec, number).weights, key=f"k{number}", name=f"a{number}"
        )
    yield built
    built.close()


def words(engine, tokens):
    return engine.backbone.tokenizer.decode(tokens, skip_special_tokens=True)


def test_text_is_what_the_tokens_say(engine):
    (done,) = engine.generate([PROMPT], ["a0"], greedy_params(6))
    assert len(done.tokens) == 6
    assert done.text == words(engine, done.tokens)
    assert (done.finish_reason, done.error) == ("length", None)
    assert done.prompt_tokens == len(engine.backbone.tokenizer(PROMPT)["input_ids"])


def test_same_seed_gives_the_same_text_in_any_batch(engine):
    params = SamplingParams(seed=11, temperature=1.5, max_tokens=12, ignore_eos=True)
    (alone,) = engine.generate([PROMPT], ["a1"], params)
    others = SamplingParams(temperature=1.5, max_tokens=20, ignore_eos=True)
    beside = engine.generate(
        ["the day", PROMPT, "the song was dull"], ["a0", "a1", None], [others, params, others]
    )
    assert beside[1].tokens == alone.tokens
    (again,) = engine.generate(
        [PROMPT], ["a1"], SamplingParams(seed=12, temperature=1.5, max_tokens=12, ignore_eos=True)
    )
    assert again.tokens != alone.tokens


def test_drawn_seed_is_reported_and_reproduces_the_text(engine):
    params = {"temperature": 1.5, "max_tokens": 12, "ignore_eos": True}
    (first,) = engine.generate([PROMPT], [None], SamplingParams(**params))
    (again,) = engine.generate([PROMPT], [None], SamplingParams(seed=first.seed, **params))
    assert again.tokens == first.tokens


def test_several_answers_differ_and_share_the_prompt(engine):
    params = SamplingParams(n=4, seed=3, temperature=2.0, max_tokens=10, ignore_eos=True)
    (done,) = engine.generate([PROMPT], ["a0"], params)
    assert len({answer.tokens for answer in done.outputs}) == 4
    assert done.tokens == done.outputs[0].tokens


def test_stop_string_ends_the_text_and_is_cut_off(engine):
    (whole,) = engine.generate([PROMPT], ["a0"], greedy_params(16))
    later = whole.text.split()[2]
    (stopped,) = engine.generate([PROMPT], ["a0"], greedy_params(16, stop=(later,)))
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.text[: whole.text.index(later)]


def test_end_token_is_neither_text_nor_among_the_tokens(engine):
    (whole,) = engine.generate([PROMPT], ["a0"], greedy_params(16))
    end = whole.tokens[3]
    (stopped,) = engine.generate([PROMPT], ["a0"], greedy_params(16, stop_token_ids=(end,)))
    assert stopped.finish_reason == "stop"
    assert stopped.tokens == whole.tokens[: whole.tokens.index(end)]
    assert stopped.text == words(engine, stopped.tokens)


def test_the_backbones_own_end_token_ends_a_text(engine):
    end = engine.backbone.tokenizer.eos_token_id
    assert end in engine.prompt_processor.end_ids
    params = SamplingParams(seed=1, temperature=5.0, max_tokens=200)
    (done,) = engine.generate([PROMPT], [None], params)
    assert done.finish_reason == "stop"
    assert end not in done.tokens


def test_logprobs_come_with_every_token(engine):
    (done,) = engine.generate([PROMPT], ["a1"], greedy_params(5, logprobs=2))
    reports = done.outputs[0].logprobs
    assert len(reports) == 5
    for token, report in zip(done.tokens, reports, strict=True):
        assert report.best[0] == (token, report.chosen)


def test_an_invalid_request_fails_alone(engine):
    prompts = [PROMPT, PROMPT, [7] * 300, PROMPT, [10**7]]
    found = engine.generate(prompts, ["a0", "nobody", "a0", "a1", None], greedy_params(4))
    kinds = [type(one.error) for one in found]
    assert kinds == [type(None), NotFoundError, RequestError, type(None), RequestError]
    assert [one.finish_reason for one in found] == ["length", "error", "error", "length", "error"]
    assert found[0].tokens == engine.generate([PROMPT], ["a0"], greedy_params(4))[0].tokens


def test_nan_is_an_error_of_its_sequence_alone(decoder):
    engine = Engine(load_backbone(str(decoder), QuantizationSpec("none", "float32")), SIZES)
    peers = [make_peer(decoder, spec, number) for number, spec in enumerate(some_specs()[:2])]
    bad = {key: tensor.clone() for key, tensor in peers[1].weights.tensors.items()}
    next(iter(bad.values()))[0, 0] = torch.nan
    engine.load_weights(peers[0].weights, key="good", name="good")
    engine.load_weights(AdapterWeights(peers[1].weights.spec, bad), key="bad", name="bad")
    prompt = list(range(6, 16))
    found = engine.generate([prompt, prompt, prompt], ["good", "bad", None], greedy_params(6))
    assert [one.finish_reason for one in found] == ["length", "error", "length"]
    assert "NaN or infinity" in str(found[1].error)
    assert list(found[0].tokens) == peers[0].greedy(prompt, 6)[0]
    # what the bad sequence left in the cache is read by no other
    again = engine.generate([prompt, prompt], [None, "good"], greedy_params(6))
    assert [one.tokens for one in again] == [found[2].tokens, found[0].tokens]
    engine.close()


def test_a_failed_step_ends_its_sequences_and_later_ones_run(engine, monkeypatch):
    expected = engine.generate([PROMPT], ["a0"], greedy_params(4))[0].tokens
    before = engine.stats().free_blocks

    def broken(_chunks):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.core, "model_runner", broken)
        (failed,) = engine.generate([PROMPT], ["a0"], greedy_params(4))
    assert isinstance(failed.error, EngineError)
    assert "out of memory" in str(failed.error)
    assert engine.stats().free_blocks == before
    assert engine.generate([PROMPT], ["a0"], greedy_params(4))[0].tokens == expected


def test_preempted_sequences_draw_what_they_would_have_drawn(decoder):
    tight = EngineConfig(
        max_num_seqs=4, max_num_batched_tokens=16, kv_cache_tokens=64, block_size=4
    )
    engine = Engine(load_backbone(str(decoder), QuantizationSpec("none", "float32")), tight)
    params = [
        SamplingParams(seed=seed, temperature=1.3, max_tokens=14, ignore_eos=True)
        for seed in range(4)
    ]
    prompts = [[7 + seed] * 12 for seed in range(4)]
    together = engine.generate(prompts, [None] * 4, params)
    assert engine.stats().preemptions
    for prompt, one, found in zip(prompts, params, together, strict=True):
        assert engine.generate([prompt], [None], one)[0].tokens == found.tokens
    engine.close()


@pytest.mark.weights
def test_constrained_text_beside_free_text():
    engine = Engine(load_backbone("smollm2-135m-instruct", QuantizationSpec("none", "float32")))
    date = r"\d{4}-\d{2}-\d{2}"
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Ann", "Bob"]}, "old": {"type": "boolean"}},
        "required": ["name", "old"],
        "additionalProperties": False,
    }
    free = SamplingParams(temperature=0, max_tokens=8)
    found = engine.generate(
        ["The day is", "Hello", "Describe Ann as JSON: ", "x"],
        [None] * 4,
        [
            SamplingParams(temperature=0, regex=date, max_tokens=30),
            free,
            SamplingParams(temperature=1.0, seed=1, json_schema=schema, max_tokens=60),
            SamplingParams(json_schema={"type": "strin"}),
        ],
    )
    alone = engine.generate(["Hello"], [None], free)
    engine.close()
    assert re.fullmatch(date, found[0].text)
    assert found[0].finish_reason == "stop"
    assert found[1].tokens == alone[0].tokens
    assert re.fullmatch(r'\{\s*"name":\s*"(Ann|Bob)",\s*"old":\s*(true|false)\s*\}', found[2].text)
    assert isinstance(found[3].error, RequestError)


def run(engine, use):
    """Use an asyncio engine, which is closed after."""

    async def main():
        served = AsyncEngine(engine)
        try:
            return await asyncio.wait_for(use(served), 60)
        finally:
            await served.close()

    return asyncio.run(main())


def test_many_asyncio_tasks_generate_at_once(engine):
    names = ["a0", None, "a1"] * 4
    prompts = [[7 + i, 9, 12] for i in range(12)]
    expected = engine.generate(prompts, names, greedy_params(7))

    async def use(served):
        both = zip(prompts, names, strict=True)
        return await asyncio.gather(*[served.generate(p, n, greedy_params(7)) for p, n in both])

    assert [one.tokens for one in run(engine, use)] == [one.tokens for one in expected]


def test_deltas_of_a_stream_are_the_text(engine):
    params = SamplingParams(n=2, seed=5, temperature=1.5, max_tokens=9, ignore_eos=True)
    (expected,) = engine.generate([PROMPT], ["a0"], params)

    async def use(served):
        texts, ends = ["", ""], [None, None]
        async for delta in served.stream(PROMPT, "a0", params):
            texts[delta.index] += delta.text
            ends[delta.index] = delta.finish_reason or ends[delta.index]
        return texts, ends

    texts, ends = run(engine, use)
    assert texts == [answer.text for answer in expected.outputs]
    assert ends == ["length", "length"]


def test_cancelled_client_releases_its_sequences(engine):
    free = engine.stats().free_blocks

    async def use(served):
        async with aclosing(served.stream(PROMPT, "a0", greedy_params(200))) as stream:
            async for _delta in stream:
                break
        task = asyncio.create_task(served.generate(PROMPT, "a1", greedy_params(200)))
        while not (await served.call(Engine.stats)).running:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stats = await served.call(Engine.stats)
        while stats.running or stats.waiting:
            stats = await served.call(Engine.stats)
        return stats.free_blocks

    assert run(engine, use) == free


def test_errors_are_raised_where_they_are_awaited(engine):
    async def use(served):
        with pytest.raises(NotFoundError):
            await served.generate(PROMPT, "nobody", greedy_params(3))
        with pytest.raises(RequestError):
            await served.generate([7] * 300, "a0", greedy_params(3))
        with pytest.raises(NotFoundError):
            await served.call(lambda engine: engine.unload("nobody"))
        return await served.generate(PROMPT, "a0", greedy_params(3))

    assert run(engine, use).finish_reason == "length"


def test_closing_ends_waiting_requests(engine):
    async def main():
        served = AsyncEngine(engine)
        task = asyncio.create_task(served.generate(PROMPT, "a0", greedy_params(220)))
        while not (await served.call(Engine.stats)).running:
            await asyncio.sleep(0)
        await served.close()
        with pytest.raises(EngineError, match="closed"):
            await task
        with pytest.raises(EngineError, match="closed"):
            await served.generate(PROMPT, "a0", greedy_params(3))

    asyncio.run(asyncio.wait_for(main(), 60))
    assert not engine.busy


def test_equal_seeds_of_a_lone_request_are_equal_bit_by_bit_whatever_is_cached(engine):
    params = SamplingParams(temperature=1.0, seed=5, n=3, max_tokens=6, logprobs=1, ignore_eos=True)
    for length in (21, 32, 33, 70):
        prompt = [6 + (length * 7 + at * at) % 50 for at in range(length)]
        before = engine.stats().computed_tokens
        first, *later = (engine.generate([prompt], ["a0"], params)[0].outputs for _ in range(3))
        assert later == [first, first], length
        # the prompt is computed once for all answers, and its last block again for each
        block = engine.config.block_size
        cached = (length - 1) // block * block
        computed = cached + 9 * (length - cached) + 9 * 5
        assert engine.stats().computed_tokens - before == computed
