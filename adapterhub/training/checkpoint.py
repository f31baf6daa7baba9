"""Checkpoints that resume a run bit for bit, without pickle.

A checkpoint is a folder of ``state.safetensors`` (trained parameters, the best of them so far,
the optimizer's tensors, torch's random state), ``state.json`` (counters) and ``digests.json``
(the sha256 of both). It is written beside the previous one and replaces it by a rename.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from adapterhub.errors import TrainingError
from adapterhub.training.run_folder import (
    CHECKPOINT_FOLDERS,
    COUNTERS,
    DIGESTS,
    TENSORS,
    checkpoint_folder,
    disk_errors,
    file_sha256,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor
    from torch.optim import Optimizer

#: Separator of the joined keys of nested optimizer states.
_NESTED = "/"


@dataclass(slots=True)
class TrainingState:
    """Counters of a run: everything a checkpoint needs beside tensors.

    Args:
        step: Optimizer steps done.
        epoch: Current epoch, from 0.
        batch: Steps of the current epoch done.
        tokens: Tokens seen, without padding.
        seconds: Seconds spent in training steps.
        best_step: Step of the best evaluation, or -1.
        best_value: Watched metric at that step.
        stale: Evaluations since the last better value.
        history: Step and metrics of each evaluation.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = -1
    best_value: float | None = None
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(
    folder: Path,
    *,
    run_digest: str,
    state: TrainingState,
    parameters: Mapping[str, Tensor],
    best: Mapping[str, Tensor] | None,
    optimizer: Optimizer,
) -> None:
    """Write a checkpoint into ``folder``, replacing the previous one atomically.

    Raises:
        TrainingError: when the disk is full; the previous checkpoint stays.
    """
    optimizer_state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {"random": torch.get_rng_state()}
    tensors |= {f"parameter.{name}": value for name, value in parameters.items()}
    tensors |= {f"best.{name}": value for name, value in (best or {}).items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer_state["state"].items():
        for key, value in _flat(entries):
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    document = {
        "recipe": run_digest,
        "progress": asdict(state),
        "optimizer": scalars,
    }
    with disk_errors(folder):
        _write(folder, tensors, document)


def _write(folder: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write the files beside the previous checkpoint, then put them in its place."""
    target, fresh, old = (folder / name for name in CHECKPOINT_FOLDERS)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        # clones: safetensors refuses tensors that share memory, as optimizer tables do
        save_file({k: v.detach().cpu().clone() for k, v in tensors.items()}, fresh / TENSORS)
        _write_json(fresh / COUNTERS, document)
        _write_json(
            fresh / DIGESTS, {name: file_sha256(fresh / name) for name in (TENSORS, COUNTERS)}
        )
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(
    folder: Path,
    *,
    run_digest: str,
    parameters: Mapping[str, Tensor],
    optimizer: Optimizer,
) -> tuple[TrainingState, dict[str, Tensor] | None]:
    """Restore parameters, optimizer and torch's random generator from a checkpoint.

    Returns:
        The counters, and the best parameters so far, if there are any.

    Raises:
        TrainingError: when there is no checkpoint, it is damaged, or it belongs to another run.
    """
    source = checkpoint_folder(folder)
    if source is None:
        raise TrainingError("holds no checkpoint", place=str(folder), hint="Train without --resume")
    document = json.loads((source / COUNTERS).read_text(encoding="utf-8"))
    if document["recipe"] != run_digest:
        raise TrainingError(
            "the checkpoint belongs to another recipe, or to other examples",
            place=str(source),
            hint="Use the recipe, data and overrides it was started with, choose another folder "
            "with --output, or remove this one",
        )
    tensors = load_file(source / TENSORS)
    saved = _under(tensors, "parameter.")
    if saved.keys() != parameters.keys():
        raise TrainingError("the checkpoint holds other parameters", place=str(source))
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(saved[name])
    _load_optimizer(optimizer, tensors, document["optimizer"])
    torch.set_rng_state(tensors["random"])
    best = _under(tensors, "best.")
    return TrainingState(**document["progress"]), best or None


def drop_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished run."""
    for name in CHECKPOINT_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def _load_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Mapping[str, Any]]
) -> None:
    state: dict[int, dict[str, Any]] = {}
    for index, entries in scalars.items():
        for key, value in entries.items():
            _put(state.setdefault(int(index), {}), key, value)
    for key, value in _under(tensors, "optimizer.").items():
        index, _, name = key.partition(".")
        _put(state.setdefault(int(index), {}), name, value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _flat(entries: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested mappings under joined keys; 8-bit optimizers nest theirs."""
    for key, value in entries.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}{_NESTED}")
        else:
            yield f"{prefix}{key}", value


def _put(entries: dict[str, Any], key: str, value: Any) -> None:
    """Set one value under a key that ``_flat`` joined."""
    *outer, last = key.split(_NESTED)
    for name in outer:
        entries = entries.setdefault(name, {})
    entries[last] = value


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
