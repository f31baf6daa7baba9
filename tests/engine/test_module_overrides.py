"""Parameters that an adapter replaces give the output of peft, and are there only meanwhile."""

import copy

import peft
import pytest
import torch
from kind_helpers import change
from torch import nn

from adapterhub.adapters.explicit_targets import with_explicit_targets
from adapterhub.adapters.peft_format import config_document, spec_of
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.engine.adapted_layers import AdaptedLayers
from adapterhub.engine.lora_linear import install_lora_linears
from adapterhub.engine.lora_preparation import lora_factors
from adapterhub.errors import StrictLoadError
from adapterhub.kernels.lora.reference import ReferenceLoraKernel


class Model(nn.Module):
    """A convolution whose pixels attend to each other."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        x = self.conv(x).flatten(2).mT
        return self.attn(x, x, x)[0]


def lora(*targets, **settings):
    return peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=list(targets), init_lora_weights=False, **settings
    )


def ia3(target, *, feedforward):
    return peft.IA3Config(
        target_modules=[target], feedforward_modules=[target] if feedforward else []
    )


KINDS = {
    "conv": lora("conv"),
    "conv_rslora": lora("conv", use_rslora=True),
    "conv_dora": lora("conv", use_dora=True),
    "conv_lora_bias": lora("conv", lora_bias=True),
    "conv_bias": lora("conv", bias="lora_only"),
    "conv_ia3": ia3("conv", feedforward=False),
    "conv_ia3_input": ia3("conv", feedforward=True),
    # peft adds the product of the attention's output layer twice
    "attention": lora("attn"),
    "both": lora("attn", "conv"),
}


def factors_of(model, adapted, config):
    tensors = peft.get_peft_model_state_dict(adapted)
    document = with_explicit_targets(config_document(config), tensors)
    layers = AdaptedLayers(
        model, install_lora_linears(model, torch.float32, ReferenceLoraKernel()), {}, None, {}
    )
    weights = AdapterWeights(spec_of(document), {k: v.clone() for k, v in tensors.items()})
    return lora_factors(weights, layers, "model", name="x")


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_and_fused_attention(kind):
    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(2, 3, 6, 6)
    adapted = peft.get_peft_model(copy.deepcopy(model), KINDS[kind]).eval()
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            change(name, parameter)
    state = copy.deepcopy(model.state_dict())
    factors = factors_of(model, adapted, KINDS[kind])
    assert factors.exclusive
    with torch.no_grad():
        before, expected = model(x), adapted(x)
        with factors.overrides.apply(model):
            found = model(x)
        assert torch.equal(model(x), before)
    assert (found - expected).abs().max() <= 1e-5
    assert (found - before).abs().max() > 1e-3
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_output_layer_of_fused_attention_alone_changes_nothing():
    torch.manual_seed(0)
    model = Model().eval()
    config = lora("out_proj")
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    assert not factors_of(model, adapted, config).exclusive


def test_parameters_return_after_a_failure():
    torch.manual_seed(0)
    model = Model().eval()
    adapted = peft.get_peft_model(copy.deepcopy(model), KINDS["both"])
    factors, weight = factors_of(model, adapted, KINDS["both"]), model.conv.weight
    with pytest.raises(RuntimeError), factors.overrides.apply(model):
        model(torch.zeros(1, 1))
    assert model.conv.weight is weight


class Router(nn.Linear):
    """A layer of an architecture's own class, which returns more than one vector."""

    def forward(self, x):
        scores = super().forward(x)
        return scores.softmax(-1), scores


Router.forward.__module__ = "transformers.models.own"


def test_lora_on_a_layer_that_is_no_linear_map_is_refused_and_not_left_out():
    model = nn.Sequential(Router(4, 4), nn.Linear(4, 4))
    adapted = peft.get_peft_model(copy.deepcopy(model), lora("0"))
    with pytest.raises(StrictLoadError, match="lora_A"):
        factors_of(model, adapted, lora("0"))
