"""Configurations of tiny architectures for tests."""

from typing import Any

from transformers import (
    BertConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def llama_config(**changes: Any) -> LlamaConfig:
    """Return a decoder with two query heads per key head."""
    return LlamaConfig(**{**_SHAPE, "num_key_value_heads": 2, **changes})


def bert_config(**changes: Any) -> BertConfig:
    """Return an encoder."""
    return BertConfig(**{**_SHAPE, **changes})


def modernbert_config(**changes: Any) -> ModernBertConfig:
    """Return an encoder whose heads have more layers than one."""
    special = dict.fromkeys(("bos_token_id", "cls_token_id"), 1)
    special |= {"pad_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}
    return ModernBertConfig(**{**_SHAPE, **special, **changes})


#: Size of the sliding window in tokens, in layers that have one.
WINDOW = 8
#: Configuration of decoders that generate words of the toy tokenizer.
WORDED = {
    "vocab_size": 64,
    "initializer_range": 0.2,  # logits wide enough to separate words
    "bos_token_id": 4,
    "eos_token_id": 5,
    "pad_token_id": 0,
}


def family_configs() -> dict[str, PretrainedConfig]:
    """Return a decoder of each architecture that the engine is tested with."""
    shape = {**_SHAPE, "num_key_value_heads": 2, **WORDED}
    slid = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
    return {
        "llama": LlamaConfig(**shape),
        "qwen2": Qwen2Config(**shape, tie_word_embeddings=True),
        "qwen2-sliding": Qwen2Config(**shape, use_sliding_window=True, **slid),
        "qwen3": Qwen3Config(**shape, head_dim=24),
        "mistral": MistralConfig(**shape, sliding_window=WINDOW),
        "gemma3": Gemma3TextConfig(
            **shape, **slid, head_dim=24, query_pre_attn_scalar=10, final_logit_softcapping=30.0
        ),
    }
