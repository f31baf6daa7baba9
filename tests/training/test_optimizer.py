"""Learning rates of parameter groups and of a resumed schedule."""

import pytest
import torch
from torch import nn

from adapterhub.training.optimizer import build_optimizer, build_schedule, seek
from adapterhub.training.recipe import OptimizerSection, ScheduleSection


@pytest.fixture
def parameters():
    shapes = {
        "layer.lora_A.default.weight": (4, 8),
        "layer.lora_B.default.weight": (8, 4),
        "layer.lora_magnitude_vector.default.weight": (8,),
        "head.modules_to_save.default.weight": (2, 8),
        "head.modules_to_save.default.bias": (2,),
    }
    return {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["adamw", "sgd", "adamw_8bit"])
def test_each_parameter_group_has_its_learning_rate(parameters, name):
    section = OptimizerSection(
        name=name, learning_rate=0.01, weight_decay=0.5, lora_plus_ratio=16.0, head_ratio=3.0
    )
    optimizer = build_optimizer(parameters.items(), section)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert {key: found[id(p)] for key, p in parameters.items()} == {
        "layer.lora_A.default.weight": (0.01, 0.5),
        "layer.lora_B.default.weight": (pytest.approx(0.16), 0.5),
        # decay acts on matrices only
        "layer.lora_magnitude_vector.default.weight": (0.01, 0.0),
        "head.modules_to_save.default.weight": (pytest.approx(0.03), 0.5),
        "head.modules_to_save.default.bias": (pytest.approx(0.03), 0.0),
    }


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
def test_a_restored_schedule_continues_like_a_stepped_one(shape):
    section = ScheduleSection(name=shape, warmup=0.2)

    def rates(start: int) -> list[float]:
        parameter = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([parameter], lr=0.5)
        schedule = build_schedule(optimizer, section, 20)
        if start:
            seek(schedule, start)
        seen = []
        for _ in range(start, 20):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return seen

    whole = rates(0)
    assert whole[0] == 0.0
    assert whole[4] == max(whole) == 0.5
    assert (whole[-1] < 0.1) == (shape != "constant")
    assert rates(7) == pytest.approx(whole[7:])
