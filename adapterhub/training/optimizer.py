"""Build the optimizer and learning rate schedule of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import get_scheduler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from adapterhub.training.recipe import OptimizerSection, ScheduleSection


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], section: OptimizerSection
) -> Optimizer:
    """Return the optimizer over the trained parameters.

    LoRA's ``B`` factors have ``lora_plus_ratio`` times the learning rate, and a head
    ``head_ratio`` times. Weight decay applies to matrices only.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        rate = section.learning_rate * _ratio(name, section)
        decay = section.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    described: list[dict[str, Any]] = [
        {"params": members, "lr": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
    if section.name == "sgd":
        return torch.optim.SGD(described, lr=section.learning_rate, momentum=section.momentum)
    if section.name == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(described, lr=section.learning_rate, betas=section.betas)
    # one call for all tensors; on other devices torch chooses
    fused = all(each.device.type == "cpu" for group in groups.values() for each in group) or None
    return torch.optim.AdamW(described, lr=section.learning_rate, betas=section.betas, fused=fused)


def build_schedule(optimizer: Optimizer, section: ScheduleSection, total_steps: int) -> LRScheduler:
    """Return the learning rate schedule over ``total_steps`` optimizer steps."""
    name = "constant_with_warmup" if section.name == "constant" else section.name
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=round(section.warmup * total_steps),
        num_training_steps=total_steps,
    )


def seek(schedule: LRScheduler, step: int) -> None:
    """Set a schedule and its optimizer's learning rates to their values after ``step`` steps.

    torch's ``load_state_dict`` does not restore the optimizer's learning rates.
    """
    schedule.last_epoch = step - 1
    # the optimizer has stepped in the run that is resumed; otherwise torch warns
    schedule.optimizer._opt_called = True
    schedule.step()


def _ratio(name: str, section: OptimizerSection) -> float:
    if "lora_B" in name:
        return section.lora_plus_ratio
    if "modules_to_save" in name:
        return section.head_ratio
    return 1.0
