"""Tiny random models of many architectures, and backbones around them without a folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from adapterhub.backbones.backbone import Backbone
from adapterhub.specs import QuantizationSpec

_SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = {**_SHAPE, "num_key_value_heads": 2}
#: Model type and configuration of encoders.
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": _SHAPE,
    "roberta": {**_SHAPE, "pad_token_id": 1, "type_vocab_size": 1},
    "xlm-roberta": {**_SHAPE, "pad_token_id": 1, "type_vocab_size": 1},
    "electra": {**_SHAPE, "embedding_size": 16},
    "albert": {**_SHAPE, "embedding_size": 16},
    "mpnet": {**_SHAPE, "pad_token_id": 1},
    "distilbert": {
        "vocab_size": 96,
        "dim": 32,
        "hidden_dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": 64,
    },
    "deberta-v2": {
        **_SHAPE,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "pooler_hidden_size": 32,
    },
    "modernbert": {**_SHAPE, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
    "eurobert": _DECODER,
}
#: Model type and configuration of decoders.
DECODERS: dict[str, dict[str, Any]] = {
    "llama": _DECODER,
    "qwen2": {**_DECODER, "tie_word_embeddings": True},
    "gpt2": {
        "vocab_size": 96,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "granite": {**_DECODER, "logits_scaling": 8.0},
    "cohere": {**_DECODER, "logit_scale": 0.0625},
    "gemma2": {**_DECODER, "head_dim": 8, "final_logit_softcapping": 1.0, "sliding_window": 8},
    "stablelm": {**_DECODER, "partial_rotary_factor": 0.5},
    "lfm2": {**_DECODER, "layer_types": ["conv", "full_attention"]},
    "opt": {**_SHAPE, "ffn_dim": 64, "word_embed_proj_dim": 32},
}
#: Model type and configuration of decoders whose layers are mixtures of experts.
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        **_DECODER,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "head_dim": 8,
    },
    "mixtral": {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {
        **_DECODER,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 8,
    },
}


def tiny_config(name: str, **changes: Any) -> Any:
    """Return the configuration of a tiny architecture by its model type."""
    return AutoConfig.for_model(name, **{**{**ENCODERS, **DECODERS, **MIXTURES}[name], **changes})


def random_weights(model: torch.nn.Module) -> None:
    """Set weights that make every layer matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if "embed" in name else 0.2
            if parameter.dim() > 1:
                parameter.normal_(0, scale, generator=generator)
            elif "norm" not in name.lower():
                parameter.normal_(0, 0.1, generator=generator)
    model.tie_weights()


def backbone_of(model: torch.nn.Module, tokenizer: Any = None) -> Backbone:
    """Return the backbone of a base model or a causal LM in memory, float32."""
    decoder = hasattr(model, "lm_head") or model.get_output_embeddings() is not None
    base_model = model.base_model if decoder else model
    model.requires_grad_(False).eval()
    return Backbone(
        name="tiny",
        hub_id=None,
        revision=None,
        license=None,
        path=Path("tiny"),
        kind="decoder" if decoder else "encoder",
        quantization=QuantizationSpec("none", "float32"),
        fingerprint=uuid4().hex,
        config=base_model.config,
        preprocessor=tokenizer or SimpleNamespace(pad_token_id=None),
        base_model=base_model,
        lm_head=model.get_output_embeddings() if decoder else None,
        device=torch.device("cpu"),
        attn_implementation=base_model.config._attn_implementation,
    )


def tiny_model(name: str, **changes: Any) -> Any:
    """Return a base model of an encoder, or a causal LM, with random weights in float32."""
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if name in {*DECODERS, *MIXTURES} else AutoModel
    model = auto.from_config(tiny_config(name, **changes)).float()
    random_weights(model)
    return model.eval()


def tiny_backbone(name: str, **changes: Any) -> Backbone:
    """Return a backbone in memory by the model type of its architecture."""
    return backbone_of(tiny_model(name, **changes))
