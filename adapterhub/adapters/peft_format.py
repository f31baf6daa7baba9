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
from adapterhub.adapters.strict_json import FOREIGN, Schema
from adapterhub.errors import ArtifactError, RecipeError
from adapterhub.specs import AdapterSpec, LoraSpec, PrefixSpec

if TYPE_CHECKING:
    from peft import PeftConfig

ALL_LINEAR = "all-linear"
CONFIG_NAME = "adapter_config.json"
#: Keys of LoRA tensors in ``adapter_model.safetensors``.
LORA_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector"
    r"|lora_embedding_A|lora_embedding_B)"
)
#: peft's names of ``A`` and ``B``, in a linear layer and in an embedding.
LINEAR_PARTS = ("lora_A.weight", "lora_B.weight")
EMBEDDING_PARTS = ("lora_embedding_A", "lora_embedding_B")
#: Key of a whole embedding or output layer, which peft stores beside the LoRA on it.
BASE_LAYER_KEY = re.compile(
    r"base_model\.model\.(?P<module>(?:.+\.)?(?:embed_tokens|lm_head))\.base_layer\.weight"
)
#: Settings that narrow ``target_modules``; the keys of the tensors show their result.
_NARROWING_KEYS = ("exclude_modules", "layers_pattern", "layers_to_transform")

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
_LORA_KEYS = _SHARED_KEYS | {
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "r",
    "target_modules",
    "use_dora",
    "use_rslora",
    # used only by features whose own switch is checked
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
}
_PREFIX_KEYS = _SHARED_KEYS | {
    "encoder_hidden_size",
    "init_weights",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "prefix_projection",
    "token_dim",
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
    target_modules: tuple[str, ...] | str
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: Any = True

    __pydantic_config__ = FOREIGN


@dataclass(frozen=True, slots=True)
class _PrefixConfig:
    num_virtual_tokens: Annotated[int, Field(ge=1)]
    prefix_projection: bool = False

    __pydantic_config__ = FOREIGN


_METADATA = Schema(PeftMetadata, complete=False)
_LORA = Schema(_LoraConfig, complete=False)
_PREFIX = Schema(_PrefixConfig, complete=False)


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
        ArtifactError: For a method other than LoRA and prefix tuning, and for any feature of
            them that would change the output and is not supported.
    """
    kind = config.get("peft_type")
    if kind == "LORA":
        return _lora_spec(config)
    if kind == "PREFIX_TUNING":
        return _prefix_spec(config)
    raise ArtifactError(
        f"peft type {kind!r} is not supported",
        place=f"{CONFIG_NAME}: peft_type",
        hint="Supported: LORA, PREFIX_TUNING",
    )


def with_explicit_targets(config: Mapping[str, Any], keys: Iterable[str]) -> Mapping[str, Any]:
    """Return a configuration with target modules listed instead of given by a pattern.

    Args:
        config: Parsed ``adapter_config.json``; returned unchanged where it lists them.
        keys: Keys of the adapter's tensors, which name the modules that the pattern matched.
    """
    targets = config.get("target_modules")
    by_pattern = isinstance(targets, str) and targets != ALL_LINEAR
    # peft takes the output layer out of the list where it ties it to the embedding
    tied = bool(config.get("ensure_weight_tying"))
    if config.get("peft_type") != "LORA" or not (
        by_pattern or tied or any(config.get(key) for key in _NARROWING_KEYS)
    ):
        return config
    matches = map(LORA_KEY.fullmatch, keys)
    modules = sorted({match["module"] for match in matches if match})
    untied = {"ensure_weight_tying": False} if tied else {}
    return {**config, "target_modules": modules, **dict.fromkeys(_NARROWING_KEYS), **untied}


def metadata_of(config: Mapping[str, Any]) -> PeftMetadata:
    """Read backbone, task type and fully stored modules out of an ``adapter_config.json``."""
    return _METADATA.read(config, CONFIG_NAME)


def modules_to_save(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the modules that the adapter stores in full, sorted."""
    return tuple(sorted(set(metadata_of(config).modules_to_save or ())))


def _lora_spec(config: Mapping[str, Any]) -> LoraSpec:
    _check_features(config, _LORA_KEYS)
    if config.get("bias", "none") != "none":
        raise _unsupported("bias", config["bias"])
    found = _LORA.read(config, CONFIG_NAME)
    return LoraSpec(
        rank=found.r,
        alpha=found.lora_alpha,
        dropout=found.lora_dropout,
        target_modules=_targets(found.target_modules),
        rslora=found.use_rslora,
        dora=found.use_dora,
        init=init_name(found.init_lora_weights, f"{CONFIG_NAME}: init_lora_weights"),
    )


def _prefix_spec(config: Mapping[str, Any]) -> PrefixSpec:
    _check_features(config, _PREFIX_KEYS)
    found = _PREFIX.read(config, CONFIG_NAME)
    return PrefixSpec(
        num_virtual_tokens=found.num_virtual_tokens, projection=found.prefix_projection
    )


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
