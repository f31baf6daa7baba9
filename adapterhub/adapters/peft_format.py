"""peft's side of the artifact: configuration, target modules and the keys of its tensors.

Sources: ``peft/tuners/lora/config.py``, ``peft/tuners/prefix_tuning/config.py`` and
``peft/utils/save_and_load.py`` of peft 0.21.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import nn

from adapterhub.adapters import strict_json as strict
from adapterhub.adapters.peft_initializations import init_lora_weights, init_name
from adapterhub.errors import ArtifactError, RecipeError, did_you_mean
from adapterhub.specs import AdapterSpec, LoraSpec, PrefixSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from peft import PeftConfig

ALL_LINEAR = "all-linear"
CONFIG_NAME = "adapter_config.json"
#: Keys of LoRA's tensors in ``adapter_model.safetensors``.
LORA_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector"
    r"|lora_embedding_A|lora_embedding_B)"
)
#: peft's names of ``A`` and ``B``, of a linear layer and of an embedding.
LINEAR_PARTS = ("lora_A.weight", "lora_B.weight")
EMBEDDING_PARTS = ("lora_embedding_A", "lora_embedding_B")
#: Key of a whole layer of the vocabulary, which peft stores beside the LoRA on it.
COPY_KEY = re.compile(
    r"base_model\.model\.(?P<module>(?:.+\.)?(?:embed_tokens|lm_head))\.base_layer\.weight"
)
#: What narrows ``target_modules``; the keys of the tensors say the same.
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
    # read by features whose own switch is checked
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


def peft_config(
    spec: AdapterSpec,
    *,
    task_type: str,
    base_model: str,
    target_modules: Sequence[str],
    modules_to_save: Sequence[str] | None,
    revision: str | None,
) -> PeftConfig:
    """Return the peft configuration for training.

    Args:
        spec: method and hyper-parameters.
        task_type: peft's ``TaskType`` name, e.g. ``SEQ_CLS``; empty where it has none.
        base_model: Hub id or name of the backbone.
        target_modules: as ``resolve_target_modules`` gives them; not used by a prefix.
        modules_to_save: modules trained in full, such as heads and norm layers.
        revision: of the backbone on the Hub.

    Raises:
        RecipeError: for an initialisation or a rank that can't be used.
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


def config_document(config: PeftConfig) -> dict[str, Any]:
    """Return what ``adapter_config.json`` holds for ``config``, ready for inference.

    As ``PeftConfig.save_pretrained`` writes it, with sets and repeated names put in order so
    that the same configuration always gives the same bytes.
    """
    document = {key: _plain(value) for key, value in config.to_dict().items()}
    if document.get("modules_to_save"):
        document["modules_to_save"] = sorted(set(document["modules_to_save"]))
    document["inference_mode"] = True
    return document


def spec_of(config: Mapping[str, Any]) -> AdapterSpec:
    """Read the spec out of an ``adapter_config.json``.

    Args:
        config: the parsed document.

    Raises:
        ArtifactError: for a method other than LoRA and prefix tuning, and for any feature of
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
    """Return a configuration that lists its target modules, where it has them by a pattern.

    Args:
        config: ``adapter_config.json`` as parsed; returned as it is where it lists them.
        keys: of the adapter's tensors, which tell the modules that the pattern matched.
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


def modules_to_save(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the modules that the adapter holds in full, sorted."""
    names = config.get("modules_to_save")
    if names is None:
        return ()
    return tuple(sorted(set(strict.texts(names, f"{CONFIG_NAME}: modules_to_save"))))


def resolve_target_modules(
    model: nn.Module, targets: tuple[str, ...], *, exclude: Sequence[str]
) -> tuple[str, ...]:
    """Return the module names that peft must match to adapt the linear layers meant.

    A name is the last part of a module's path, or its last parts where the last one alone
    would also match an excluded module (``output.dense`` beside ``classifier.dense``).

    Args:
        model: the backbone, with heads or without.
        targets: last parts of module names, or ``("all-linear",)``.
        exclude: names of heads and other modules that must not be adapted.

    Returns:
        The names, sorted.

    Raises:
        RecipeError: when a target matches no linear layer outside ``exclude``.
    """
    # bitsandbytes' quantized layers are subclasses of nn.Linear
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    heads = [name for name in linear if _is_excluded(name, exclude)]
    body = [name for name in linear if not _is_excluded(name, exclude)]
    if not targets:
        raise RecipeError("no module is named", place="adapter.target_modules")
    resolved = set[str]()
    for target in targets:
        matched = [name for name in body if target == ALL_LINEAR or _matches(name, target)]
        if not matched:
            raise _no_match(model, target, body)
        parts = 1 if target == ALL_LINEAR else target.count(".") + 1
        resolved.update(_shortest(name, parts, heads) for name in matched)
    return tuple(sorted(resolved))


def _shortest(name: str, parts: int, heads: Collection[str]) -> str:
    pieces = name.split(".")
    for length in range(parts, len(pieces) + 1):
        suffix = ".".join(pieces[-length:])
        if not any(_matches(head, suffix) for head in heads):
            return suffix
    return name


def _matches(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _is_excluded(module: str, exclude: Sequence[str]) -> bool:
    pieces = module.split(".")
    parents = [".".join(pieces[:length]) for length in range(1, len(pieces) + 1)]
    return any(_matches(parent, name) for parent in parents for name in exclude)


def _no_match(model: nn.Module, target: str, body: Sequence[str]) -> RecipeError:
    exists = any(_matches(name, target) for name, _ in model.named_modules())
    problem = "is not a linear layer of the backbone" if exists else "matches no module"
    known = {name.rpartition(".")[2] for name in body} | {ALL_LINEAR}
    return RecipeError(
        f"{target!r} {problem}", place="adapter.target_modules", hint=did_you_mean(target, known)
    )


def _lora_spec(config: Mapping[str, Any]) -> LoraSpec:
    _refuse_features(config, _LORA_KEYS)
    if config.get("bias", "none") != "none":
        raise _unsupported("bias", config["bias"])
    rank = strict.count(config.get("r"), f"{CONFIG_NAME}: r")
    if rank == 0:
        raise ArtifactError("must be 1 or more, found 0", place=f"{CONFIG_NAME}: r")
    return LoraSpec(
        rank=rank,
        alpha=strict.number(config.get("lora_alpha"), f"{CONFIG_NAME}: lora_alpha"),
        dropout=strict.number(config.get("lora_dropout", 0.0), f"{CONFIG_NAME}: lora_dropout"),
        target_modules=_targets(config.get("target_modules")),
        rslora=strict.flag(config.get("use_rslora", False), f"{CONFIG_NAME}: use_rslora"),
        dora=strict.flag(config.get("use_dora", False), f"{CONFIG_NAME}: use_dora"),
        init=init_name(config.get("init_lora_weights", True), f"{CONFIG_NAME}: init_lora_weights"),
    )


def _prefix_spec(config: Mapping[str, Any]) -> PrefixSpec:
    _refuse_features(config, _PREFIX_KEYS)
    place = f"{CONFIG_NAME}: num_virtual_tokens"
    tokens = strict.count(config.get("num_virtual_tokens"), place)
    if tokens == 0:
        raise ArtifactError("must be 1 or more, found 0", place=place)
    projection = config.get("prefix_projection", False)
    return PrefixSpec(
        num_virtual_tokens=tokens,
        projection=strict.flag(projection, f"{CONFIG_NAME}: prefix_projection"),
    )


def _targets(value: Any) -> tuple[str, ...]:
    place = f"{CONFIG_NAME}: target_modules"
    if value == ALL_LINEAR:
        return (ALL_LINEAR,)
    if isinstance(value, str):
        raise ArtifactError(
            f"the pattern {value!r} is not supported",
            place=place,
            hint="List the names of the modules, or use 'all-linear'",
        )
    return tuple(sorted(set(strict.texts(value, place))))


def _refuse_features(config: Mapping[str, Any], handled: frozenset[str]) -> None:
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
