"""LoRA on the experts of mixtures gives the tokens of peft, alone and beside other adapters."""

import pytest
from kind_helpers import WORDED, check, lora, save_decoder
from transformers import AutoConfig

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    **WORDED,
}
FAMILIES = {
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 48},
    "gpt_oss": {"num_local_experts": 4, "sliding_window": 8},
}
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


@pytest.mark.parametrize("family", FAMILIES)
def test_experts(tmp_path, family):
    save_decoder(tmp_path, AutoConfig.for_model(family, **SHAPE, **FAMILIES[family]))
    router = "router" if family == "gpt_oss" else "gate"
    kinds = {
        "plain": lora(),
        "experts": lora(target_modules=[], target_parameters=EXPERTS),
        "down": lora(
            target_parameters=["experts.down_proj"], rank_pattern={"experts.down_proj": 2}
        ),
        "router": lora(target_parameters=[f"{router}.weight"]),
        "saved": lora(modules_to_save=["experts"]),
    }
    check(tmp_path, kinds)
