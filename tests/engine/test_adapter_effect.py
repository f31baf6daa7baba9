"""Adapters and blends that change nothing are rejected before they answer."""

from dataclasses import replace

import peft
import pytest
import torch
from engine_helpers import greedy_params, make_peer
from kind_helpers import PLAIN, SMALL, lora, read_adapter, save_adapter
from pooling_helpers import make_labeller
from transformers import AutoModelForCausalLM

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.engine import Engine
from adapterhub.errors import ArtifactError, NoEffectError
from adapterhub.specs import LoraSpec, QuantizationSpec

SPEC = LoraSpec(rank=2, alpha=2.0, target_modules=("q_proj", "down_proj"))


@pytest.fixture(scope="module")
def engine(decoder):
    engine = Engine(load_backbone(str(decoder), PLAIN), SMALL)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def peer(decoder):
    return make_peer(decoder, SPEC, 1).weights


def scaled(weights, part, factor, **changes):
    tensors = {
        key: tensor * factor if part in key else tensor for key, tensor in weights.tensors.items()
    }
    return AdapterWeights(replace(weights.spec, **changes), tensors)


def load(engine, weights, name, task=None):
    engine.load_weights(weights, key=f"sha256:{name}", name=name, task=task)


@pytest.mark.parametrize(
    ("part", "factor", "changes"),
    [
        ("lora_B", 0.0, {}),
        ("lora_A", 0.0, {}),
        ("lora_A", 1.0, {"alpha": 0.0}),
        # not zero, but lost where it is added to what the layer computes
        ("lora_B", 1e-20, {}),
    ],
)
def test_lora_that_adds_nothing_is_rejected(engine, peer, part, factor, changes):
    with pytest.raises(NoEffectError, match="does not change the output"):
        load(engine, scaled(peer, part, factor, **changes), "zero")
    assert "zero" not in engine.adapters
    load(engine, scaled(peer, part, 1e-3), "small")


def test_a_scale_that_overflows_is_rejected(engine, peer):
    with pytest.raises(ArtifactError, match="too large for the compute type"):
        load(engine, scaled(peer, "lora_B", 1.0, alpha=1e300), "large")


def test_what_rounding_to_the_compute_type_makes_zero_is_rejected(decoder, peer):
    engine = Engine(load_backbone(str(decoder), QuantizationSpec("none", "bfloat16")), SMALL)
    with pytest.raises(NoEffectError):
        load(engine, scaled(peer, "lora_B", 1e-42), "lost")
    load(engine, peer, "kept")
    engine.close()


KINDS = {
    "dora": lora(use_dora=True),
    "ia3": peft.IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "tokens": lora(target_modules=["q_proj"], trainable_token_indices=[7, 9]),
    "embedding": lora(target_modules=["embed_tokens"]),
    "output": lora(target_modules=["lm_head"]),
    "saved": lora(target_modules=["q_proj"], modules_to_save=["norm"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_rejected_as_peft_initializes_it(engine, decoder, tmp_path, kind):
    config = KINDS[kind]
    base = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32)
    save_adapter(tmp_path / "trained", base, config, 1)
    load(engine, read_adapter(tmp_path / "trained"), f"{kind} trained")
    base = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32)
    if hasattr(config, "init_lora_weights"):
        config = replace(config, init_lora_weights=True)
    else:
        config = replace(config, init_ia3_weights=True)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "fresh")
    with pytest.raises(NoEffectError):
        load(engine, read_adapter(tmp_path / "fresh"), f"{kind} fresh")


def test_blends_that_cancel_out_are_rejected(engine, peer, decoder):
    load(engine, peer, "one")
    load(engine, scaled(peer, "lora_B", -2.0), "opposite")
    load(engine, make_peer(decoder, SPEC, 2).weights, "other")
    params = greedy_params(1)
    for blend in ([("one", 1.0), ("opposite", 0.5)], [("one", 0.0)], [("one", 0.0), ("other", 0)]):
        for _ in range(2):
            with pytest.raises(NoEffectError, match="with these weights"):
                engine.add([6, 7, 8], blend, params)
    for blend in ([("one", 1.0), ("opposite", 1.0)], [("one", 0.0), ("other", 1.0)]):
        engine.cancel(engine.add([6, 7, 8], blend, params))


def test_a_head_that_learned_is_an_effect_where_it_is_used(engine, decoder):
    labeller = make_labeller(decoder, "decoder", "sequence", SPEC, 1)
    weights = scaled(labeller.weights, "lora_B", 0.0)
    load(engine, weights, "head", labeller.task)
    assert engine.label(["the film"], "head")[0]["label"] in labeller.task.labels
    # the base model would answer and embed under its name
    with pytest.raises(NoEffectError, match="by its head alone"):
        engine.add([6, 7, 8], "head", greedy_params(1))
    with pytest.raises(NoEffectError, match="by its head alone"):
        engine.embed(["the film"], "head")
    with pytest.raises(NoEffectError):
        load(engine, scaled(weights, "score", 0.0), "flat", labeller.task)
