"""Supported LoRA initialisations of peft: those that leave the backbone unchanged.

Source: ``peft/tuners/lora/layer.py`` of peft 0.21, the ``*_init`` methods of ``LoraLayer``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.errors import ArtifactError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

#: ``LoraSpec.init`` to peft's ``init_lora_weights``.
LORA_INITS: Mapping[str, bool | str] = {
    "default": True,
    "gaussian": "gaussian",
    "orthogonal": "orthogonal",
    "random": False,
}

_CHANGES_BACKBONE = "subtracts the initial adapter from the backbone's weights, which are frozen"
#: peft's other initialisations and why training does not support them.
_UNSUPPORTED: Mapping[str, str] = {
    "pissa": _CHANGES_BACKBONE,
    "olora": _CHANGES_BACKBONE,
    "corda": _CHANGES_BACKBONE,
    "lora_ga": _CHANGES_BACKBONE,
    "loftq": "quantizes the backbone again, and the backbone's weights must not change",
    "mica": "freezes B and needs the unquantized weights of the backbone",
    "eva": "needs a pass over the training data before the first step",
}
#: Not supported in training, but such an adapter runs on the unchanged backbone.
_READABLE = frozenset({"eva"})


def init_lora_weights(name: str) -> bool | str:
    """Return peft's ``init_lora_weights`` for ``LoraSpec.init``."""
    if name in LORA_INITS:
        return LORA_INITS[name]
    reason = _reason(name)
    if reason is None:
        raise RecipeError(
            f"unknown initialisation {name!r}",
            place="adapter.init",
            hint=did_you_mean(name, LORA_INITS),
        )
    raise RecipeError(
        f"initialisation {name!r} {reason}",
        place="adapter.init",
        hint=f"Use one of: {', '.join(LORA_INITS)}",
    )


def init_name(value: Any, place: str) -> str:
    """Return ``LoraSpec.init`` for peft's ``init_lora_weights``."""
    for name, peft_name in LORA_INITS.items():
        if type(value) is type(peft_name) and value == peft_name:
            return name
    if isinstance(value, str) and value in _READABLE:
        return value
    reason = _reason(str(value)) or "is unknown"
    hint = (
        "Save it again as a plain LoRA, with peft's "
        "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
    )
    raise ArtifactError(
        f"initialisation {value!r:.80} {reason}",
        place=place,
        hint=hint if reason is _CHANGES_BACKBONE else "",
    )


def _reason(name: str) -> str | None:
    # "pissa_niter_16" is "pissa" by a faster decomposition
    return _UNSUPPORTED.get(name.partition("_niter_")[0])
