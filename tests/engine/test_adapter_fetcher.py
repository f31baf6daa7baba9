"""Adapters by reference are fetched while sequences run, and their answers equal peft's."""

import random
import time

import pytest
import torch
from adapter_manager_helpers import HandSource, put
from engine_helpers import assert_greedy, greedy, greedy_params, make_peer, some_specs
from transformers import AutoModelForCausalLM

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.adapter_fetcher import MAX_FETCHES, AdapterFetcher
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.host_cache import HostCache
from adapterhub.errors import (
    ArtifactError,
    EngineError,
    FingerprintMismatch,
    IntegrityError,
    NotFoundError,
    RequestError,
)
from adapterhub.hub.loader import AdapterLoader
from adapterhub.registry import Registry
from adapterhub.specs import QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SIZES = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "kv_cache_tokens": 256, "block_size": 4}


@pytest.fixture(scope="module")
def peers(decoder):
    return [make_peer(decoder, spec, seed) for seed, spec in enumerate(some_specs())]


@pytest.fixture(scope="module")
def fingerprint(decoder):
    return load_backbone(str(decoder), PLAIN).fingerprint


@pytest.fixture
def registry(tmp_path, peers, fingerprint):
    """``topic@1`` and up, one version for each peer."""
    registry = Registry(tmp_path / "registry-home")
    for number, peer in enumerate(peers):
        put(registry, tmp_path / f"artifact{number}", "topic", peer.weights, fingerprint)
    return registry


@pytest.fixture
def loader(registry):
    loader = AdapterLoader(registry)
    yield loader
    loader.close()


@pytest.fixture
def engine_on(decoder):
    made = []

    def make(source, **sizes):
        settings = EngineConfig(**SIZES | {"rank_slots": 24} | sizes)
        made.append(Engine(load_backbone(str(decoder), PLAIN), settings, source=source))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def run(engine, most=5000):
    for _ in range(most):
        if not engine.busy:
            return
        engine.step()
    raise AssertionError("sequences wait for ever")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sequences_equal_peft_with_the_version_that_their_alias_meant(
    registry, loader, engine_on, peers, seed
):
    """Aliases move, and neither host memory nor slots have room for all versions."""
    draw = random.Random(seed)
    host = max(prepared_bytes_of(peer) for peer in peers)
    engine = engine_on(loader, host_cache_bytes=host)
    prompts = [[draw.randrange(6, 60) for _ in range(count)] for count in (3, 9, 14)]
    sequences = []
    registry.set_alias("topic@1", "prod")
    meant = 1
    for _ in range(60):
        if draw.random() < 0.4:
            meant = draw.randrange(len(peers)) + 1
            registry.set_alias(f"topic@{meant}", "prod")
        if draw.random() < 0.5:
            prompt, count = draw.choice(prompts), draw.randrange(1, 7)
            sequences.append(
                (engine.add(prompt, "topic@prod", greedy_params(count)).sequences[0], meant, count)
            )
        engine.step()
        assert engine.stats().host_bytes <= host
    run(engine)
    for sequence, version, count in sequences:
        assert sequence.finish_reason == "length", sequence.error
        assert len(sequence.output_tokens) == count
        assert_greedy(peers[version - 1].model, list(sequence.prompt), sequence.output_tokens)
    assert engine.stats().evictions
    assert engine.core.host.evictions


def prepared_bytes_of(peer):
    return sum(tensor.numel() * 4 for tensor in peer.weights.tensors.values())


def test_a_reloaded_version_is_identical_and_has_its_own_prefix_cache(
    registry, loader, engine_on, peers
):
    engine = engine_on(loader, host_cache_bytes=max(map(prepared_bytes_of, peers)), rank_slots=16)
    prompt = list(range(6, 22))
    first = {}
    for turn in range(2):
        for version in (1, 2, 4):
            registry.set_alias(f"topic@{version}", "prod")
            before = engine.stats()
            request = engine.add(prompt, "topic@prod", greedy_params(4))
            run(engine)
            (sequence,) = request.sequences
            assert sequence.error is None
            held = engine.core.host.get(sequence.adapters[0][0])
            found = [tensor.clone() for pair in held.pairs.values() for tensor in pair]
            if not turn:
                first[version] = (found, sequence.output_tokens)
            assert all(map(torch.equal, found, first[version][0]))
            assert sequence.output_tokens == first[version][1]
            assert engine.stats().fetches == before.fetches + 1
            read = engine.stats().computed_tokens - before.computed_tokens - 3
            # the second time the keys and values of its own first turn are known
            assert read == (4 if turn else len(prompt))
            assert len(sequence.output_tokens) == 4
            assert_greedy(peers[version - 1].model, prompt, sequence.output_tokens)


def test_running_sequences_continue_while_an_adapter_is_fetched(decoder, engine_on, registry):
    source = HandSource()
    engine = engine_on(source)
    waits = engine.add([7, 8, 9], "far", greedy_params(2)).sequences[0]
    runs = engine.add([7, 8, 9], None, greedy_params(5)).sequences[0]
    assert source.fetched == ["far"]
    for _ in range(5):
        engine.step()
    assert runs.finish_reason == "length"
    assert waits.finish_reason is None
    source.futures["far"].set_result(artifact_of(registry, "topic@1"))
    run(engine)
    assert waits.finish_reason == "length"


def artifact_of(registry, ref):
    return read_artifact(registry.materialize(registry.resolve(ref)))


def test_a_failed_fetch_ends_its_sequences_and_the_next_request_retries(engine_on, registry):
    source = HandSource()
    engine = engine_on(source)
    lost = [engine.add([7, 8], "far", greedy_params(2)).sequences[0] for _ in range(2)]
    other = engine.add([7, 8], None, greedy_params(8)).sequences[0]
    source.futures["far"].set_exception(ArtifactError("is damaged", place="far"))
    deltas = engine.step()
    assert [sequence.finish_reason for sequence in lost] == ["error", "error"]
    assert all(isinstance(sequence.error, ArtifactError) for sequence in lost)
    assert {sequence for sequence, delta in deltas if delta.error is not None} == set(lost)
    again = engine.add([7, 8], "far", greedy_params(2)).sequences[0]
    source.futures["far"].set_result(artifact_of(registry, "topic@1"))
    run(engine)
    assert (again.finish_reason, other.finish_reason) == ("length", "length")
    assert source.fetched == ["far", "far"]


def test_an_adapter_that_does_not_fit_is_an_error_of_its_sequences(
    engine_on, loader, registry, tmp_path, peers
):
    put(registry, tmp_path / "strange", "strange", peers[0].weights, "sha256:other+none")
    engine = engine_on(loader, rank_slots=8)
    asked_for = {
        "strange": FingerprintMismatch,
        "topic@2": EngineError,  # its rank is larger than the tables
    }
    sequences = {ref: engine.add([7, 8], ref, greedy_params(2)).sequences[0] for ref in asked_for}
    blend = engine.add([7, 8], [("topic@5", 1.0), ("topic@6", 1.0)], greedy_params(2)).sequences[0]
    long = engine.add([7] * 60, "topic@5", greedy_params(193)).sequences[0]
    fine = engine.add([7, 8], "topic@1", greedy_params(2)).sequences[0]
    run(engine)
    for ref, kind in asked_for.items():
        assert isinstance(sequences[ref].error, kind), (ref, sequences[ref].error)
    assert isinstance(blend.error, EngineError)
    assert isinstance(long.error, RequestError)
    assert fine.finish_reason == "length"
    with pytest.raises(NotFoundError):
        engine.add([7, 8], "nobody@3")


def test_damage_on_disk_after_the_first_use_is_detected(engine_on, registry):
    loader = AdapterLoader(registry)
    engine = engine_on(loader, host_cache_bytes=200_000)
    for _ in range(2):
        request = engine.add([7, 8], "topic@1", greedy_params(2))
        run(engine)
        assert request.sequences[0].error is None
        engine.core.host.remove(request.sequences[0].adapters[0][0])
        engine.core.adapters.device.drop(request.sequences[0].adapters[0][0])
    path = registry.materialize(registry.resolve("topic@1")) / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    request = engine.add([7, 8], "topic@1", greedy_params(2))
    run(engine)
    assert isinstance(request.sequences[0].error, IntegrityError)
    loader.close()


def test_pins_and_unloading(engine_on, loader, peers):
    engine = engine_on(loader, host_cache_bytes=4 * max(map(prepared_bytes_of, peers)))
    engine.pin("topic@1")
    for number in (1, 2, 3, 4, 7):
        engine.add([7, 8], f"topic@{number}", greedy_params(2))
        run(engine)
    key = loader.resolve("topic@1")
    assert key in engine.core.slots.resident
    assert key in engine.core.host
    engine.pin("topic@1", pinned=False)
    with pytest.raises(NotFoundError, match="is not loaded"):
        engine.unload("topic@1")
    engine.load_weights(peers[0].weights, key="explicit", name="mine")
    waits = engine.add([7, 8], "mine", greedy_params(2)).sequences[0]
    engine.unload("mine")
    run(engine)
    assert isinstance(waits.error, NotFoundError)


def test_a_base_model_sequence_is_as_before(decoder, engine_on, loader):
    base_model = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32).eval()
    engine = engine_on(loader)
    engine.add([9, 30, 12], "topic@3", greedy_params(6))
    sequence = engine.add([9, 30, 12], None, greedy_params(6)).sequences[0]
    run(engine)
    assert sequence.output_tokens == greedy(base_model, [9, 30, 12], 6)[0]


def test_a_blocked_fetch_of_later_requests_yields_to_an_older_one():
    """All places are taken by adapters that find no room; the older sequence's must still come."""
    source, host = HandSource(), HostCache(100)
    assert host.reserve("held", 60, 0)
    sizes = {"old": 40}
    fetcher = AdapterFetcher(source, host, lambda artifact: sizes.get(artifact, 60), lambda a: None)
    for number in range(MAX_FETCHES):
        assert fetcher.fetch(f"young{number}", 10 + number)
        source.futures[f"young{number}"].set_result(f"young{number}")
    wait_for(lambda: len(fetcher._blocked) == MAX_FETCHES)
    assert not fetcher.fetch("younger still", 99)
    assert fetcher.fetch("old", 1)
    assert fetcher.fetch("young0", 10) is False
    assert not fetcher.fetch("young3", 13)
    fetcher.close()


def test_a_blocked_fetch_that_no_request_needs_is_dropped():
    source, host = HandSource(), HostCache(100)
    assert host.reserve("held", 60, 0)
    fetcher = AdapterFetcher(source, host, lambda artifact: 60, lambda artifact: None)
    for number in range(MAX_FETCHES):
        assert fetcher.fetch(f"gone{number}", number)
        source.futures[f"gone{number}"].set_result(f"gone{number}")
    wait_for(lambda: len(fetcher._blocked) == MAX_FETCHES)
    assert not fetcher.fetch("new", 50)
    fetcher.drop_unwanted({"gone1": 1})
    assert fetcher.fetch("new", 50)
    fetcher.close()


def wait_for(happened, seconds=10.0):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.001)
