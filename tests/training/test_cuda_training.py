"""Training on a GPU: the losses of the CPU, right gradients through NF4, 8-bit AdamW."""

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes import functional as bnb_functional
from torch import nn

from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train


class Losses:
    """Reporter that keeps the loss of every step."""

    def __init__(self):
        self.values = []

    def on_step(self, event):
        self.values.append(event.loss)

    def on_evaluation(self, event):
        pass

    def on_message(self, text):
        pass


def losses_of(path, folder, device):
    losses = Losses()
    train(load_recipe(path), output=folder, device=device, reporter=losses)
    return torch.tensor(losses.values)


#: Largest relative difference of a step's loss between the CPU and the device.
LOSS_TOLERANCE = 2e-3


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("task", ["text-classification", "dialogue"])
def test_losses_are_those_of_the_cpu(
    recipe,
    encoder,
    decoder,
    moods,
    talks,
    tmp_path,
    compute_device,
    task,
    quantization,
    optimizer,
):
    if compute_device == "cpu" and (quantization, optimizer) != ("none", "adamw"):
        pytest.skip("the CPU beside itself: one combination is enough")
    folder, data = (encoder, moods) if task == "text-classification" else (decoder, talks)
    path = recipe(
        "both",
        folder,
        task,
        data,
        backbone={
            "name": str(folder),
            "quantization": quantization,
            "compute_dtype": "float32",
        },
        optimizer={"name": optimizer, "learning_rate": 0.003},
        train={"batch_size": 16, "steps": 8},
    )
    expected = losses_of(path, tmp_path / "cpu", "cpu")
    found = losses_of(path, tmp_path / "device", compute_device)
    assert len(found) == len(expected) == 8
    assert ((found - expected) / expected).abs().max() <= LOSS_TOLERANCE


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_gradient_through_nf4_is_that_of_the_dequantized_weight(compute_device, compute):
    torch.manual_seed(0)
    dense = nn.Linear(256, 192, bias=False)
    layer = bnb.nn.Linear4bit(256, 192, bias=False, compute_dtype=compute, quant_type="nf4")
    layer.load_state_dict(dense.state_dict())
    layer = layer.to(compute_device)
    state = layer.weight.quant_state
    weight = bnb_functional.dequantize_4bit(layer.weight.data, state).float()
    x = torch.randn(40, 256, device=compute_device, requires_grad=True)
    upstream = torch.randn(40, 192, device=compute_device)
    layer(x.to(compute)).float().backward(upstream)
    expected = upstream @ weight
    bound = 1e-5 if compute == torch.float32 else 2e-2
    assert (x.grad - expected).norm() / expected.norm() <= bound
