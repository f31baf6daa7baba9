"""Generation with transformers' class and cache equals transformers and peft, one at a time."""

import re
import shutil
from dataclasses import replace

import peft
import pytest
import torch
from engine_helpers import TIE, Peer, greedy, greedy_params, make_peer
from kind_helpers import peft_decoder, read_adapter, save_adapter
from padded_architectures import PADDED, save_architecture
from test_adapter_kinds import INVOCATION, check, lora
from test_architectures import generate_with_logits, save_family
from tiny_models import TOKENIZERS
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import ComputeError
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SIZES = EngineConfig(
    max_num_seqs=8, max_num_batched_tokens=128, kv_cache_tokens=400, block_size=4, rank_slots=24
)
PADDED_SIZES = replace(SIZES, forward_path="padded")
TOLERANCE = 1e-3
#: Tokens of an answer; the long prompts pass windows of 8 and the long-rope switch at 16.
COUNT = 5
PROMPTS = [
    [6 + i * 7 % 60 for i in range(13)],
    [9 + i * 5 % 50 for i in range(13)],
    [8 + i * 11 % 50 for i in range(4)],
    [7 + i * 3 % 40 for i in range(21)],
]


def linear_paths(model):
    """Return linear layers that peft's LoRA can change, outside of mixtures of experts."""
    output, modules = model.get_output_embeddings(), dict(model.named_modules())
    mixture = any("expert" in path for path in modules)
    return tuple(
        path
        for path, module in modules.items()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not output
        and not (mixture and ".mlp." in path)
        # peft refuses it in Mamba's blocks
        and not path.endswith("out_proj")
    )


def load(folder, config=SIZES, peers=None):
    engine = Engine(load_backbone(str(folder), PLAIN), config)
    for name, peer in (peers or {}).items():
        engine.load_weights(peer.weights, key=name, name=name)
    return engine


def lora_peers(folder, count):
    paths = linear_paths(AutoModelForCausalLM.from_pretrained(folder))
    return {
        f"a{i}": make_peer(folder, LoraSpec(rank=4, alpha=4.0, target_modules=paths), i)
        for i in range(count)
    }


def assert_same(tokens, expected, logits):
    """Require equal tokens up to one whose two best logits are as good as equal."""
    for found, wanted, scores in zip(tokens, expected, logits, strict=True):
        if found != wanted:
            assert scores.max() - scores[found] < TIE, (tokens, expected)
            return


@pytest.mark.parametrize("name", PADDED)
def test_an_architecture_equals_peft_alone_together_and_mixed(tmp_path, name):
    folder = save_architecture(tmp_path / name, name)
    peers = lora_peers(folder, 2)
    base = Peer(None, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    users = [None, "a0", "a1", "a0"]
    expected = [
        (peers[user] if user else base).greedy(prompt, COUNT)
        for prompt, user in zip(PROMPTS, users, strict=True)
    ]
    engine = load(folder, PADDED_SIZES if name == "llama" else SIZES, peers)
    requests = list(zip(PROMPTS, users, strict=True))
    together = generate_with_logits(engine, requests, COUNT)
    alone = [generate_with_logits(engine, [request], COUNT)[0] for request in requests]
    engine.close()
    for found in (together, alone):
        for (tokens, logits), (wanted, scores) in zip(found, expected, strict=True):
            assert_same(tokens, wanted, scores)
            agree = [one == other for one, other in zip(tokens, wanted, strict=True)]
            same = agree.index(False) if False in agree else COUNT
            difference = (logits - scores)[: same + 1].abs().max()
            assert difference < TOLERANCE * scores.std()


@pytest.fixture(scope="module")
def lfm2(tmp_path_factory):
    return save_architecture(tmp_path_factory.mktemp("models") / "lfm2", "lfm2")


@pytest.fixture(scope="module")
def mistral(tmp_path_factory):
    return save_family(tmp_path_factory.mktemp("models") / "mistral", "mistral")


def test_a_prefix_equals_peft_beyond_a_sliding_window(mistral):
    peers = {f"p{i}": make_peer(mistral, PrefixSpec(3 + i), i) for i in range(2)}
    users = ["p0", "p1", "p0", "p0"]
    engine = load(mistral, PADDED_SIZES, peers)
    found = engine.generate(PROMPTS, users, greedy_params(COUNT))
    engine.close()
    for answer, prompt, user in zip(found, PROMPTS, users, strict=True):
        assert_same(answer.tokens, *peers[user].greedy(prompt, COUNT))


def test_both_paths_give_the_same_text_for_every_setting(decoder):
    free = {"max_tokens": 12, "ignore_eos": True}
    settings = [
        SamplingParams(seed=5, temperature=1.5, n=3, **free),
        SamplingParams(temperature=0, logprobs=3, presence_penalty=1.0, **free),
        SamplingParams(seed=1, temperature=1.0, top_p=0.8, stop=("film", "the"), max_tokens=20),
        SamplingParams(temperature=0, max_tokens=6, min_tokens=3),
    ]
    found = []
    for config in (SIZES, PADDED_SIZES):
        engine = load(decoder, config)
        assert engine.core.paged is (config is SIZES)
        found.append(engine.generate([PROMPTS[0]] * 4, [None] * 4, settings))
        engine.close()
    for fast, padded in zip(*found, strict=True):
        assert padded.error is None
        for one, other in zip(fast.outputs, padded.outputs, strict=True):
            assert (one.tokens, one.text) == (other.tokens, other.text)
            assert one.finish_reason == other.finish_reason
            values = [each.chosen for each in one.logprobs]
            assert values == pytest.approx([each.chosen for each in other.logprobs], abs=1e-4)


def test_every_kind_of_adapter_equals_peft(lfm2, tmp_path):
    folder = tmp_path / "lfm2"
    shutil.copytree(lfm2, folder)
    attention = {"target_modules": ["q_proj", "v_proj"]}
    kinds = {
        "alora": lora(**attention, alora_invocation_tokens=INVOCATION),
        "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        "saved": lora(**attention, modules_to_save=["feed_forward"]),
        "tokens": lora(**attention, trainable_token_indices=[6, 9, 20]),
    }
    check(folder, kinds)


def test_a_constraint_holds_beside_free_text(tmp_path):
    folder = save_architecture(tmp_path / "lfm2", "lfm2", TOKENIZERS / "decoder")
    engine = load(folder)
    free = greedy_params(12)
    dated = SamplingParams(temperature=0, regex="[0-9]{4}-[0-9]{2}", max_tokens=30)
    (alone,) = engine.generate([PROMPTS[0]], [None], free)
    beside, found = engine.generate(PROMPTS[:2], [None] * 2, [free, dated])
    engine.close()
    assert re.fullmatch("[0-9]{4}-[0-9]{2}", found.text)
    assert found.finish_reason == "stop"
    assert beside.tokens == alone.tokens


def test_exclusive_sequences_run_beside_the_fast_path(tmp_path):
    """Sequences of an adapter of experts form groups of their own."""
    folder = save_architecture(tmp_path / "mixtral", "mixtral")
    config = lora(target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    base = AutoModelForCausalLM.from_pretrained(folder)
    save_adapter(tmp_path / "experts", base, config, 3)
    model = peft_decoder(folder, tmp_path / "experts")
    engine = load(folder)
    engine.load_weights(read_adapter(tmp_path / "experts"), key="own", name="own")
    names = [None, "own", None, "own"]
    requests = [
        engine.add(prompt, name, greedy_params(4))
        for prompt, name in zip(PROMPTS, names, strict=True)
    ]
    engine.step()
    assert len(engine.core.scheduler.running) == 2
    assert [len(group.rows) for group in engine.core.padded.groups] == [2]
    assert engine.stats().running == 4
    while engine.busy:
        engine.step()
    for request, prompt, name in zip(requests, PROMPTS, names, strict=True):
        if name:
            assert_same(request.output().tokens, *greedy(model, prompt, 4))
    (alone,) = engine.generate([PROMPTS[0]], [None], greedy_params(4))
    assert requests[0].output().tokens == alone.tokens
    engine.close()


def test_an_invoked_adapter_shares_the_blocks_before_its_invocation(decoder, tmp_path):
    config = lora(alora_invocation_tokens=INVOCATION)
    save_adapter(tmp_path, AutoModelForCausalLM.from_pretrained(decoder), config, 3)
    model = peft_decoder(decoder, tmp_path)
    engine = load(decoder)
    engine.load_weights(read_adapter(tmp_path), key="invoked", name="invoked")
    shared = [6 + i * 5 % 40 for i in range(16)]
    engine.generate([shared], [None], greedy_params(1))
    computed = []
    for prompt, name in (
        ([*shared, *INVOCATION, 7, 9, 11, 12], "invoked"),
        # what the adapter computed is not the base model's
        ([*shared, *INVOCATION, 7, 9, 11, 12], None),
        ([*shared, *INVOCATION, 7, 9, 11, 12, 13], "invoked"),
    ):
        before = engine.stats().computed_tokens
        (found,) = engine.generate([prompt], [name], greedy_params(1))
        computed.append(engine.stats().computed_tokens - before)
        if name:
            assert_same(found.tokens, *greedy(model, prompt, 1))
    # blocks have 4 tokens: 16 and 20 of the 22 and 23 tokens are there
    assert computed == [6, 6, 3]
    engine.close()


def test_sequences_of_one_step_share_a_group_and_leave_it_when_they_finish(lfm2):
    engine = load(lfm2)
    lengths = [2, 6, 4, 6]
    alone = [
        engine.generate([prompt], [None], greedy_params(count))[0].tokens
        for prompt, count in zip(PROMPTS, lengths, strict=True)
    ]
    requests = [
        engine.add(prompt, None, greedy_params(count))
        for prompt, count in zip(PROMPTS, lengths, strict=True)
    ]
    sizes = []
    while engine.busy:
        engine.step()
        sizes.append([len(group.rows) for group in engine.core.padded.groups])
    # what finished in a step leaves before the next
    assert sizes == [[4], [4], [3], [3], [2], []]
    assert [request.output().tokens for request in requests] == alone
    engine.close()


def test_a_cancelled_sequence_leaves_the_others_as_they_are(lfm2):
    engine = load(lfm2)
    expected = engine.generate(PROMPTS, [None] * 4, greedy_params(6))
    requests = [engine.add(prompt, None, greedy_params(6)) for prompt in PROMPTS]
    engine.step()
    engine.cancel(requests[1])
    engine.step()
    engine.cancel(requests[3])
    while engine.busy:
        engine.step()
    reasons = [request.output().finish_reason for request in requests]
    assert reasons == ["length", "cancelled", "length", "cancelled"]
    assert requests[0].output().tokens == expected[0].tokens
    assert requests[2].output().tokens == expected[2].tokens
    assert engine.stats().running == 0
    engine.close()


def test_sequences_are_bounded_in_number_and_in_tokens_of_the_cache(lfm2):
    config = replace(SIZES, max_num_seqs=3, kv_cache_tokens=60)
    engine = load(lfm2, config)
    free = engine.stats().free_blocks
    requests = [engine.add(prompt, None, greedy_params(6)) for prompt in PROMPTS * 2]
    most = 0
    while engine.busy:
        engine.step()
        stats = engine.stats()
        most = max(most, stats.running)
        groups = engine.core.padded.groups
        assert sum(group.reserved_tokens for group in groups) <= 60
        assert stats.free_blocks == engine.core.padded.free_tokens // 4
    assert most == 3
    assert all(request.output().error is None for request in requests)
    assert engine.stats().free_blocks == free
    engine.close()


def test_a_sequence_that_cannot_be_computed_fails_alone(tmp_path):
    """GPT-2's table of positions ends at 64."""
    folder = save_architecture(tmp_path / "gpt2", "gpt2")
    engine = load(folder, PADDED_SIZES)
    long, short = [7 + i % 40 for i in range(62)], PROMPTS[0]
    expected = engine.generate([short], [None], greedy_params(8))[0].tokens
    found = engine.generate([short, long, short], [None] * 3, greedy_params(8))
    assert isinstance(found[1].error, ComputeError)
    assert [each.tokens for each in (found[0], found[2])] == [expected, expected]
    engine.close()


def test_closing_leaves_the_backbone_as_it_was(lfm2):
    backbone = load_backbone(str(lfm2), PLAIN)
    names = [name for name, _ in backbone.base_model.named_modules()]
    attention = backbone.base_model.config._attn_implementation
    engine = Engine(backbone, SIZES)
    engine.generate(PROMPTS, [None] * 4, greedy_params(2))
    engine.close()
    assert [name for name, _ in backbone.base_model.named_modules()] == names
    assert backbone.base_model.config._attn_implementation == attention
    assert greedy(backbone_model(backbone, lfm2), PROMPTS[0], 3)[0]


def backbone_model(backbone, folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    setattr(model, model.base_model_prefix, backbone.base_model)
    return model.eval()
