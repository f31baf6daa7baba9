"""transformers' own class for a task with a backbone's unquantized weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.backbones.architecture import quiet_transformers, read_architecture
from adapterhub.backbones.head_construction import head_config
from adapterhub.backbones.heads import head_model_class
from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from adapterhub.tasks.base import HeadKind


def load_plain_model(
    path: Path, head: HeadKind, labels: Sequence[str]
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Load transformers' class for a task, in the type of the file, on the CPU.

    A head that the checkpoint lacks is initialised at random. The weights are memory-mapped and
    take no memory until they are changed.

    Args:
        path: Backbone folder.
        labels: Names of the head's outputs; not used by a causal LM.

    Returns:
        The model, and the names of the parameters that the checkpoint lacks.
    """
    from safetensors import SafetensorError

    config = head_config(read_architecture(path), head, labels)
    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    options |= {"config": config, "dtype": "auto", "output_loading_info": True}
    try:
        with quiet_transformers():
            model, report = head_model_class(config, head, path.name).from_pretrained(
                path, **options
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BackboneError(f"can't be loaded: {error}", place=str(path)) from error
    return model.eval().requires_grad_(False), frozenset(report["missing_keys"])
