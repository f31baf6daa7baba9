"""What is done with each of peft's adapter methods: served, converted to LoRA, or refused.

Sources: ``PeftType`` in ``peft/utils/peft_types.py`` and ``LoraConfig`` in
``peft/tuners/lora/config.py`` of peft 0.21.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.errors import ArtifactError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

Treatment = Literal["served", "converted", "refused"]

_CONFIG = "adapter_config.json"
_IMPORT = "Import it with adapterhub import-peft, which converts it to LoRA"


@dataclass(frozen=True, slots=True)
class KindSupport:
    """How adapters of one method are treated.

    Args:
        treatment: Served as peft computes them, converted to a LoRA adapter or a prompt when they
            are imported, or refused.
        reason: Why it is refused, a clause after the method's name; else what it becomes.
        way_out: What to do instead of a refused one.
    """

    treatment: Treatment
    reason: str = ""
    way_out: str = ""


_SERVED = KindSupport("served")
_DELTA = KindSupport("converted", "LoRA of the change of each weight")
_BY_TASK = "Save the prompt of one task as PROMPT_TUNING"
_TRAIN_LORA = "Train a LoRA adapter instead"

#: Member of peft's ``PeftType`` to its treatment.
PEFT_KINDS: Mapping[str, KindSupport] = {
    "LORA": _SERVED,
    "PREFIX_TUNING": _SERVED,
    "PROMPT_TUNING": _SERVED,
    "P_TUNING": _SERVED,
    "IA3": _SERVED,
    "CARTRIDGE": KindSupport("converted", "a prefix, exactly"),
    "CPT": KindSupport("converted", "a prompt, exactly"),
    "TRAINABLE_TOKENS": KindSupport("converted", "LoRA with trainable_token_indices, exactly"),
    "LN_TUNING": KindSupport("converted", "LoRA with norm layers in modules_to_save, exactly"),
    **dict.fromkeys(
        (
            "ADALORA",
            "ADAMSS",
            "BEFT",
            "BOFT",
            "C3A",
            "DEFT",
            "DELORA",
            "FOURIERFT",
            "FROD",
            "GLORA",
            "GRALORA",
            "HIRA",
            "HRA",
            "LOHA",
            "LOKR",
            "MISS",
            "OFT",
            "OSF",
            "PEANUT",
            "PSOFT",
            "PVERA",
            "RANDLORA",
            "ROAD",
            "SHIRA",
            "SUPERTUNING",
            "TINYLORA",
            "UNILORA",
            "VBLORA",
            "VERA",
            "WAVEFT",
        ),
        _DELTA,
    ),
    "ADAPTION_PROMPT": KindSupport(
        "refused",
        "adds attention over a learned prompt inside the layers, which is no change of weights",
        "Train a prefix instead",
    ),
    "LILY": KindSupport("refused", "computes its change from each input, by a router", _TRAIN_LORA),
    "MULTITASK_PROMPT_TUNING": KindSupport(
        "refused", "needs the number of a task with every request", _BY_TASK
    ),
    "POLY": KindSupport("refused", "needs the number of a task with every request", _TRAIN_LORA),
    "SHADOW": KindSupport("refused", "runs a second network beside the model", _TRAIN_LORA),
    "XLORA": KindSupport(
        "refused",
        "weighs several adapters anew for every token, by a classifier over a first forward pass",
        "Import the adapters themselves and blend them with fixed weights",
    ),
}

#: Settings of ``LoraConfig`` without a part in the forward pass, or used only by features whose
#: own switch is checked.
UNUSED_LORA_KEYS = frozenset(
    {
        "corda_config",
        "eva_config",
        "loftq_config",
        "lora_ga_config",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
        "velora_config",
    }
)
#: Variants of LoRA by the key that switches them on.
_LORA_VARIANTS: Mapping[str, KindSupport] = {
    "use_bdlora": _DELTA,
    "kasa_config": _DELTA,
    "monteclora_config": _DELTA,
    "arrow_config": KindSupport(
        "refused",
        "weighs several adapters anew for every token",
        "Import the adapters themselves and blend them with fixed weights",
    ),
    "layer_replication": KindSupport(
        "refused",
        "repeats layers of the backbone, so the adapter belongs to another model",
        "Save the deeper model with its adapter merged, and use it as a backbone",
    ),
    "megatron_config": KindSupport(
        "refused", "belongs to Megatron's parallel layers", "Save it with plain peft layers"
    ),
    "use_qalora": KindSupport(
        "refused", "pools inputs for a GPTQ backbone", "Merge it into that backbone"
    ),
}
#: Initialisations that change the backbone's weights when peft loads the adapter.
_CHANGES_BACKBONE = ("pissa", "olora", "corda", "lora_ga", "loftq", "mica")


def kind_of(config: Mapping[str, Any]) -> str:
    """Return the method in a parsed ``adapter_config.json``, a name of peft's ``PeftType``.

    Raises:
        ArtifactError: For a method that is unknown or refused.
    """
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in PEFT_KINDS:
        raise ArtifactError(
            f"peft type {kind!r:.60} is not supported",
            place=f"{_CONFIG}: peft_type",
            hint=did_you_mean(str(kind), PEFT_KINDS),
        )
    support = PEFT_KINDS[kind]
    if support.treatment == "refused":
        raise ArtifactError(
            f"{kind} {support.reason}", place=f"{_CONFIG}: peft_type", hint=support.way_out
        )
    return kind


def needs_conversion(config: Mapping[str, Any]) -> bool:
    """Return whether an adapter must be converted before it is stored and served.

    Raises:
        ArtifactError: For a method or a variant that is refused.
    """
    kind = kind_of(config)
    if PEFT_KINDS[kind].treatment == "converted":
        return True
    return kind == "LORA" and (_converted_variant(config) or changes_backbone(config))


def changes_backbone(config: Mapping[str, Any]) -> bool:
    """Return whether peft changes the backbone's weights when it loads a LoRA adapter."""
    # "pissa_niter_16" is "pissa" by a faster decomposition
    name = str(config.get("init_lora_weights", "")).partition("_niter_")[0]
    return name in _CHANGES_BACKBONE


def check_kind(config: Mapping[str, Any]) -> str:
    """Return the method of an adapter that is served as it is, as peft names it.

    Raises:
        ArtifactError: For a method that is refused, or has to be converted first.
    """
    kind = kind_of(config)
    if PEFT_KINDS[kind].treatment == "converted":
        raise ArtifactError(
            f"{kind} is served after a conversion only",
            place=f"{_CONFIG}: peft_type",
            hint=_IMPORT,
        )
    return kind


def check_variant(config: Mapping[str, Any]) -> None:
    """Check that a LoRA configuration has no variant that is served after a conversion only."""
    if _converted_variant(config):
        key = next(key for key in _LORA_VARIANTS if config.get(key))
        raise ArtifactError(
            "is served after a conversion only", place=f"{_CONFIG}: {key}", hint=_IMPORT
        )


def _converted_variant(config: Mapping[str, Any]) -> bool:
    active = [key for key in _LORA_VARIANTS if config.get(key)]
    for key in active:
        support = _LORA_VARIANTS[key]
        if support.treatment == "refused":
            raise ArtifactError(support.reason, place=f"{_CONFIG}: {key}", hint=support.way_out)
    return bool(active)
