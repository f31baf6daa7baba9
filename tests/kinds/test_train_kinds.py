"""Features of LoRA in a recipe: trained, stored in peft's layout, and checked before training."""

import peft
import pytest
import torch
from kind_cases import save_backbone
from toy_fixtures import run_command, write_recipe, write_talks
from transformers import AutoModelForCausalLM

from adapterhub.adapters.artifact import read_artifact

CASES = {
    "patterns": ("llama", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 4.0}}),
    "experts": (
        "qwen3-moe",
        {
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_peft_loads_what_was_trained(name, tmp_path):
    backbone, settings = CASES[name]
    folder = save_backbone(backbone, tmp_path / "backbone")
    path = recipe(tmp_path, folder, settings)
    done = run_command("train", str(path), "--output", "run", "--no-report")
    assert done.exit_code == 0, done.stderr
    artifact = read_artifact(tmp_path / "run" / "artifact")
    for key, value in settings.items():
        found = getattr(artifact.weights.spec, key)
        assert dict(found) == value if isinstance(value, dict) else len(found) >= len(value)
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[6, 9, 2, 11]])
    with torch.no_grad():
        plain = stock(input_ids=ids).logits
        adapted = peft.PeftModel.from_pretrained(stock, artifact.path).eval()
        assert not torch.equal(adapted(input_ids=ids).logits, plain)
    state = peft.get_peft_model_state_dict(adapted)
    assert state.keys() == artifact.weights.tensors.keys()
    assert all(torch.equal(state[key], artifact.weights.tensors[key]) for key in state)


def recipe(place, folder, settings, **sections):
    return write_recipe(
        place,
        "talks",
        folder,
        "dialogue",
        write_talks(place / "talks.jsonl"),
        adapter={"rank": 4, "alpha": 8, **settings},
        train={"batch_size": 16, "steps": 4, "evaluate_every": 4},
        **{"backbone": {"name": str(folder), "quantization": "none"}, **sections},
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank_pattern": {"q_proj(": 2}}, "is no regular expression"),
        ({"target_parameters": ["mlp.experts.down"]}, "matches no parameter"),
        ({"rank_patterns": {"q_proj": 2}}, "rank_pattern"),
    ],
)
def test_a_wrong_feature_is_named_before_training(settings, message, decoder, tmp_path):
    done = run_command("train", str(recipe(tmp_path, decoder, settings)), "--no-report")
    assert done.exit_code == 2
    assert message in done.stderr
