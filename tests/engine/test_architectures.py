"""Decoders of each family generate in the engine as transformers and peft do alone."""

import pytest
import torch
from engine_helpers import LINEARS, greedy, greedy_params, make_peer
from tiny_configs import WINDOW, family_configs
from toy_fixtures import save_tokenizer
from transformers import AutoModelForCausalLM

from adapterhub.adapters.artifact import read_peft_folder
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.fast_decoder import can_run
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SMALL = EngineConfig(
    max_num_seqs=8, max_num_batched_tokens=16, kv_cache_tokens=400, block_size=4, rank_slots=24
)
WHOLE = ("q_proj", "down_proj", "embed_tokens", "lm_head")
SPECS = {
    "linears": LoraSpec(rank=4, alpha=8.0, target_modules=LINEARS),
    "whole": LoraSpec(rank=3, alpha=3.0, target_modules=WHOLE),
    "dora": LoraSpec(rank=2, alpha=2.0, target_modules=WHOLE, dora=True),
    "prefix": PrefixSpec(num_virtual_tokens=5),
}
TOLERANCE = 1e-4


def save_family(folder, family):
    config = family_configs()[family]
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    save_tokenizer(folder, encoder=False)
    return folder


def generate_with_logits(engine, requests, count):
    """Return tokens and logits of each request, all of them running together."""
    logits, sample = {}, engine.core.sampler.sample

    def capture(scores, states, best):
        for state, each in zip(states, scores, strict=True):
            logits.setdefault(id(state), []).append(each.float().clone())
        return sample(scores, states, best)

    engine.core.sampler.sample = capture
    sequences = [
        engine.add(prompt, name, greedy_params(count)).sequences[0] for prompt, name in requests
    ]
    while engine.busy:
        engine.step()
    engine.core.sampler.sample = sample
    return [(each.output_tokens, torch.stack(logits[id(each.state)])) for each in sequences]


@pytest.mark.parametrize("family", family_configs())
def test_an_architecture_equals_peft_beyond_its_window(tmp_path, family):
    folder = save_family(tmp_path / family, family)
    peers = {name: make_peer(folder, spec, i) for i, (name, spec) in enumerate(SPECS.items())}
    base_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine = Engine(load_backbone(str(folder), PLAIN), SMALL)
    for name, peer in peers.items():
        engine.load_weights(peer.weights, key=name, name=name)
    requests = [
        ([6 + (i * 7 + j * j) % 50 for j in range(3 * WINDOW + i)], name)
        for i, name in enumerate([None, *SPECS, None, "whole"])
    ]
    found = generate_with_logits(engine, requests, WINDOW + 2)
    engine.close()
    for (prompt, name), (tokens, logits) in zip(requests, found, strict=True):
        model = peers[name].model if name else base_model
        expected, scores = greedy(model, prompt, WINDOW + 2)
        assert tokens == expected, name
        assert (logits - scores).abs().max() < TOLERANCE, name


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_of_a_folder_that_peft_saved_tied_or_not(decoder, tmp_path, tied):
    spec = LoraSpec(rank=4, alpha=4.0, target_modules=("q_proj", "embed_tokens", "lm_head"))
    peer = make_peer(decoder, spec, 5, ensure_weight_tying=tied)
    peer.model.save_pretrained(tmp_path)
    folder = read_peft_folder(tmp_path)
    assert any(target.endswith("lm_head") for target in folder.weights.spec.target_modules)
    assert not folder.adapter_config["ensure_weight_tying"]
    engine = Engine(load_backbone(str(decoder), PLAIN), SMALL)
    engine.load_weights(folder.weights, key="tied", name="tied")
    ((tokens, logits),) = generate_with_logits(engine, [([7, 8, 9], "tied")], 8)
    engine.close()
    expected, scores = peer.greedy([7, 8, 9], 8)
    assert tokens == expected
    assert (logits - scores).abs().max() < TOLERANCE


def test_blends_and_evictions_of_embeddings_and_output_layers(decoder):
    """24 rank sequences hold three of the four adapters at once."""
    spec = LoraSpec(rank=8, alpha=8.0, target_modules=WHOLE)
    peers = {f"w{i}": make_peer(decoder, spec, 20 + i) for i in range(4)}
    engine = Engine(load_backbone(str(decoder), PLAIN), SMALL)
    for name, peer in peers.items():
        engine.load_weights(peer.weights, key=name, name=name)
    prompts = [[7 + i, 30, 12] for i in range(4)]
    for _ in range(2):
        found = generate_with_logits(engine, list(zip(prompts, peers, strict=True)), 4)
        for (tokens, logits), prompt, peer in zip(found, prompts, peers.values(), strict=True):
            expected, scores = peer.greedy(prompt, 4)
            assert tokens == expected
            assert (logits - scores).abs().max() < TOLERANCE
    assert engine.stats().evictions > 0
    blend = [("w0", 0.5), ("w1", -0.25)]
    ((tokens, logits),) = generate_with_logits(engine, [(prompts[0], blend)], 4)
    engine.close()
    model = peers["w0"].model
    model.add_adapter("other", model.peft_config["default"])
    import peft

    peft.set_peft_model_state_dict(model, dict(peers["w1"].weights.tensors), "other")
    model.base_model.set_adapter(["default", "other"])
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scaling = {"default": 0.5, "other": -0.25}
    expected, scores = greedy(model, prompts[0], 4)
    assert tokens == expected
    assert (logits - scores).abs().max() < TOLERANCE


def test_tables_of_the_vocabulary_are_there_only_with_an_adapter_that_has_them(decoder):
    engine = Engine(load_backbone(str(decoder), PLAIN), SMALL)
    layers = engine.core.layers

    def held():
        embeddings = sum(layer.nbytes for layer in layers.embeddings.values())
        return layers.output.a.nbytes + layers.output.b.nbytes, embeddings

    plain, whole = make_peer(decoder, SPECS["linears"], 1), make_peer(decoder, SPECS["whole"], 2)
    engine.load_weights(plain.weights, key="plain", name="plain")
    engine.generate([[7, 8]], ["plain"], greedy_params(2))
    assert held() == (0, 0)
    engine.load_weights(whole.weights, key="whole", name="whole")
    engine.generate([[7, 8]], ["whole"], greedy_params(2))
    assert held() == (SMALL.rank_slots * (64 + 64) * 4, 3 * (64 + 64) * 4)
    engine.unload("whole")
    assert held() == (0, 0)
    engine.close()


def test_the_fast_decoder_is_not_used_with_a_sliding_window(tmp_path):
    folder = save_family(tmp_path, "mistral")
    body = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).model
    assert not can_run(body, torch.bfloat16)
    body.config.sliding_window = None
    assert can_run(body, torch.bfloat16)
