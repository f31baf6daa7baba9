"""Tiny decoders whose caches differ: recurrent, convolutional, latent, with sinks, caps, alibi."""

from typing import Any

import torch
from toy_fixtures import save_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

_TOKENS = {"vocab_size": 96, "bos_token_id": 4, "eos_token_id": 5, "pad_token_id": 0}
_SHAPE = {
    **_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_DECODER = {**_SHAPE, "num_key_value_heads": 2, "max_position_embeddings": 128}
_GPT = {**_TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4}
_LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
#: Name to model type and fields of the configuration.
PADDED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _DECODER),
    "lfm2": ("lfm2", {**_DECODER, "layer_types": ["conv", "full_attention"]}),
    "qwen3_next": (
        "qwen3_next",
        {
            **_DECODER,
            "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "falcon_h1": (
        "falcon_h1",
        {
            **_DECODER,
            "head_dim": 8,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
        },
    ),
    "mamba2": (
        "mamba2",
        {
            **_TOKENS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 8,
            "state_size": 8,
            "n_groups": 1,
        },
    ),
    "recurrent_gemma": (
        "recurrent_gemma",
        {
            **_DECODER,
            "lru_width": 32,
            "num_hidden_layers": 3,
            "attention_window_size": 8,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
    ),
    "rwkv": (
        "rwkv",
        {**_TOKENS, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2},
    ),
    "gemma2": (
        "gemma2",
        {**_DECODER, "head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 1.0},
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            **_DECODER,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "bloom": ("bloom", {**_TOKENS, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "gpt2": ("gpt2", {**_GPT, "n_positions": 64}),
    "openai-gpt": ("openai-gpt", {**_GPT, "n_positions": 64}),
    "falcon": (
        "falcon",
        {**_TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
    "deepseek_v3": (
        "deepseek_v3",
        {
            **_SHAPE,
            "max_position_embeddings": 128,
            "num_key_value_heads": 4,
            "kv_lora_rank": 8,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 16,
        },
    ),
    "mixtral": (
        "mixtral",
        {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "stablelm": ("stablelm", {**_DECODER, "partial_rotary_factor": 0.5}),
    "granite": ("granite", {**_DECODER, "logits_scaling": 8.0}),
    "cohere": ("cohere", {**_DECODER, "logit_scale": 0.0625}),
    "phi3-longrope": (
        "phi3",
        {
            **_DECODER,
            "original_max_position_embeddings": 16,
            "rope_parameters": _LONG_ROPE,
        },
    ),
    "dynamic": (
        "llama",
        {
            **_DECODER,
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        },
    ),
}


def save_architecture(folder, name, tokenizer=None):
    """Save a tiny random model whose layers all matter.

    Args:
        tokenizer: Folder of the tokenizer; that of the toy words by default.
    """
    kind, settings = PADDED[name]
    if tokenizer is not None:
        words = AutoTokenizer.from_pretrained(tokenizer)
        settings = {**settings, "vocab_size": len(words), "eos_token_id": words.eos_token_id}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).float()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5 if "emb" in path or "wte" in path else 0.2)
    model.tie_weights()
    model.save_pretrained(folder)
    if tokenizer is None:
        save_tokenizer(folder, encoder=False)
    else:
        words.save_pretrained(folder)
    return folder
