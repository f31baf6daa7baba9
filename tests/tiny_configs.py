"""Architectures small enough for tests."""

from typing import Any

from transformers import BertConfig, LlamaConfig

_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def llama_config(**changes: Any) -> LlamaConfig:
    """Return a decoder whose query heads share key heads in pairs."""
    return LlamaConfig(**{**_SHAPE, "num_key_value_heads": 2, **changes})


def bert_config(**changes: Any) -> BertConfig:
    """Return an encoder."""
    return BertConfig(**{**_SHAPE, **changes})
