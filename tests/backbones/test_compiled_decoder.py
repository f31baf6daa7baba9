"""The compiled step against the layers of transformers, over mixes of chunks and adapters."""

import pytest
import torch
from tiny_configs import llama_config
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from adapterhub.backbones import decoder_check
from adapterhub.backbones.compiled_decoder import (
    CompiledDecoder,
    adapted_linears,
    linear_modules,
    why_not_compiled,
)
from adapterhub.backbones.fast_decoder import FastDecoder
from adapterhub.backbones.step_inputs import paged_tokens, step_adapters
from adapterhub.engine.adapter_slots import Blend, Slot
from adapterhub.engine.forward_context import ForwardContext, set_forward_context
from adapterhub.engine.lora_linear import install_lora_linears
from adapterhub.kernels.amx import has_amx
from adapterhub.kernels.attention.cpu import attend_pages
from adapterhub.kernels.attention.kv_cache import KeyValueCache
from adapterhub.kernels.attention.paged import PagedSequence, paged_batch
from adapterhub.kernels.lora.cpu import CpuLoraKernel

SLOTS = 320
#: Number of tokens of three sequences in each step; the last has items of all heads.
STEPS = ([20, 1, 33], [1, 17, 1], [1, 1, 1], [2, 1, 40], [70, 40, 20])
LLAMA = {"head_dim": 32, "vocab_size": 200}
QWEN2 = Qwen2Config(
    hidden_size=96,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    vocab_size=200,
)


def adapted(kind, config):
    torch.manual_seed(0)
    base = kind(config).to(torch.bfloat16).eval().requires_grad_(False).model
    for layer in install_lora_linears(base, torch.bfloat16, CpuLoraKernel()).values():
        layer.allocate(64, torch.device("cpu"))
        layer.a.normal_(0, 0.1)
        layer.b.normal_(0, 0.1)
    reason = why_not_compiled(base)
    if reason is not None and "layout" in reason:
        pytest.skip("this CPU has no packed bfloat16 layers")
    assert reason is None
    return base


def blends(count):
    """Return a base model, an adapter, and a blend of two with different layers."""
    whole, some = frozenset(range(count)), frozenset(i for i in range(count) if i % 3)
    a, b, c = Slot("a", 0, 16, whole), Slot("b", 20, 5, some), Slot("c", 30, 8, whole)
    return [Blend(), Blend(((a, 1.0),)), Blend(((b, 0.5), (c, -1.0)))]


def cache_of(base):
    config = base.config
    return KeyValueCache(
        layers=config.num_hidden_layers,
        heads=config.num_key_value_heads,
        width=base.layers[0].self_attn.head_dim,
        blocks=SLOTS // 16,
        block_size=16,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )


class Steps:
    """Runs the same steps with both decoders."""

    def __init__(self, base):
        self.base, self.modules = base, linear_modules(base)
        self.caches = cache_of(base), cache_of(base)
        self.fast = FastDecoder(base)
        self.compiled = CompiledDecoder(base, adapted_linears(base), self.caches[1])
        self.uses = blends(len(self.modules))
        self.slots = torch.randperm(SLOTS).split(100)
        self.done = [0, 0, 0]

    def __call__(self, counts):
        sequences, start, positions = [], 0, []
        for index, count in enumerate(counts):
            end = self.done[index] + count
            sequences.append(PagedSequence(start, count, end, self.slots[index][:end]))
            positions.append(torch.arange(self.done[index], end))
            self.done[index], start = end, start + count
        ids, positions = torch.randint(0, 200, (1, start)), torch.cat(positions)[None]
        context = ForwardContext(list(zip(counts, self.uses, strict=True)))
        fast, compiled = (paged_batch(each, sequences, attend_pages) for each in self.caches)
        with torch.no_grad(), set_forward_context(context):
            expected = self.fast(ids, positions, fast)
            plans = [context.plan(each.number) for each in self.modules]
            adapters = step_adapters(plans, start, tiled=self.compiled.tiled)
            found = self.compiled(paged_tokens(ids, positions, compiled), adapters)
        return found.float(), expected.float()


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (LlamaForCausalLM, llama_config(**LLAMA)),
        (LlamaForCausalLM, llama_config(**LLAMA, num_hidden_layers=3, num_key_value_heads=4)),
        (Qwen2ForCausalLM, QWEN2),
    ],
)
def test_the_compiled_step_equals_the_layers(kind, config):
    steps = Steps(adapted(kind, config))
    for counts in STEPS:
        found, expected = steps(counts)
        assert float((found - expected).abs().mean()) < 0.01
        assert float((found - expected).abs().max()) < 0.1


def test_a_token_does_not_depend_on_its_batch():
    base = adapted(LlamaForCausalLM, llama_config(**LLAMA))
    cache = cache_of(base)
    compiled = CompiledDecoder(base, adapted_linears(base), cache)
    ids = torch.randint(0, 200, (1, 9))

    def run(counts):
        sequences, start = [], 0
        for count in counts:
            slots = torch.arange(start, start + count)
            sequences.append(PagedSequence(start, count, count, slots))
            start += count
        positions = torch.cat([torch.arange(count) for count in counts])[None]
        batch = paged_batch(cache, sequences, attend_pages)
        tokens = paged_tokens(ids[:, :start], positions, batch)
        return compiled(tokens, step_adapters([None] * len(linear_modules(base)), start))

    assert torch.equal(run([3]), run([3, 2, 4])[:3])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head_dim": 16}, "heads of 16"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rotary embeddings"),
        ({"intermediate_size": 72}, "packed layout"),
    ],
)
def test_the_reason_against_the_step_is_named(changes, reason):
    base = LlamaForCausalLM(llama_config(**{**LLAMA, **changes})).to(torch.bfloat16).model
    install_lora_linears(base, torch.bfloat16, CpuLoraKernel())
    found = why_not_compiled(base)
    assert found is not None
    # without tiles bfloat16 layers are not packed, which is the first reason then
    assert reason in found or not has_amx()


@pytest.mark.parametrize("token", [-1, 200])
def test_a_token_outside_of_the_embedding_is_refused(token):
    base = adapted(LlamaForCausalLM, llama_config(**LLAMA))
    cache = cache_of(base)
    compiled = CompiledDecoder(base, adapted_linears(base), cache)
    batch = paged_batch(cache, [PagedSequence(0, 2, 2, torch.arange(2))], attend_pages)
    tokens = paged_tokens(torch.tensor([[3, token]]), torch.arange(2)[None], batch)
    with pytest.raises(IndexError, match=f"token id {token} .*200"):
        compiled(tokens, step_adapters([None] * len(linear_modules(base)), 2))


def test_the_check_sees_a_wrong_step(monkeypatch, caplog):
    base = adapted(LlamaForCausalLM, llama_config(**LLAMA))

    class Backbone:
        base_model, config, name = base, base.config, "toy"
        device = torch.device("cpu")

    assert decoder_check.check_compiled_decoder(Backbone)
    own = decoder_check.step_adapters
    monkeypatch.setattr(
        decoder_check, "step_adapters", lambda plans, n, **_: own([None] * len(plans), n)
    )
    assert not decoder_check.check_compiled_decoder(Backbone)
    assert "no compiled step: hidden states differ" in caplog.text
