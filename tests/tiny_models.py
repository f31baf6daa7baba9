"""Tiny random models of any architecture that transformers' auto classes list.

``tiny_model_folder`` shrinks the default configuration by the names of its fields. Where the
result can't be built, groups of changes are taken back until it can, so that architectures that
nobody named here work as well.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

#: Vocabularies of minilm-l6 and smollm2-135m-instruct, cut to their first tokens.
TOKENIZERS = Path(__file__).parent / "tiny_tokenizers"

AUTO_CLASSES = {
    "base": AutoModel,
    "causal_lm": AutoModelForCausalLM,
    "masked_lm": AutoModelForMaskedLM,
    "seq2seq_lm": AutoModelForSeq2SeqLM,
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "image": AutoModelForImageClassification,
}

SIDE = 64
LAYERS, HEADS, HEAD_DIM, HIDDEN = 2, 4, 16, 64
#: Parameters that a tiny model may have; among changes that can be built, the first below wins.
_ENOUGH = 6_000_000
_TOO_MUCH = 60_000_000
#: Equal errors in a row after which an architecture is given up.
_PATIENCE = 8

#: Fields by group: pattern of the name and new value. A group is taken back as a whole.
_RULES: dict[str, list[tuple[str, int]]] = {
    "width": [
        (r"hidden_size|d_model|n_embd|dim|emb_dim|d_latents|lru_width|word_embed_proj_dim", 64),
        (r"attention_hidden_size|prediction_head_size|pooler_hidden_size|pooler_output_size", 64),
        (r"out_hidden_size|projection_dim|projection_size|input_embedding_size|embed_dim", 64),
        (r"embedding_dim|output_embedding_size|embedding_size", 64),
        (r"coordinate_size", 8),
        (r"shape_size", 16),
        (r"(\w*_)?intermediate_size|d_inner|((en|de)coder_)?ffn_dim|dff|d_ff|dim_ff|n_inner", 128),
        (r"(\w*_)?ffn_hidden_size", 128),
        (r"hidden_dim|mlp_dim|inner_dim|feed_forward_size|intermediate_size_mlp", 128),
    ],
    "heads": [
        (r"(swa_)?num_attention_heads|n_heads?|num_heads|attention_heads", HEADS),
        (r"num_(self|cross)_attention_heads|linear_num_heads|index_n_heads", HEADS),
        (r"(en|de)coder_attention_heads", HEADS),
    ],
    "kv": [(r"(swa_)?num_key_value_heads|num_kv_heads|linear_num_key_heads", 2)],
    "value_heads": [(r"linear_num_value_heads", 4)],
    "head_dim": [
        (r"(swa_|linear_|index_)?head_dim|d_head|dim_head|d_kv|kv_channels", HEAD_DIM),
        (r"attention_head_(dim|size)", HEAD_DIM),
        (r"linear_(key|value)_head_dim|global_head_dim|v_head_dim|qk_nope_head_dim", HEAD_DIM),
        (r"qk_rope_head_dim|rotary_dim", 8),
        (r"query_pre_attn_scalar", 24),
    ],
    "ranks": [
        (r"kv_lora_rank|o_lora_rank|\w*_rank|adapter_rank|\w*lowrank", 16),
        (r"q_lora_rank", 32),
    ],
    "layers": [
        (r"num_hidden_layers|n_layers?|num_layers|num_blocks|depth", LAYERS),
        (r"num_decoder_layers|(en|de)coder_layers", LAYERS),
        (r"num_self_attends_per_block|num_layers_per_stack", 1),
        (r"attn_layer_period|layer_group_size|global_attn_every_n_layers", 2),
        (r"sliding_window_pattern", 2),
        (r"attn_layer_offset|first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
        (r"num_kv_shared_layers|num_nextn_predict_layers", 0),
        (r"moe_layer_end_index", LAYERS - 1),
        (r"max_window_layers", 1),
    ],
    "experts": [
        (r"num_experts|n_routed_experts|num_local_experts|moe_num_experts", 4),
        (r"num_experts_per_tok|moe_topk|moe_top_k|moe_k|top_k_experts", 2),
        (r"zero_expert_num|n_shared_experts|num_shared_experts|moe_num_shared_experts", 1),
        (r"n_group|topk_group|num_expert_group", 1),
        (r"num_groups|groups_width", 8),
    ],
    "state": [
        (r"mamba_d_state|state_size|ssm_state_size", 8),
        (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8),
        (r"mamba_d_head|mamba_head_dim|mamba_headdim", 16),
        (r"mamba_n_groups|mamba_ngroups|n_groups", 1),
        (r"mamba_dt_rank|time_step_rank", 4),
        (r"mamba_d_ssm", 128),
        (r"mamba_chunk_size|chunk_size", 16),
        (r"attention_window_size", 32),
    ],
    "window": [
        (r"(\w+_)?sliding_window(_size)?|local_attention|attention_window|window_size", 16),
        (r"attention_chunk_size|keep_window_size|index_topk|keep_window_size", 16),
    ],
    "positions": [
        (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length", 514),
        (r"model_max_length|rel_extent", 514),
        (r"num_position_embeddings", 16),
    ],
    "tables": [
        (r"(\w+_)?vocab_size_per_layer_input", 3000),
        (r"entity_vocab_size|\w+_vocab_size_base", 600),
        (r"num_hash_buckets|encoder_hash_byte_group_vocab|ngram_vocab_size_base", 600),
        (r"hidden_size_per_layer_input|ple_embed_dim|entity_emb_size", 32),
    ],
    "images": [(r"image_size|input_size", SIDE)],
    "patches": [(r"patch_size", 16)],
}  # fmt: skip
_PATTERNS = {
    group: [(re.compile(pattern), value) for pattern, value in rules]
    for group, rules in _RULES.items()
}
_ALWAYS = {"pad_token_id", "bos_token_id", "eos_token_id"}
#: Fields that transformers can't run, or shrunk ones that don't fit, as their default is.
_NEEDED = {"attn_layer_indices": [1]}
_NEEDED_BY: dict[str, dict[str, Any]] = {
    "bigbird_pegasus": {"attention_type": "original_full"},
    "cvt": {"depth": [1, 2, 3]},
    "efficientnet": {"hidden_dim": 2560},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "reformer": {"axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    },
}
#: Groups of fields that are also set where their default is ``None``.
_SET_IF_NONE = ("kv", "experts", "head_dim")
_WIDTH_LISTS = re.compile(r"hidden_sizes|embed_dims|embed_dim|neck_hidden_sizes")
_DEPTH_LISTS = re.compile(r"depths|depth|num_block_repeats|stage_num_blocks")


def tiny_model_folder(
    folder: Path, model_type: str, head: str | None = None, *, seed: int = 0, **changes: Any
) -> Path:
    """Save a tiny random model of an architecture with tokenizer or image processor.

    Args:
        folder: Folder that is created, with ``model_type`` as its last part.
        model_type: transformers' ``model_type``.
        head: Key of ``AUTO_CLASSES``; what a checkpoint usually has if ``None``: the language
            model of decoders, else the base model.
        seed: Seed of the random weights.
        changes: Fields of the configuration set after shrinking.

    Returns:
        The folder of the model.
    """
    model = tiny_model(model_type, head, seed=seed, **changes)
    target = Path(folder) / model_type
    model.save_pretrained(target)
    save_preprocessor(model, target)
    return target


def tiny_model(
    model_type: str, head: str | None = None, *, seed: int = 0, **changes: Any
) -> torch.nn.Module:
    """Return a tiny random model of an architecture in float32 and evaluation mode."""
    problems = []
    best: tuple[int, Any] | None = None
    for groups in _group_choices():
        try:
            config = tiny_config(model_type, groups, **changes)
            config.architectures = config.architectures or []
            auto = AUTO_CLASSES[head or default_head(config)]
            with torch.device("meta"):
                count = sum(p.numel() for p in auto.from_config(config).parameters())
            if count >= (_TOO_MUCH if best is None else best[0]):
                raise ValueError(f"it has {count} parameters")
            model = _random_model(auto, config, seed)
            _forward_works(model)
        except Exception as error:  # noqa: BLE001 - whatever the architecture refuses
            problems.append(f"{type(error).__name__}: {error}")
            if len(problems) == _PATIENCE and len(set(problems)) == 1:
                break  # no change of sizes helps
            continue
        if count <= _ENOUGH:
            return model
        best = (count, model)
    if best is None:
        raise RuntimeError(f"no tiny model of {model_type!r}: {problems[0]}")
    return best[1]


def _group_choices() -> list[frozenset[str]]:
    """Return sets of groups to apply, all of them first, then without one, then without two."""
    groups = frozenset(_RULES) | {"lists", "kinds"}
    fewer = [groups - {one} for one in sorted(groups)]
    pairs = [groups - set(two) for two in itertools.combinations(sorted(groups), 2)]
    return [groups, *fewer, *pairs]


def is_vision(config: Any) -> bool:
    """Return whether an architecture classifies images and reads no text alone."""
    return (
        type(config) in AutoModelForImageClassification._model_mapping
        and type(config) not in AutoModelForMaskedLM._model_mapping
        and type(config) not in AutoModelForCausalLM._model_mapping
    )


def default_head(config: Any) -> str:
    """Return what checkpoints of an architecture usually hold."""
    if config.is_encoder_decoder:
        return "seq2seq_lm"
    causal = type(config) in AutoModelForCausalLM._model_mapping
    masked = type(config) in AutoModelForMaskedLM._model_mapping
    return "causal_lm" if causal and not masked else "base"


def tokenizer_folder(config: Any) -> Path:
    """Return the folder of the tokenizer for a configuration."""
    return TOKENIZERS / ("decoder" if default_head(config) == "causal_lm" else "encoder")


def tiny_config(model_type: str, groups: frozenset[str] | None = None, **changes: Any) -> Any:
    """Return a shrunk configuration of an architecture."""
    default = AutoConfig.for_model(model_type)
    config = _shrunk(default, groups or _group_choices()[0], tokenizer_folder(default))
    for name, value in changes.items():
        setattr(config, name, value)
    return type(config).from_dict(config.to_dict()) if changes else config


def _shrunk(default: Any, groups: frozenset[str], tokenizer: Path) -> Any:
    cls = type(default)
    names = {field.name for field in dataclasses.fields(cls)}
    layers = _value(default, "num_hidden_layers")
    layers = layers if isinstance(layers, int) else None
    length = _num_layers(default, names, layers) if "kinds" in groups else LAYERS
    changed: dict[str, Any] = {}
    for name in names:
        value = _value(default, name)
        new = _new_value(name, value, groups, layers, length)
        if new is not None:
            changed[name] = new
    if "kinds" in groups and "num_hidden_layers" in changed:
        changed["num_hidden_layers"] = length
    if "qk_rope_head_dim" in names:
        # multi-head latent attention has as many key heads as heads
        changed.pop("head_dim", None)
        changed.pop("num_key_value_heads", None)
    needed = _NEEDED | _NEEDED_BY.get(default.model_type, {})
    changed |= {name: value for name, value in needed.items() if name in names}
    _set_tokens(default, names, changed, tokenizer)
    if default.is_encoder_decoder:
        changed |= _decoder_tokens(default, tokenizer)
    for name in default.sub_configs or ():
        inner = getattr(default, name, None)
        if inner is not None and hasattr(inner, "to_dict"):
            changed[name] = _shrunk(inner, groups, tokenizer).to_dict()
    _shrink_rope(default, changed)
    return cls(**changed)


def _value(config: Any, name: str) -> Any:
    """Return a field; where layers may differ, transformers wants to be asked for a layer."""
    try:
        return getattr(config, name, None)
    except Exception:  # noqa: BLE001
        return config.__dict__.get(name)


def _new_value(
    name: str, value: Any, groups: frozenset[str], layers: int | None, length: int
) -> Any:
    """Return the new value of a field, or ``None`` to keep its default."""
    if isinstance(value, list | tuple):
        return _new_list(name, list(value), groups, layers, length)
    if isinstance(value, bool) or not isinstance(value, int | None):
        return None
    for group in groups & (set(_PATTERNS) if value is not None else set(_SET_IF_NONE)):
        for pattern, new in _PATTERNS[group]:
            if pattern.fullmatch(name):
                smaller = value and group in {"experts", "window", "patches"}
                return min(new, value) if smaller else new
    return None


def _new_list(
    name: str, value: list[Any], groups: frozenset[str], layers: int | None, length: int
) -> Any:
    if not value:
        return None
    if layers and len(value) == layers and "kinds" in groups:
        if all(isinstance(each, str) for each in value):
            kinds = list(dict.fromkeys(value))
            return (kinds + [kinds[-1]] * length)[:length]
        inner = [_new_value(name, each, groups, None, length) for each in value[:length]]
        return [new if new is not None else old for new, old in zip(inner, value, strict=False)]
    if "lists" in groups and all(isinstance(each, int) for each in value):
        if _WIDTH_LISTS.fullmatch(name):
            return [-(-each * 2 // value[0]) * 8 for each in value]
        if _DEPTH_LISTS.fullmatch(name):
            return [1] * len(value)
    if "images" in groups and name == "image_size":
        return [SIDE] * len(value)
    return None


def _num_layers(default: Any, names: set[str], layers: int | None) -> int:
    """Return a number of layers that has each kind of layer once."""
    kinds = [LAYERS]
    for name in names:
        value = _value(default, name)
        listed = layers and isinstance(value, list | tuple) and len(value) == layers
        if listed and all(isinstance(each, str) for each in value):
            kinds.append(len(set(value)))
    return max(kinds)


def _set_tokens(default: Any, names: set[str], changed: dict[str, Any], folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if "vocab_size" in names:
        changed["vocab_size"] = len(tokenizer)
    free = len(tokenizer) - 1
    for name in sorted(names):
        kind = name.removesuffix("_id").removesuffix("_index")
        own = getattr(tokenizer, f"{kind}_id", None) if kind.endswith("_token") else None
        value = _value(default, name)
        if own is not None and (name in _ALWAYS or (name.endswith("_id") and value is not None)):
            changed[name] = own
        elif re.search(r"_token_(id|index)$", name) and isinstance(value, int) and value > free:
            changed[name], free = free, free - 1


#: Architectures whose decoder begins with the end of text; mBART's with the end of the target.
_BEGIN_WITH_END = {"bart", "m2m_100", "nllb-moe", "led", "fsmt", "mvp", "plbart", "mbart"}


def _decoder_tokens(default: Any, folder: Path) -> dict[str, Any]:
    """Return the special tokens of an encoder-decoder with the encoders' tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id}
    ids["eos_token_id"] = tokenizer.sep_token_id
    begins_with_end = default.model_type in _BEGIN_WITH_END
    ids["decoder_start_token_id"] = ids["eos_token_id" if begins_with_end else "pad_token_id"]
    return ids | {"forced_bos_token_id": None, "forced_eos_token_id": None}


def _shrink_rope(default: Any, changed: dict[str, Any]) -> None:
    """Make the sections of multimodal rotary positions add up to the shrunk head."""
    rope = copy.deepcopy(_value(default, "rope_parameters"))
    if not isinstance(rope, dict):
        return
    found = False
    flat = not any(isinstance(each, dict) for each in rope.values())
    if flat and rope.get("rope_theta") is None:
        rope, found = {**rope, "rope_theta": 10000.0}, True
    for part in (rope, *(each for each in rope.values() if isinstance(each, dict))):
        section = part.get("mrope_section")
        if section:
            half = int(HEAD_DIM * part.get("partial_rotary_factor", 1.0)) // 2
            rest = [half // len(section)] * (len(section) - 1)
            part["mrope_section"] = [half - sum(rest), *rest]
            found = True
    if found:
        changed["rope_parameters"] = rope


def _random_model(auto: Any, config: Any, seed: int) -> torch.nn.Module:
    """Return a model whose layers and biases all change its output visibly."""
    torch.manual_seed(seed)
    model = auto.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not torch.isfinite(parameter).all():
                parameter.normal_(std=0.1)
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point() or parameter.numel() < 2:
                continue
            ending = name.rpartition(".")[2]
            spread, mean = float(parameter.std()), float(parameter.mean().abs())
            if parameter.dim() >= 2 and mean < spread < 0.08:
                # the usual initialisation, with which layers hardly matter
                parameter.mul_((0.5 if "embed" in name else 0.13) / spread)
            elif parameter.dim() == 1 and ending in {"weight", "bias"} and spread == 0.0:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if getattr(model, "final_logits_bias", None) is not None:
            model.final_logits_bias.normal_()
    return model


def probe_inputs(model: Any, batch: int = 1, length: int = 12) -> dict[str, torch.Tensor]:
    """Return inputs for a model's ``forward``: random token ids or images."""
    generator = torch.Generator().manual_seed(5)
    if is_vision(model.config):
        config = getattr(model.config, "vision_config", model.config)
        channels = getattr(config, "num_channels", 3)
        inputs = {"pixel_values": torch.randn(batch, channels, SIDE, SIDE, generator=generator)}
        return inputs | (_probe_ids(model, batch, length, generator) if _has_text(model) else {})
    return _probe_ids(model, batch, length, generator)


def _has_text(model: Any) -> bool:
    return "input_ids" in _parameters(model)


def _parameters(model: Any) -> Any:
    return inspect.signature(model.forward).parameters


def _probe_ids(
    model: Any, batch: int, length: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    high = min(getattr(model.config.get_text_config(), "vocab_size", None) or 256, 900)
    inputs = {"input_ids": torch.randint(200, high, (batch, length), generator=generator)}
    if model.config.is_encoder_decoder and "decoder_input_ids" in _parameters(model):
        inputs["decoder_input_ids"] = inputs["input_ids"][:, : length // 2]
    return inputs


def _forward_works(model: Any) -> None:
    with torch.no_grad():
        output = model(**probe_inputs(model))
    first = output[0] if isinstance(output[0], torch.Tensor) else output[0][0]
    if not torch.isfinite(first.float()).all():
        raise ValueError("its output is not finite")


def save_preprocessor(model: Any, folder: Path) -> None:
    """Save the tokenizer or image processor that a model needs."""
    import transformers

    config = model.config
    if is_vision(config):
        processor = transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
        names = IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type)
        own = getattr(transformers, names["pil"], None) if names and "pil" in names else None
        if own is not None and set(own.model_input_names) > {"pixel_values"}:
            # patches instead of images
            processor = own(patch_size=config.vision_config.patch_size, max_num_patches=16)
        processor.save_pretrained(folder)
        return
    source = tokenizer_folder(config)
    if config.is_encoder_decoder:
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
        tokenizer.save_pretrained(folder)
        return
    for path in source.iterdir():
        shutil.copy(path, folder / path.name)
