"""Layers whose adapter peft does not load back, found before anything is trained."""

import pytest
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from tiny_models import tiny_model, tiny_model_folder

from adapterhub.adapters.target_modules import resolve_target_modules
from adapterhub.backbones import adapter_config
from adapterhub.backbones.compatibility import check_adapter_fits
from adapterhub.backbones.peft_names import layers_lost_on_load
from adapterhub.errors import RecipeError
from adapterhub.specs import LoraSpec


def lost_in_peft(model):
    """Return the layers that peft's own state does not reach when it is set again."""
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    result = set_peft_model_state_dict(adapted, get_peft_model_state_dict(adapted))
    missing = [name for name in result.missing_keys if ".lora_A." in name]
    return {name.removeprefix("base_model.model.").partition(".lora_A.")[0] for name in missing}


@pytest.mark.parametrize(
    ("model_type", "count"), [("laguna", 3), ("inkling2_text", 2), ("llama", 0), ("qwen2_moe", 0)]
)
def test_lost_layers_are_those_that_peft_does_not_load(model_type, count):
    model = tiny_model(model_type, "causal_lm")
    found = layers_lost_on_load(model)
    assert len(found) == count
    assert {*found} == lost_in_peft(model)


def test_all_linear_leaves_lost_layers_out_and_naming_one_is_refused():
    model = tiny_model("laguna", "causal_lm")
    lost = layers_lost_on_load(model)
    found = resolve_target_modules(model, ("all-linear",), exclude=("lm_head",), lost=lost)
    assert {"mlp.gate_proj", "q_proj"} <= {*found}
    assert not any(path.endswith(f".{name}") for path in lost for name in found)
    with pytest.raises(RecipeError) as caught:
        resolve_target_modules(model, ("gate_proj",), exclude=("lm_head",), lost=lost)
    assert "peft does not load back" in str(caught.value)
    assert "mlp.gate_proj" in caught.value.hint


def test_an_adapter_that_peft_would_not_load_is_refused_before_training(tmp_path, monkeypatch):
    folder = tiny_model_folder(tmp_path, "laguna", "causal_lm")

    def check():
        check_adapter_fits(folder, LoraSpec(), head="causal_lm", task_type="CAUSAL_LM", labels=())

    check()
    monkeypatch.setattr(adapter_config, "layers_lost_on_load", lambda _: ())
    with pytest.raises(RecipeError, match=r"peft does not load .*shared_experts"):
        check()
