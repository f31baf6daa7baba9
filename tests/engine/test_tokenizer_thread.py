"""One thread tokenizes everything, the shortest text first, beside the steps of the engine."""

import asyncio
import time
from threading import Event

import pytest
from pooling_helpers import make_labeller

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.async_engine import AsyncEngine
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.tokenizer_thread import TokenizerThread
from adapterhub.errors import EngineClosedError, RequestError
from adapterhub.specs import LoraSpec, QuantizationSpec


def test_the_shortest_waiting_text_goes_first():
    thread, begun, go, order = TokenizerThread(), Event(), Event(), []

    def first():
        begun.set()
        go.wait(10)

    thread.submit(10**6, first)
    begun.wait(10)
    jobs = {size: thread.submit(size, lambda size=size: order.append(size)) for size in (9, 5, 7)}
    jobs[7].cancel()
    failing = thread.submit(6, lambda: {}["key"])
    go.set()
    thread.close()
    assert order == [5, 9]
    with pytest.raises(KeyError):
        failing.result(0)
    with pytest.raises(EngineClosedError):
        thread.submit(1, list)


@pytest.fixture
def engine(decoder):
    spec = LoraSpec(rank=2, alpha=2.0, target_modules=("q_proj",))
    labeller = make_labeller(decoder, "decoder", "sequence", spec, 1)
    engine = Engine(
        load_backbone(str(decoder), QuantizationSpec("none", "float32")), EngineConfig()
    )
    engine.load_weights(labeller.weights, key="k", name="moods", task=labeller.task)
    yield engine
    engine.close()


def test_a_text_that_is_tokenized_slowly_delays_no_other_request(engine, monkeypatch):
    task = engine.core.host.get("k").head.task
    windows, go = task.windows, Event()

    def slowly(item):
        if "slow" in item["text"]:
            go.wait(30)
        elif "bad" in item["text"]:
            raise ValueError("tokenizer")
        return windows(item)

    monkeypatch.setattr(task, "windows", slowly)

    async def run():
        running = AsyncEngine(engine)
        slow = asyncio.ensure_future(running.label("the slow film", "moods"))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await running.embed([6, 7, 8])
        embedded = time.monotonic() - began
        texts = ("a bad film", "the film")
        others = [asyncio.ensure_future(running.label(text, "moods")) for text in texts]
        go.set()
        found = await asyncio.gather(slow, *others, return_exceptions=True)
        await running.close()
        return embedded, found

    embedded, (slow, bad, other) = asyncio.run(run())
    assert embedded < 5
    assert {slow["label"], other["label"]} <= set(task.labels)
    assert isinstance(bad, RequestError)
