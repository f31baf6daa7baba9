"""peft's configuration and tensor keys, and their translation to adapter specs.

Sources: ``peft/tuners/lora/config.py``, ``peft/tuners/prefix_tuning/config.py`` and
``peft/utils/save_and_load.py`` of peft 0.21.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from adapterhub.adapters.peft_initializations import init_lora_weights, init_name
from adapterhub.adapters.peft_kinds import UNUSED_LORA_KEYS, check_kind, check_variant
from adapterhub.adapters.strict_json import FOREIGN, Schema
from adapterhub.errors import ArtifactError, RecipeError
from adapterhub.specs import (
    AdapterSpec,
    BiasKind,
    Ia3Spec,
    LoraSpec,
    PrefixSpec,
    PromptSpec,
)

if TYPE_CHECKING:
    from peft import PeftConfig

ALL_LINEAR = "all-linear"
CONFIG_NAME = "adapter_config.json"
#: Keys of LoRA tensors in ``adapter_model.safetensors``. LoRA on a parameter of a module, such as
#: the experts of a mixture, has the keys of LoRA on the module; for its second parameter the
#: module's path ends in ``.base_layer``.
LORA_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector"
    r"|lora_embedding_A|lora_embedding_B)"
)
#: peft's names of ``A`` and ``B``, in a linear layer and in an embedding.
LINEAR_PARTS = ("lora_A.weight", "lora_B.weight")
EMBEDDING_PARTS = ("lora_embedding_A", "lora_embedding_B")
#: peft's name of the bias of ``B``.
LORA_BIAS_PART = "lora_B.bias"
#: Key of the vectors of ``trainable_token_indices``, [num_tokens, hidden_size].
TOKENS_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.token_adapter\.trainable_tokens_delta")
#: Key of the factors of (IA)^3: [1, in_features] of a feedforward module, [out_features, 1] else.
IA3_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.ia3_l")
#: Key of a bias that ``bias: all`` or ``bias: lora_only`` stores; a layer with LoRA has it in its
#: ``base_layer``.
BIAS_KEY = re.compile(r"base_model\.model\.(?P<module>.+?)(?:\.base_layer)?\.bias")
#: Key of a weight in full, as of an embedding: peft stores it beside the LoRA on it (then with
#: ``base_layer``), or because the vocabulary was resized.
WEIGHT_KEY = re.compile(
    r"base_model\.model\.(?P<module>(?:(?!lora_)[^.]+\.)*(?!lora_|base_layer)[^.]+?)"
    r"(?:\.base_layer)?\.weight"
)
_SHARED_KEYS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "revision",
        "task_type",
    }
)
_LORA_KEYS = (
    _SHARED_KEYS
    | UNUSED_LORA_KEYS
    | {
        "alora_invocation_tokens",
        "alpha_pattern",
        "bias",
        "ensure_weight_tying",
        "fan_in_fan_out",
        "init_lora_weights",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "r",
        "rank_pattern",
        "target_modules",
        "target_parameters",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
    }
)
_PROMPT_SHAPE_KEYS = {
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "token_dim",
}
_PREFIX_KEYS = (
    _SHARED_KEYS | _PROMPT_SHAPE_KEYS | {"encoder_hidden_size", "init_weights", "prefix_projection"}
)
_PROMPT_KEYS = (
    _SHARED_KEYS
    | _PROMPT_SHAPE_KEYS
    | {
        # how training began and how the encoder made the embeddings that are stored
        "encoder_dropout",
        "encoder_hidden_size",
        "encoder_num_layers",
        "encoder_reparameterization_type",
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "tokenizer_kwargs",
        "tokenizer_name_or_path",
    }
)
_IA3_KEYS = _SHARED_KEYS | {
    "fan_in_fan_out",
    "feedforward_modules",
    "init_ia3_weights",
    "target_modules",
}


@dataclass(frozen=True, slots=True)
class PeftMetadata:
    """What an ``adapter_config.json`` says beside the method."""

    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    modules_to_save: tuple[str, ...] | None = None

    __pydantic_config__ = FOREIGN


@dataclass(frozen=True, slots=True, kw_only=True)
class _LoraConfig:
    r: Annotated[int, Field(ge=1)]
    lora_alpha: float
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] | str | None = None
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: Any = True
    rank_pattern: Mapping[str, Annotated[int, Field(ge=1)]] | None = None
    alpha_pattern: Mapping[str, float] | None = None
    bias: BiasKind = "none"
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    target_parameters: tuple[str, ...] | None = None
    trainable_token_indices: Mapping[str, tuple[int, ...]] | tuple[int, ...] | None = None
    alora_invocation_tokens: tuple[int, ...] | None = None

    __pydantic_config__ = FOREIGN


@dataclass(frozen=True, slots=True)
class _PrefixConfig:
    num_virtual_tokens: Annotated[int, Field(ge=1)]
    prefix_projection: bool = False

    __pydantic_config__ = FOREIGN


@dataclass(frozen=True, slots=True)
class _PromptConfig:
    num_virtual_tokens: Annotated[int, Field(ge=1)]

    __pydantic_config__ = FOREIGN


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ia3Config:
    target_modules: tuple[str, ...] | str
    feedforward_modules: tuple[str, ...] | str | None = None
    fan_in_fan_out: bool = False

    __pydantic_config__ = FOREIGN


_METADATA = Schema(PeftMetadata, complete=False)
_LORA = Schema(_LoraConfig, complete=False)
_PREFIX = Schema(_PrefixConfig, complete=False)
_PROMPT = Schema(_PromptConfig, complete=False)
_IA3 = Schema(_Ia3Config, complete=False)
#: Name of the embedding of ``trainable_token_indices`` given as a list.
INPUT_EMBEDDING = "embed_tokens"


def peft_config(
    spec: AdapterSpec,
    *,
    task_type: str,
    base_model: str,
    target_modules: Sequence[str],
    modules_to_save: Sequence[str] | None,
    revision: str | None,
) -> "PeftConfig":
    """Return the peft configuration for training.

    Args:
        task_type: peft's ``TaskType`` name, e.g. ``SEQ_CLS``; empty where it has none.
        target_modules: Result of ``resolve_target_modules``; not used by a prefix.
        modules_to_save: Modules trained in full, such as heads and norm layers.
    """
    import peft

    shared: dict[str, Any] = {
        "task_type": task_type or None,
        "base_model_name_or_path": base_model,
        "revision": revision,
        "modules_to_save": sorted(set(modules_to_save)) if modules_to_save else None,
    }
    if isinstance(spec, PrefixSpec):
        return peft.PrefixTuningConfig(
            num_virtual_tokens=_positive(spec.num_virtual_tokens, "num_virtual_tokens"),
            prefix_projection=spec.projection,
            **shared,
        )
    if not isinstance(spec, LoraSpec):
        raise RecipeError(
            f"{spec.method!r} can be imported and served, and is not trained here",
            place="adapter.method",
            hint="Use method: lora, or method: prefix",
        )
    if spec.init == "orthogonal" and spec.rank % 2:
        raise RecipeError(
            f"initialisation 'orthogonal' needs an even rank, found {spec.rank}",
            place="adapter.rank",
        )
    return peft.LoraConfig(
        r=_positive(spec.rank, "rank"),
        lora_alpha=int(spec.alpha) if float(spec.alpha).is_integer() else spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=sorted(set(target_modules)),
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        init_lora_weights=init_lora_weights(spec.init),
        # sorted as in the stored configuration, because the first key that matches counts
        rank_pattern=dict(sorted(spec.rank_pattern.items())),
        alpha_pattern=dict(sorted(spec.alpha_pattern.items())),
        bias=spec.bias,
        lora_bias=spec.lora_bias,
        fan_in_fan_out=spec.fan_in_fan_out,
        target_parameters=list(spec.target_parameters) or None,
        trainable_token_indices=_token_indices(spec),
        alora_invocation_tokens=list(spec.alora_invocation_tokens) or None,
        **shared,
    )


def config_document(config: "PeftConfig") -> dict[str, Any]:
    """Return the content of ``adapter_config.json`` for ``config``, ready for inference.

    It is what ``PeftConfig.save_pretrained`` writes, with sets and repeated names sorted so that
    equal configurations give equal bytes.
    """
    document = {key: _plain(value) for key, value in config.to_dict().items()}
    if document.get("modules_to_save"):
        document["modules_to_save"] = sorted(set(document["modules_to_save"]))
    document["inference_mode"] = True
    return document


def spec_of(config: Mapping[str, Any]) -> AdapterSpec:
    """Read the spec out of a parsed ``adapter_config.json``.

    Raises:
        ArtifactError: For a method that is not served as it is, and for any feature of it that
            would change the output and is not supported.
    """
    kind = check_kind(config)
    match kind:
        case "PREFIX_TUNING":
            return _prefix_spec(config)
        case "PROMPT_TUNING" | "P_TUNING":
            return _prompt_spec(config, encoder=kind == "P_TUNING")
        case "IA3":
            return _ia3_spec(config)
        case _:
            return _lora_spec(config)


def metadata_of(config: Mapping[str, Any]) -> PeftMetadata:
    """Read backbone, task type and fully stored modules out of an ``adapter_config.json``."""
    return _METADATA.read(config, CONFIG_NAME)


def modules_to_save(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the modules that the adapter stores in full, sorted."""
    return tuple(sorted(set(metadata_of(config).modules_to_save or ())))


def in_saved_module(key: str, names: Iterable[str]) -> bool:
    """Return whether a tensor belongs to a module that peft stores in full.

    peft compares the end of a module's path with a name, so ``norm`` names ``layernorm`` too.
    Source: ``_set_trainable`` in ``peft/utils/other.py`` of peft 0.21.

    Args:
        key: Key of the tensor.
        names: Names of ``modules_to_save``.
    """
    parts = key.split(".")[1:-1]
    paths = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(path.endswith(name) for path in paths for name in names)


def _lora_spec(config: Mapping[str, Any]) -> LoraSpec:
    check_variant(config)
    _check_features(config, _LORA_KEYS)
    found = _LORA.read(config, CONFIG_NAME)
    tokens = found.trainable_token_indices or {}
    return LoraSpec(
        rank=found.r,
        alpha=found.lora_alpha,
        dropout=found.lora_dropout,
        target_modules=_targets(found.target_modules or ()),
        rslora=found.use_rslora,
        dora=found.use_dora,
        init=init_name(found.init_lora_weights, f"{CONFIG_NAME}: init_lora_weights"),
        rank_pattern=dict(found.rank_pattern or {}),
        alpha_pattern=dict(found.alpha_pattern or {}),
        bias=found.bias,
        lora_bias=found.lora_bias,
        fan_in_fan_out=found.fan_in_fan_out,
        target_parameters=tuple(sorted(set(found.target_parameters or ()))),
        trainable_token_indices=(
            {INPUT_EMBEDDING: tokens} if isinstance(tokens, tuple) else dict(tokens)
        ),
        alora_invocation_tokens=found.alora_invocation_tokens or (),
    )


def _prefix_spec(config: Mapping[str, Any]) -> PrefixSpec:
    _check_features(config, _PREFIX_KEYS)
    found = _PREFIX.read(config, CONFIG_NAME)
    return PrefixSpec(
        num_virtual_tokens=found.num_virtual_tokens, projection=found.prefix_projection
    )


def _prompt_spec(config: Mapping[str, Any], *, encoder: bool) -> PromptSpec:
    _check_features(config, _PROMPT_KEYS)
    found = _PROMPT.read(config, CONFIG_NAME)
    return PromptSpec(num_virtual_tokens=found.num_virtual_tokens, encoder=encoder)


def _ia3_spec(config: Mapping[str, Any]) -> Ia3Spec:
    _check_features(config, _IA3_KEYS)
    found = _IA3.read(config, CONFIG_NAME)
    return Ia3Spec(
        target_modules=_targets(found.target_modules),
        feedforward_modules=_targets(found.feedforward_modules or ()),
        fan_in_fan_out=found.fan_in_fan_out,
    )


def _token_indices(spec: LoraSpec) -> dict[str, list[int]] | None:
    found = {name: list(ids) for name, ids in sorted(spec.trainable_token_indices.items())}
    return found or None


def _targets(value: tuple[str, ...] | str) -> tuple[str, ...]:
    if value == ALL_LINEAR:
        return (ALL_LINEAR,)
    if isinstance(value, str):
        raise ArtifactError(
            f"the pattern {value!r} is not supported",
            place=f"{CONFIG_NAME}: target_modules",
            hint="List the names of the modules, or use 'all-linear'",
        )
    return tuple(sorted(set(value)))


def _check_features(config: Mapping[str, Any], handled: frozenset[str]) -> None:
    for key in sorted(config.keys() - handled):
        # a feature of peft that is off is null, false or empty
        if config[key]:
            raise _unsupported(key, config[key])


def _unsupported(key: str, value: Any) -> ArtifactError:
    return ArtifactError(f"{value!r:.80} is not supported", place=f"{CONFIG_NAME}: {key}")


def _positive(value: int, key: str) -> int:
    if value < 1:
        raise RecipeError(f"must be 1 or more, found {value}", place=f"adapter.{key}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.value if isinstance(value, Enum) else value
