"""Checks of the values of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def check_finite(tensors: Mapping[str, Tensor], place: str) -> None:
    """Require that no value is NaN or infinite, which reads the tensors."""
    for key, tensor in tensors.items():
        _check_values(tensor, f"{place}: {key}")


def _check_values(tensor: Tensor, place: str) -> None:
    # a finite sum excludes NaN and infinity, and takes a third of the time of checking each value
    if torch.isfinite(tensor.sum(dtype=torch.float32)):
        return
    if not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise ArtifactError(
            f"{bad} of {tensor.numel()} values are NaN or infinite",
            place=place,
            hint="The training run diverged or the file is damaged",
        )
