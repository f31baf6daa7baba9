"""Default search spaces: the most influential keys of each adapter method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.training.recipe import LoraSection
from adapterhub.training.sweep.space import Choices, Range, Space

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.training.recipe import Recipe
    from adapterhub.training.sweep.space import Parameter

#: The learning rate matters most; its best value hardly depends on the rank at a fixed alpha/rank.
#: Source: Schulman et al. 2025, "LoRA Without Regret"; Biderman et al. 2024, arXiv:2405.09673.
_LORA: Mapping[str, Parameter] = {
    "optimizer.learning_rate": Range(1e-4, 1e-2, log=True),
    "adapter.rank": Choices((4, 8, 16, 32)),
    "adapter.alpha": Choices((8.0, 16.0, 32.0, 64.0)),
    "adapter.dropout": Choices((0.0, 0.05, 0.1)),
    "schedule.warmup": Choices((0.0, 0.06, 0.1)),
}
#: A prefix needs far higher learning rates than weights; its length matters most after them.
#: Source: Li and Liang 2021, arXiv:2101.00190.
_PREFIX: Mapping[str, Parameter] = {
    "optimizer.learning_rate": Range(1e-3, 1e-1, log=True),
    "adapter.num_virtual_tokens": Choices((4, 8, 16, 32)),
    "schedule.warmup": Choices((0.0, 0.06, 0.1)),
}
_HEAD: Mapping[str, Parameter] = {
    "optimizer.learning_rate": Range(1e-4, 1e-1, log=True),
    "optimizer.weight_decay": Choices((0.0, 0.01, 0.1)),
    "schedule.warmup": Choices((0.0, 0.06, 0.1)),
}


def default_space(recipe: Recipe) -> Space:
    """Return the default space for the recipe's adapter method."""
    if recipe.train.parts == "head":
        return Space(_HEAD, "the space for heads")
    if isinstance(recipe.adapter, LoraSection):
        return Space(_LORA, "the space for lora")
    return Space(_PREFIX, "the space for prefix")
