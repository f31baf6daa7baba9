"""Adapters of random numbers on a tiny model, and what peft makes of them."""

import peft
import torch
from tiny_configs import llama_config
from transformers import LlamaForCausalLM

from adapterhub.adapters.peft_format import config_document, peft_config, spec_of
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.composition.lora import lora_pairs
from adapterhub.specs import LoraSpec

NAMES = ("first", "second", "third")
IDS = torch.tensor([[5, 9, 2, 33], [7, 7, 1, 60]])


def backbone():
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config(vocab_size=64, hidden_size=32)).eval()


def config_of(spec, **changes):
    settings = {"base_model": "tiny", "modules_to_save": None, "revision": None} | changes
    targets = getattr(spec, "target_modules", ())
    return peft_config(spec, task_type="CAUSAL_LM", target_modules=targets, **settings)


def shake(model, seed):
    """Give all that peft added random values, so that it changes the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "prompt" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2


def peft_model(*specs, seed=0):
    """A peft model with an adapter of each spec, by the names of ``NAMES``."""
    model = peft.get_peft_model(backbone(), config_of(specs[0]), adapter_name=NAMES[0])
    for name, spec in zip(NAMES[1:], specs[1:], strict=False):
        model.add_adapter(name, config_of(spec))
    shake(model, seed)
    return model.eval()


def weights_of(model, name):
    """An adapter of a peft model as training returns it."""
    spec = spec_of(config_document(model.peft_config[name]))
    state = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return AdapterWeights(spec, {key: tensor.detach().clone() for key, tensor in state.items()})


def adapters_of(*specs, seed=0):
    """The same adapters as ``peft_model`` has."""
    return held_by(peft_model(*specs, seed=seed))


def held_by(model):
    """The adapters of a model that ``peft_model`` made."""
    return [weights_of(model, name) for name in NAMES if name in model.peft_config]


def deltas(adapter):
    """Module to what the adapter adds to its weight, ``[out, in]``."""
    return {module: each.delta() for module, each in lora_pairs(adapter, adapter.spec).items()}


def peft_deltas(model, name):
    """The same from peft's own layers."""
    found = {}
    for path, module in model.base_model.model.named_modules():
        if name in getattr(module, "lora_A", {}):
            found[path] = module.get_delta_weight(name).detach()
    return found


def logits(adapter):
    """What the backbone answers with an adapter that peft loads from our tensors."""
    model = peft.get_peft_model(backbone(), config_of(adapter.spec)).eval()
    loaded = peft.set_peft_model_state_dict(model, dict(adapter.tensors))
    assert not loaded.unexpected_keys
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def same_deltas(found, expected):
    assert found.keys() == expected.keys()
    for module in expected:
        torch.testing.assert_close(found[module], expected[module], atol=2e-6, rtol=1e-5)


def equal_to_the_bit(first, second):
    return (
        first.spec == second.spec
        and first.tensors.keys() == second.tensors.keys()
        and all(torch.equal(first.tensors[key], second.tensors[key]) for key in first.tensors)
    )


def lora(rank=4, alpha=6.0, targets=("q_proj", "v_proj"), **more):
    return LoraSpec(rank=rank, alpha=alpha, target_modules=targets, **more)
