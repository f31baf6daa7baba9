"""Adapters as anyone saves them with peft, on a tiny backbone."""

import json

import peft
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from adapterhub.hub.import_peft import ImportOptions
from adapterhub.specs import QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def saved(backbone, target, *, task="CAUSAL_LM", **options):
    """Let peft save an adapter of random weights as anyone does."""
    torch.manual_seed(5)
    auto = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    model = auto.from_pretrained(backbone, **({} if task == "CAUSAL_LM" else {"num_labels": 3}))
    if options.pop("prefix", False):
        config = peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=3)
    else:
        options = {"r": 4, "target_modules": ["q_proj", "v_proj"], **options}
        config = peft.LoraConfig(task_type=task, init_lora_weights=False, **options)
    adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "prompt" in name:
            parameter.data.normal_()
    adapted.save_pretrained(target)
    return adapted.eval()


def import_options(backbone, **more):
    return ImportOptions(backbone=str(backbone), quantization=PLAIN, **more)


def change_config(folder, **changes):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
