"""Every kind of adapter gives the tokens of peft, alone and in a batch with others."""

from dataclasses import replace

import peft
import pytest
import torch
from kind_helpers import (
    INVOCATION,
    PLAIN,
    SMALL,
    WORDED,
    assert_equal,
    check,
    generate,
    lora,
    peft_decoder,
    read_adapter,
    save_adapter,
    save_decoder,
)
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.adapter_preparation import num_virtual_tokens
from adapterhub.engine.engine import Engine
from adapterhub.engine.prepared_adapter import LoraFactors, PrefixStates
from adapterhub.errors import EngineError

LLAMA_KINDS = {
    "plain": lora(),
    "rank_pattern": lora(rank_pattern={"q_proj": 9, "layers.1.self_attn.v_proj": 2}),
    "alpha_pattern": lora(
        use_rslora=True, rank_pattern={"v_proj": 2}, alpha_pattern={"o_proj": 3, "v_proj": 5}
    ),
    "dora_pattern": lora(use_dora=True, rank_pattern={"q_proj": 2}),
    "lora_bias": lora(lora_bias=True),
    "bias_lora_only": lora(bias="lora_only"),
    "bias_all": lora(bias="all"),
    "tokens": lora(trainable_token_indices=[6, 9, 20]),
    "embeddings": lora(target_modules=["embed_tokens", "q_proj"]),
    "output": lora(target_modules=["lm_head", "q_proj"]),
    "dora_embeddings": lora(target_modules=["embed_tokens", "q_proj"], use_dora=True),
    "saved_vocabulary": lora(modules_to_save=["embed_tokens", "lm_head"]),
    "saved_norms": lora(modules_to_save=["input_layernorm", "norm"]),
    "saved_mlp": lora(modules_to_save=["mlp"]),
    "saved_attention": lora(target_modules=["gate_proj"], modules_to_save=["self_attn"]),
    "alora": lora(alora_invocation_tokens=INVOCATION),
    "ia3": peft.IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "p_tuning": peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=16
    ),
}


def llama(**changes):
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaConfig(**shape, **heads, **WORDED, **changes)


def test_llama(tmp_path):
    save_decoder(tmp_path, llama(tie_word_embeddings=False, attention_bias=True))
    check(tmp_path, LLAMA_KINDS)


def test_llama_with_a_tied_output_layer(tmp_path):
    save_decoder(tmp_path, llama(tie_word_embeddings=True))
    names = ("tokens", "embeddings", "output", "dora_embeddings", "saved_vocabulary")
    check(tmp_path, {name: LLAMA_KINDS[name] for name in names})


def test_gpt2(tmp_path):
    config = GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=64, **WORDED)
    save_decoder(tmp_path, config)
    targets = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    kinds = {
        "plain": lora(**targets),
        "dora": lora(**targets, use_dora=True),
        "bias_all": lora(**targets, bias="all"),
        "saved": lora(target_modules=["c_attn"], fan_in_fan_out=True, modules_to_save=["mlp"]),
        "ia3": peft.IA3Config(
            task_type="CAUSAL_LM",
            target_modules=["c_attn", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            fan_in_fan_out=True,
        ),
    }
    check(tmp_path, kinds)


def test_kinds_that_are_no_sum_are_not_blended(tmp_path):
    save_decoder(tmp_path, llama())
    engine = Engine(load_backbone(str(tmp_path), PLAIN), SMALL)
    for name in ("plain", "ia3", "tokens", "saved_mlp", "bias_lora_only"):
        base = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        save_adapter(tmp_path / name, base, LLAMA_KINDS[name], 1)
        engine.load_weights(read_adapter(tmp_path / name), key=name, name=name)
    for name in ("ia3", "tokens", "saved_mlp"):
        with pytest.raises(EngineError, match="cannot be blended"):
            engine.add([6, 7, 8], [("plain", 0.5), (name, 0.5)])
    engine.close()


def test_alora_reuses_blocks_of_the_base_model(tmp_path):
    save_decoder(tmp_path, llama())
    base = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    save_adapter(tmp_path / "a", base, LLAMA_KINDS["alora"], 1)
    engine = Engine(load_backbone(str(tmp_path), PLAIN), SMALL)
    engine.load_weights(read_adapter(tmp_path / "a"), key="a", name="a")
    context = list(range(20, 41))
    prompt = [*context, *INVOCATION, 6, 7]
    generate(engine, [(context, None)], 2)
    before = engine.core.stats().computed_tokens
    (answer,) = generate(engine, [(prompt, "a")], 3)
    # the base model's blocks of 4 up to the invocation, then a token for each but the last
    assert engine.core.stats().computed_tokens - before == len(prompt) - 20 + 2
    assert_equal(peft_decoder(tmp_path, tmp_path / "a"), prompt, answer)
    # the adapter's own blocks are not those of the base model
    (again,) = generate(engine, [(prompt, None)], 3)
    assert_equal(peft_decoder(tmp_path, None), prompt, again)
    engine.close()


def test_a_computed_prompt_is_used_alone():
    layer = torch.zeros(2, 1, 4)
    prompt = PrefixStates((layer,), (layer,), computed=True)
    pair = LoraFactors(1, {0: (torch.ones(1, 4), torch.ones(1, 4))})
    assert num_virtual_tokens([prompt], [1.0]) == 2
    assert num_virtual_tokens([replace(prompt, computed=False), pair], [1.0, 0.5]) == 2
    with pytest.raises(EngineError, match="depends on the other adapters"):
        num_virtual_tokens([prompt, pair], [1.0, 0.5])
