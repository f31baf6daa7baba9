"""Mixed batches give the tokens and numbers of peft on the same device, one sequence at a time."""

import pytest
import torch
from engine_helpers import LINEARS, greedy, greedy_params, make_peer
from pooling_helpers import make_labeller
from tiny_configs import bert_config, family_configs
from toy_fixtures import save_tokenizer
from transformers import AutoModelForCausalLM, BertModel, RobertaConfig, RobertaModel

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SMALL = EngineConfig(
    max_num_seqs=8, max_num_batched_tokens=24, kv_cache_tokens=600, block_size=4, rank_slots=48
)
#: Ranks of several sizes, DoRA, a prefix; ``None`` is the base model.
SPECS = {
    "small": LoraSpec(rank=4, alpha=8.0, target_modules=LINEARS),
    "large": LoraSpec(rank=16, alpha=4.0, target_modules=("q_proj", "v_proj"), rslora=True),
    "one": LoraSpec(rank=1, alpha=1.0, target_modules=("down_proj",)),
    "dora": LoraSpec(rank=2, alpha=2.0, target_modules=("q_proj", "up_proj"), dora=True),
    "prefix": PrefixSpec(num_virtual_tokens=5),
}
#: Largest difference of log-probabilities. The GPU sums in another order.
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_generated_tokens_and_log_probabilities(tmp_path, compute_device, family):
    config = family_configs()[family]
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, encoder=False)
    peers = {name: make_peer(tmp_path, spec, i) for i, (name, spec) in enumerate(SPECS.items())}
    models = {name: peer.model.to(compute_device) for name, peer in peers.items()}
    base = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    models[None] = base.to(compute_device)
    engine = Engine(load_backbone(str(tmp_path), PLAIN, device=compute_device), SMALL)
    for name, peer in peers.items():
        engine.load_weights(peer.weights, key=name, name=name)
    requests = [
        ([6 + (i * 7 + j * j) % 50 for j in range(9 + 3 * i)], name)
        for i, name in enumerate([None, *SPECS, "small", None])
    ]
    completions = engine.generate(
        [prompt for prompt, _ in requests],
        [name for _, name in requests],
        [greedy_params(8, logprobs=1)] * len(requests),
    )
    engine.close()
    for (prompt, name), completion in zip(requests, completions, strict=True):
        (answer,) = completion.outputs
        expected, logits = greedy(models[name], prompt, 8)
        assert list(answer.tokens) == expected, name
        found = torch.tensor([each.chosen for each in answer.logprobs])
        wanted = torch.log_softmax(logits.float(), -1).amax(-1).cpu()
        assert (found - wanted).abs().max() <= TOLERANCE[compute_device], name


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("bert", "sequence"),
        ("bert", "token"),
        ("roberta", "token"),
    ],
)
def test_labels(tmp_path, compute_device, architecture, head):
    save_encoder(tmp_path, architecture)
    specs = [
        LoraSpec(rank=4, alpha=8.0, target_modules=("query", "value", "dense")),
        LoraSpec(rank=9, alpha=4.0, target_modules=("key",), rslora=True),
    ]
    sides = {
        f"a{seed}": make_labeller(tmp_path, "encoder", head, spec, seed)
        for seed, spec in enumerate(specs)
    }
    engine = Engine(load_backbone(str(tmp_path), PLAIN, device=compute_device), SMALL)
    requests = []
    for name, side in sides.items():
        engine.load_weights(side.weights, key=name, name=name, task=side.task)
        side.model.to(compute_device)
        for text in ("the film was good", "the meal was awful the song was fine"):
            requests.append((engine.add_labeling(text, name, kind=head), side))
    while engine.busy:
        engine.step()
    engine.close()
    for request, side in requests:
        for each, result in zip(request.sequences, request.results(), strict=True):
            difference = result - side.logits(each.example)
            assert difference.abs().max() <= TOLERANCE[compute_device]


def save_encoder(folder, architecture):
    torch.manual_seed(0)
    if architecture == "bert":
        BertModel(bert_config(vocab_size=64, max_position_embeddings=64)).save_pretrained(folder)
    else:
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        config = RobertaConfig(
            **shape, num_attention_heads=4, vocab_size=64, max_position_embeddings=66
        )
        RobertaModel(config).save_pretrained(folder)
    save_tokenizer(folder, encoder=True)
