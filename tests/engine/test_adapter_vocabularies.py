"""Adapters with a vocabulary of their own, beside those that use the backbone's."""

import pytest
import torch
from kind_helpers import (
    SMALL,
    assert_equal,
    generate,
    lora,
    peft_decoder,
    read_adapter,
    save_adapter,
    save_decoder,
)
from tiny_configs import family_configs
from transformers import AutoModelForCausalLM

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.engine import Engine
from adapterhub.errors import EngineError, RequestError
from adapterhub.specs import QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
#: The backbones have 64 tokens.
GROWN = 70
PROMPT = [6, 66, 9, 64, 12, 13, 69, 20]
BOTH = ["embed_tokens", "lm_head", "q_proj"]
KINDS = {
    "saved": lora(modules_to_save=["embed_tokens", "lm_head"]),
    "resized": lora(),
    "lora": lora(target_modules=BOTH),
    "dora": lora(target_modules=BOTH, use_dora=True),
    "tokens": lora(trainable_token_indices=[6, 7, 64, 69]),
}


def save_grown(backbone, folder, config, seed):
    """Store an adapter on a backbone with more tokens."""
    base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32)
    base.resize_token_embeddings(GROWN)
    for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
        torch.nn.init.normal_(layer.weight.data[64:], std=0.5)
    # peft compares the vocabulary to that of this folder
    config.base_model_name_or_path = str(backbone)
    save_adapter(folder, base, config, seed)


def engine_of(folder, family, *, tied):
    config = family_configs()[family]
    config.tie_word_embeddings = tied
    save_decoder(folder, config)
    return Engine(load_backbone(str(folder), PLAIN), SMALL)


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("llama", True), ("gemma3", True)])
def test_grown_vocabularies(tmp_path, family, tied):
    engine = engine_of(tmp_path, family, tied=tied)
    kinds = KINDS | ({"lora_tied": lora(target_modules=["embed_tokens"])} if tied else {})
    models = {None: peft_decoder(tmp_path, None)}
    for seed, (name, config) in enumerate(kinds.items()):
        save_grown(tmp_path, tmp_path / name, config, seed)
        models[name] = peft_decoder(tmp_path, tmp_path / name, GROWN)
        engine.load_weights(read_adapter(tmp_path / name), key=name, name=name)
        (alone,) = generate(engine, [(PROMPT, name)], 5)
        assert_equal(models[name], PROMPT, alone)
    requests = [([7, 8, 9], None), *((PROMPT[: 8 - i], name) for i, name in enumerate(kinds))]
    for (prompt, name), answer in zip(requests, generate(engine, requests, 5), strict=True):
        assert_equal(models[name], prompt, answer)
    with pytest.raises(RequestError, match="64 is not a token id"):
        engine.add([7, 64], None)
    with pytest.raises(RequestError, match="70 is not a token id"):
        engine.add([7, 70], "saved")
    engine.close()


def test_a_grown_embedding_without_an_output_layer_is_refused(tmp_path):
    engine = engine_of(tmp_path, "llama", tied=False)
    save_grown(tmp_path, tmp_path / "a", lora(target_modules=["embed_tokens"]), 1)
    with pytest.raises(EngineError, match="no output layer of as many"):
        engine.load_weights(read_adapter(tmp_path / "a"), key="a", name="a")
    engine.close()
