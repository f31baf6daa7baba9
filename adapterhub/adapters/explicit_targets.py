"""Listing the modules that a pattern in a peft configuration matched."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.peft_format import ALL_LINEAR, CONFIG_NAME, IA3_KEY, LORA_KEY
from adapterhub.errors import ArtifactError
from adapterhub.specs import pattern_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Settings that narrow ``target_modules``; the keys of the tensors show their result.
_NARROWING_KEYS = ("exclude_modules", "layers_pattern", "layers_to_transform")


def with_explicit_targets(config: Mapping[str, Any], keys: Iterable[str]) -> Mapping[str, Any]:
    """Return a configuration with target modules listed instead of given by a pattern.

    Args:
        config: Parsed ``adapter_config.json``; returned unchanged where it lists them.
        keys: Keys of the adapter's tensors, which name the modules that the pattern matched.
    """
    match config.get("peft_type"):
        case "LORA":
            return _explicit_lora(config, tuple(keys))
        case "IA3":
            return _explicit_ia3(config, tuple(keys))
        case _:
            return config


def _explicit_lora(config: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any]:
    targets = config.get("target_modules")
    by_pattern = isinstance(targets, str) and targets != ALL_LINEAR
    # peft takes the output layer out of the list where it ties it to the embedding
    tied = bool(config.get("ensure_weight_tying")) and not config.get("modules_to_save")
    patterns = {key: config[key] for key in ("rank_pattern", "alpha_pattern") if config.get(key)}
    narrowed = by_pattern or tied or any(config.get(key) for key in _NARROWING_KEYS)
    if not narrowed and not patterns:
        return config
    modules = sorted(_matched(LORA_KEY, keys))
    explicit = dict(config)
    if narrowed and not config.get("target_parameters"):
        explicit |= {"target_modules": modules, **dict.fromkeys(_NARROWING_KEYS)}
    if tied:
        explicit["ensure_weight_tying"] = False
    if not config.get("target_parameters"):
        # a stored document has sorted keys, and the first key that matches counts
        explicit |= {key: _by_module(found, modules) for key, found in patterns.items()}
    return explicit


def _explicit_ia3(config: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any]:
    modules = sorted(_matched(IA3_KEY, keys))
    if not modules:
        return config
    inputs = _names_in(config.get("feedforward_modules"), modules)
    return {
        **config,
        "target_modules": modules,
        "feedforward_modules": inputs,
        **dict.fromkeys(_NARROWING_KEYS),
    }


def _matched(pattern: re.Pattern[str], keys: Iterable[str]) -> set[str]:
    return {match["module"] for match in map(pattern.fullmatch, keys) if match}


def _by_module(pattern: Any, modules: Iterable[str]) -> Any:
    """Return a pattern's values by module; a value of another form is left to the schema."""
    if not isinstance(pattern, dict):
        return pattern
    try:
        found = {module: pattern_value(pattern, module, None) for module in modules}
    except re.error as error:
        raise ArtifactError(
            f"holds an invalid regular expression: {error}", place=f"{CONFIG_NAME}: rank_pattern"
        ) from error
    return {module: value for module, value in found.items() if value is not None}


def _names_in(names: Any, modules: Sequence[str]) -> list[str]:
    """Return the modules that peft's list of suffixes, or its regular expression, matches."""
    if isinstance(names, str):
        return [module for module in modules if re.fullmatch(names, module)]
    wanted = names or ()
    return [
        module
        for module in modules
        if any(module == name or module.endswith(f".{name}") for name in wanted)
    ]
