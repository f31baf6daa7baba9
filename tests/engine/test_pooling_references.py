"""Texts whose adapters come from a registry while they wait: as if they had been loaded."""

import asyncio

import pytest
import torch
from adapter_manager_helpers import HandSource, put
from engine_helpers import greedy_params
from pooling_helpers import make_labellers

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.async_engine import AsyncEngine
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.errors import ArtifactError, EngineError, NotFoundError
from adapterhub.hub.loader import AdapterLoader
from adapterhub.registry import Registry
from adapterhub.specs import QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SIZES = {"kv_cache_tokens": 256, "block_size": 4, "rank_slots": 12, "max_pooling_tokens": 40}
TEXTS = ["the film was good", "the book", "good", "the food was bad and the film was"]


@pytest.fixture(scope="module")
def labellers(decoder):
    return make_labellers(decoder, "decoder")


@pytest.fixture
def registry(tmp_path, decoder, labellers):
    registry = Registry(tmp_path / "registry-home")
    fingerprint = load_backbone(str(decoder), PLAIN).fingerprint
    for name, each in labellers.items():
        put(
            registry,
            tmp_path / name,
            name,
            each.weights,
            fingerprint,
            task=each.task.name,
            labels=each.task.labels,
        )
    return registry


@pytest.fixture
def engine_on(decoder):
    made = []

    def make(source=None, **sizes):
        settings = EngineConfig(**SIZES | sizes)
        made.append(Engine(load_backbone(str(decoder), PLAIN), settings, source=source))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def run(engine, requests, most=5000):
    for _ in range(most):
        if all(request.finished for request in requests):
            return
        engine.step()
    raise AssertionError("texts wait for ever")


def loaded(engine, labellers):
    for name, each in labellers.items():
        engine.load_weights(each.weights, key=f"sha256:{name}", name=name, task=each.task)
    return engine


def add_labeling(engine, labellers, name, text):
    return engine.add_labeling(text, name, kind=labellers[name].task.head)


def test_fetched_adapters_label_like_loaded_ones_in_little_memory(registry, engine_on, labellers):
    pairs = [(name, text) for text in TEXTS for name in labellers]
    roomy = loaded(engine_on(rank_slots=64), labellers)
    expected = [add_labeling(roomy, labellers, name, text) for name, text in pairs]
    run(roomy, expected)
    largest = max(roomy.core.host.get(f"sha256:{name}").nbytes for name in labellers)
    loader = AdapterLoader(registry)
    engine = engine_on(loader, host_cache_bytes=largest)
    found = [add_labeling(engine, labellers, name, text) for name, text in pairs]
    sequence = engine.add([7, 8, 9], None, greedy_params(60)).sequences[0]
    run(engine, found)
    for request, other in zip(found, expected, strict=True):
        for mine, its in zip(request.results(), other.results(), strict=True):
            assert (mine - its).abs().max() < 1e-4
        assert request.prediction().keys() == other.prediction().keys()
    assert engine.core.host.evictions
    assert sequence.error is None
    loader.close()


def test_embeddings_wait_for_their_adapter_too(registry, engine_on, labellers):
    source = HandSource()
    engine = engine_on(source)
    request = engine.add_embedding("the film", "s3")
    plain = engine.add_embedding("the film")
    run(engine, [plain])
    assert not request.finished
    with pytest.raises(EngineError, match="is not computed yet"):
        request.embedding()
    source.futures["s3"].set_result(artifact_of(registry, "s3"))
    run(engine, [request])
    expected = loaded(engine_on(rank_slots=64), labellers).embed(["the film"], "s3")[0]
    assert torch.equal(request.embedding(), expected)
    assert not torch.allclose(request.embedding(), plain.embedding())


def artifact_of(registry, ref):
    return read_artifact(registry.materialize(registry.resolve(ref)))


def test_each_error_reaches_only_its_own_requests(registry, engine_on):
    source = HandSource()
    engine = engine_on(source)
    lost, wrong = engine.add_labeling("the film", "s0"), engine.add_labeling("the film", "t0")
    gone = engine.add_labeling("the film", "s1")
    plain = engine.add_embedding("the film")
    source.futures["s0"].set_exception(ArtifactError("is damaged", place="s0"))
    source.futures["t0"].set_result(artifact_of(registry, "t0"))
    engine.cancel(gone)
    run(engine, [lost, wrong, gone, plain])
    for request, kind, words in (
        (lost, ArtifactError, "is damaged"),
        (wrong, EngineError, "Use tag"),
        (gone, EngineError, "was cancelled"),
    ):
        with pytest.raises(kind, match=words):
            request.prediction()
    assert plain.error is None
    source.futures["s1"].set_result(artifact_of(registry, "s1"))
    for _ in range(100):
        if not engine.busy:
            break
        engine.step()
    assert not engine.busy


def test_a_text_whose_adapter_is_unloaded_first_fails(engine_on, labellers):
    engine = loaded(engine_on(rank_slots=64), labellers)
    request = engine.add_labeling("the film", "s0")
    engine.unload("s0")
    run(engine, [request])
    with pytest.raises(NotFoundError, match="not loaded any more"):
        request.prediction()


def test_pinning_fetches_a_missing_adapter(registry, engine_on):
    loader = AdapterLoader(registry)
    engine = engine_on(loader)
    engine.pin("s0")
    assert engine.busy
    for _ in range(2000):
        if not engine.busy:
            break
        engine.step()
    key = loader.resolve("s0")
    assert key in engine.core.host
    fetches = engine.stats().fetches
    run(engine, [engine.add_labeling("the film", "s0")])
    assert engine.stats().fetches == fetches == 1
    loader.close()


def test_pinning_an_unavailable_adapter_ends_with_a_warning(engine_on, caplog):
    source = HandSource()
    engine = engine_on(source)
    engine.pin("s0")
    engine.step()
    source.futures["s0"].set_exception(ArtifactError("is damaged", place="s0"))
    engine.step()
    assert not engine.busy
    assert "is damaged" in caplog.text


def test_a_stream_of_sequences_does_not_starve_a_pooling_request(engine_on, labellers):
    """The adapter of the sequences has 8 of 12 rank slots, the text's needs another 8."""
    engine = loaded(engine_on(max_overtakes=4, max_num_seqs=2), labellers)
    engine.load_weights(
        labellers["t0"].weights, key="sha256:again", name="again", task=labellers["t0"].task
    )
    for count in (3, 6):
        engine.add([7, 8], "again", greedy_params(count))
    for _ in range(2):
        engine.step()
    request = engine.add_labeling("the film was good", "t0", kind="token")
    for step in range(60):
        if request.finished:
            break
        # another sequence before the one beside it ends, so that the adapter is always used
        engine.add([7, 8 + step % 20], "again", greedy_params(6))
        engine.step()
    assert request.finished
    assert request.error is None


def test_a_cancelled_text_leaves_the_queue(engine_on):
    engine = engine_on(HandSource())

    async def main():
        served = AsyncEngine(engine)
        task = asyncio.create_task(served.label("the film", "s0"))
        while not engine.busy:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(500):
            if not engine.busy:
                break
            await asyncio.sleep(0.01)
        await served.close()

    asyncio.run(main())
    assert not engine.busy
