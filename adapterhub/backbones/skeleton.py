"""The shape of a backbone without its weights, to check a recipe before loading any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from adapterhub.errors import RecipeError
from adapterhub.peft_format import resolve_target_modules
from adapterhub.specs import PrefixSpec

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.specs import AdapterSpec


def backbone_kind(path: Path) -> BackboneKind:
    """Return whether the folder holds a decoder or an encoder, from its configuration alone."""
    from adapterhub.backbones.backbone import is_decoder, read_architecture

    return "decoder" if is_decoder(read_architecture(path)) else "encoder"


def check_adapter_fits(path: Path, adapter: AdapterSpec) -> None:
    """Check an adapter against the architecture in a backbone folder.

    Args:
        path: folder of the backbone; only its configuration is read.
        adapter: method and hyper-parameters.

    Raises:
        RecipeError: when no linear layer has a target's name, or the method needs another
            kind of backbone.
    """
    if isinstance(adapter, PrefixSpec):
        check_prefix_fits(backbone_kind(path), str(path.name))
        return
    resolve_target_modules(_skeleton(path), adapter.target_modules, exclude=())


def check_prefix_fits(kind: BackboneKind, name: str) -> None:
    """Refuse a prefix on an encoder, which has no keys and values to continue from.

    Raises:
        RecipeError: naming the backbone.
    """
    if kind == "encoder":
        raise RecipeError(
            f"prefix tuning needs a decoder, {name!r} is an encoder",
            place="adapter.method",
            hint="Use method: lora",
        )


def _skeleton(path: Path) -> nn.Module:
    from transformers import AutoModel

    from adapterhub.backbones.backbone import read_architecture

    with torch.device("meta"):
        return AutoModel.from_config(read_architecture(path))
