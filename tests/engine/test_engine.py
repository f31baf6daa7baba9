"""Mixed sequences in one batch answer as each does alone with peft."""

import pytest
import torch
from engine_helpers import assert_greedy, greedy, greedy_params, make_peer, some_specs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.memory import state_digest
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.errors import EngineError, NotFoundError, RequestError, StrictLoadError
from adapterhub.kernels.lora.cpu import CpuLoraKernel
from adapterhub.kernels.lora.reference import ReferenceLoraKernel
from adapterhub.specs import QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SMALL = EngineConfig(
    max_num_seqs=4, max_num_batched_tokens=16, kv_cache_tokens=96, block_size=4, rank_slots=24
)


@pytest.fixture(scope="module")
def peers(decoder):
    return {f"a{i}": make_peer(decoder, spec, i) for i, spec in enumerate(some_specs())}


@pytest.fixture(scope="module")
def base_model(decoder):
    return AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32).eval()


def engine_of(decoder, peers, settings=SMALL, kernel=None):
    engine = Engine(load_backbone(str(decoder), PLAIN), settings, kernel=kernel)
    for name, peer in peers.items():
        engine.load_weights(peer.weights, key=f"sha256:{name}", name=name)
    return engine


def alone(peers, base_model, name, prompt, count):
    return greedy(peers[name].model if name else base_model, prompt, count)[0]


REQUEST = st.tuples(
    st.lists(st.integers(6, 60), min_size=1, max_size=30),
    st.sampled_from([None, "a0", "a1", "a2", "a3", "a4", "a5", "a6"]),
    st.integers(1, 8),
    st.integers(0, 6),
)


@pytest.mark.parametrize("kernel", [ReferenceLoraKernel, CpuLoraKernel])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(requests=st.lists(REQUEST, min_size=1, max_size=9))
def test_every_sequence_of_a_mix_equals_peft_alone(decoder, peers, base_model, kernel, requests):
    """Sequences are added at different steps; slots and cache are too small for all of them."""
    engine = engine_of(decoder, peers, kernel=kernel())
    sequences = []
    schedule = sorted(requests, key=lambda request: request[3])
    for step in range(400):
        while schedule and schedule[0][3] <= step:
            prompt, name, count, _ = schedule.pop(0)
            (sequence,) = engine.add(prompt, name, greedy_params(count)).sequences
            sequences.append((sequence, prompt, name, count))
        engine.step()
        if not schedule and not engine.busy:
            break
    engine.close()
    for sequence, prompt, name, count in sequences:
        assert sequence.finish_reason == "length"
        assert len(sequence.output_tokens) == count
        assert_greedy(peers[name].model if name else base_model, prompt, sequence.output_tokens)


def test_preempted_sequences_and_evicted_adapters_lose_nothing(decoder, peers, base_model):
    engine = engine_of(decoder, peers)
    prompts = [list(range(6 + i, 26 + i)) for i in range(8)]
    names = ["a0", "a1", "a2", "a3", None, "a1", "a0", "a3"]
    answers = engine.generate(prompts, names, greedy_params(12))
    stats = engine.stats()
    engine.close()
    assert stats.preemptions > 0
    assert stats.evictions > 0
    for prompt, name, answer in zip(prompts, names, answers, strict=True):
        assert list(answer.tokens) == alone(peers, base_model, name, prompt, 12)


@pytest.mark.parametrize("kernel", [ReferenceLoraKernel, CpuLoraKernel])
def test_a_blend_is_the_weighted_sum_of_its_adapters(decoder, peers, base_model, kernel):
    prompt, weights = [7, 20, 9, 33], {"a0": 0.7, "a1": -0.4}
    model = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32).eval()
    for name, weight in weights.items():
        add_delta(model, peers[name].weights, weight)
    engine = engine_of(decoder, peers, kernel=kernel())
    (answer,) = engine.generate([prompt], [list(weights.items())], greedy_params(8))
    engine.close()
    assert list(answer.tokens) == greedy(model, prompt, 8)[0]


def add_delta(model, weights, weight):
    """Add an adapter to the weights of a model, ``W + w s B A``."""
    scale = weights.spec.scaling
    for key, tensor in weights.tensors.items():
        if key.endswith("lora_A.weight"):
            path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = weights.tensors[key.replace("lora_A", "lora_B")]
            model.get_submodule(path).weight.data += weight * scale * (b @ tensor)


def test_a_blend_of_one_with_weight_1_is_that_adapter_to_the_bit(decoder, peers):
    engine = engine_of(decoder, peers)
    prompts = [[8, 9, 10], [8, 9, 10]]
    sequences = [
        engine.add(prompt, adapter, greedy_params(4)).sequences[0]
        for prompt, adapter in zip(prompts, ["a0", [("a0", 1.0)]], strict=True)
    ]
    while engine.busy:
        engine.step()
    engine.close()
    assert sequences[0].output_tokens == sequences[1].output_tokens
    assert sequences[0].adapter_key == sequences[1].adapter_key


def test_sequences_without_an_adapter_are_as_if_no_adapter_were_loaded(decoder, peers):
    prompts = [[6, 7, 8, 9], [30, 31], [12, 40, 9]]
    hidden = []
    for loaded in ({}, peers):
        engine = engine_of(decoder, loaded)
        for prompt, name in zip(prompts, [None, "a0" if loaded else None, None], strict=True):
            engine.add(prompt, name, greedy_params(1))
        hidden.append(last_hidden(engine))
        engine.close()
    without, mixed = hidden
    assert torch.equal(without[:4], mixed[:4])
    assert torch.equal(without[6:], mixed[6:])
    assert not torch.allclose(without[4:6], mixed[4:6])


def last_hidden(engine):
    return engine.core.model_runner(engine.core.scheduler.schedule())


def test_a_cached_prompt_is_reused_only_with_its_own_adapter(decoder, peers, base_model):
    engine = engine_of(decoder, peers, EngineConfig(block_size=4, kv_cache_tokens=512))
    prompt = list(range(6, 30))
    for name, again in (("a0", False), ("a0", True), ("a3", False), (None, False), (None, True)):
        before = engine.stats().computed_tokens
        (answer,) = engine.generate([prompt], [name], greedy_params(4))
        read = engine.stats().computed_tokens - before - 3
        assert read == (4 if again else len(prompt)), name
        assert list(answer.tokens) == alone(peers, base_model, name, prompt, 4)
    engine.close()


def test_a_name_that_is_replaced_means_the_new_adapter_and_running_sequences_keep_the_old(
    decoder, peers, base_model
):
    engine = engine_of(decoder, peers)
    prompt = [9, 30, 12]
    old = engine.add(prompt, "a0", greedy_params(10)).sequences[0]
    for _ in range(3):
        engine.step()
    engine.load_weights(peers["a3"].weights, key="sha256:new", name="a0")
    new = engine.add(prompt, "a0", greedy_params(10)).sequences[0]
    while engine.busy:
        engine.step()
    engine.close()
    assert old.output_tokens == alone(peers, base_model, "a0", prompt, 10)
    assert new.output_tokens == alone(peers, base_model, "a3", prompt, 10)


def test_cancelled_sequences_release_everything(decoder, peers):
    engine = engine_of(decoder, peers)
    sequences = [engine.add([7, 8, 9], name, greedy_params(20)) for name in ("a0", "a1", None)]
    free = engine.stats().free_blocks
    engine.step()
    assert engine.stats().free_blocks < free
    for sequence in sequences:
        engine.cancel(sequence)
    assert not engine.busy
    assert engine.stats().free_blocks == free
    engine.unload("a0")
    with pytest.raises(NotFoundError):
        engine.add([7], "a0")
    engine.close()


def test_invalid_requests_are_rejected_at_once(decoder, peers):
    engine = engine_of(decoder, peers)
    with pytest.raises(NotFoundError, match="Did you mean 'a0'"):
        engine.add([7, 8], "a00")
    with pytest.raises(RequestError, match=r"do not fit into the KV cache of 96 tokens"):
        engine.add([7] * 80, "a0", greedy_params(17))
    for prompt in ([], [10**6], [-1], ["x"]):
        with pytest.raises(RequestError, match="prompt"):
            engine.add(prompt, "a0")
    running = engine.add([7, 8], "a0", greedy_params(5))
    engine.step()
    with pytest.raises(EngineError, match="is used by 1 requests"):
        engine.unload("a0")
    engine.cancel(running)
    engine.close()


def test_an_adapter_of_another_model_is_rejected(decoder, peers):
    engine = engine_of(decoder, {})
    tensors = dict(peers["a0"].weights.tensors)
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key.replace("layers.0", "layers.9")] = tensors.pop(key)
    with pytest.raises(StrictLoadError):
        engine.load_weights(AdapterWeights(some_specs()[0], tensors), key="x", name="x")
    assert not engine.adapters
    engine.close()


def test_closing_restores_the_backbone(decoder, peers):
    backbone = load_backbone(str(decoder), PLAIN)
    before = state_digest(backbone.base_model)
    engine = Engine(backbone, SMALL)
    engine.load_weights(peers["a0"].weights, key="a", name="a")
    engine.generate([[7, 8, 9]], ["a"], greedy_params(3))
    engine.close()
    assert state_digest(backbone.base_model) == before
    assert not any("Lora" in type(module).__name__ for module in backbone.base_model.modules())


def test_a_prefix_is_shared_between_its_sequences(decoder, peers, base_model):
    engine = engine_of(decoder, peers, EngineConfig(block_size=4, kv_cache_tokens=512))
    sequences = [engine.add([20 + i, 7, 9], "a4", greedy_params(3)).sequences[0] for i in range(4)]
    engine.step()
    first = {sequence.blocks[0] for sequence in sequences}
    # the last, partly filled block of the prefix is each sequence's own
    second = {sequence.blocks[1] for sequence in sequences}
    while engine.busy:
        engine.step()
    engine.close()
    assert (len(first), len(second)) == (1, 4)
    for index, sequence in enumerate(sequences):
        assert sequence.output_tokens == alone(peers, base_model, "a4", [20 + index, 7, 9], 3)


def test_a_sequence_takes_one_prefix_only(decoder, peers):
    engine = engine_of(decoder, peers)
    for blend in ([("a4", 1.0), ("a5", 1.0)], [("a4", 0.5)]):
        with pytest.raises(EngineError, match="one prefix adapter, with weight 1"):
            engine.add([7, 8], blend)
    engine.add([7, 8], [("a4", 1.0), ("a0", 0.5)], greedy_params(2))
    engine.close()


def test_dora_is_served_alone_and_not_blended(decoder, peers):
    engine = engine_of(decoder, peers)
    for blend in ([("a6", 0.5)], [("a6", 1.0), ("a0", 1.0)]):
        with pytest.raises(EngineError, match=r"DoRA.*cannot be blended"):
            engine.add([7, 8], blend)
    engine.close()
