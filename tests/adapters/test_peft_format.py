"""Specs to peft's configuration and back; target modules; what real peft loads."""

import json

import peft
import pytest
import torch
from tiny_configs import bert_config, llama_config
from torch import nn
from transformers import (
    BertForTokenClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4GroupedLinear

from adapterhub.adapters.artifact import read_artifact, read_peft_folder, write_artifact
from adapterhub.adapters.manifest import BackboneRef, Manifest, Metrics
from adapterhub.adapters.peft_format import (
    config_document,
    peft_config,
    spec_of,
)
from adapterhub.adapters.target_modules import is_linear_layer, resolve_target_modules
from adapterhub.adapters.tensor_checks import check_tensors_match
from adapterhub.errors import ArtifactError, RecipeError, StrictLoadError
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

SMALL = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 64, "num_labels": 3}
LLAMA = llama_config(**SMALL, pad_token_id=0)
BERT = bert_config(**SMALL)
BACKBONES = {
    "CAUSAL_LM": (LlamaForCausalLM, LLAMA, ("lm_head",)),
    "SEQ_CLS": (LlamaForSequenceClassification, LLAMA, ("score",)),
    "TOKEN_CLS": (BertForTokenClassification, BERT, ("classifier",)),
}
IDS = torch.tensor([[5, 9, 2, 33], [7, 7, 1, 60]])


def backbone(task_type, seed=0):
    torch.manual_seed(seed)
    model_class, config, _ = BACKBONES[task_type]
    return model_class(config).eval()


def config_of(spec, task_type, targets=("x",), **given):
    settings = {"base_model": "someone/tiny", "modules_to_save": None, "revision": None} | given
    return peft_config(spec, task_type=task_type, target_modules=targets, **settings)


def manifest_of(spec, task):
    return Manifest(
        task=task,
        labels=(),
        backbone=BackboneRef(name="tiny", fingerprint="f"),
        quantization=QuantizationSpec("none", "float32"),
        adapter=spec,
        trained_parameters=1,
        backbone_parameters=1,
        recipe={},
        data={},
        metrics=Metrics(),
        seed=0,
        libraries={},
    )


def trained(spec, task_type):
    """A peft model whose every trained tensor is random, so that it changes the output."""
    model = backbone(task_type)
    targets = ()
    if isinstance(spec, LoraSpec):
        exclude = BACKBONES[task_type][2]
        targets = resolve_target_modules(model, spec.target_modules, exclude=exclude)
    adapted = peft.get_peft_model(model, config_of(spec, task_type, targets)).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.rand_like(parameter))
    return adapted


@pytest.mark.parametrize("task_type", sorted(BACKBONES))
@pytest.mark.parametrize(
    "spec",
    [
        LoraSpec(rank=4, alpha=6.0),
        LoraSpec(rank=2, rslora=True, dora=True, init="gaussian"),
        LoraSpec(rank=4, init="orthogonal"),
        PrefixSpec(num_virtual_tokens=3),
        PrefixSpec(num_virtual_tokens=3, projection=True),
    ],
    ids=["lora", "rslora-dora", "orthogonal", "prefix", "projected-prefix"],
)
def test_peft_loads_our_folder_unchanged(tmp_path, task_type, spec):
    adapted = trained(spec, task_type)
    write_artifact(
        tmp_path / "adapter",
        tensors=peft.get_peft_model_state_dict(adapted),
        adapter_config=config_document(adapted.peft_config["default"]),
        manifest=manifest_of(spec, "any"),
        card="",
    )
    loaded = peft.PeftModel.from_pretrained(backbone(task_type), tmp_path / "adapter").eval()
    with torch.inference_mode():
        found, expected = loaded(input_ids=IDS).logits, adapted(input_ids=IDS).logits
        plain = backbone(task_type)(input_ids=IDS).logits
    # the projection runs over a batch while training and over one sequence when it is saved,
    # and a matrix product rounds differently in the two; all else is equal to the last bit
    tolerance = 1e-5 if getattr(spec, "projection", False) else 0.0
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert not torch.allclose(found, plain)


def test_our_folder_reads_back_what_peft_held(tmp_path):
    spec = LoraSpec(rank=4, dora=True)
    adapted = trained(spec, "SEQ_CLS")
    state = peft.get_peft_model_state_dict(adapted)
    write_artifact(
        tmp_path / "adapter",
        tensors=state,
        adapter_config=config_document(adapted.peft_config["default"]),
        manifest=manifest_of(spec, "any"),
        card="",
    )
    weights = read_artifact(tmp_path / "adapter").weights
    assert weights.tensors.keys() == state.keys()
    assert all(torch.equal(weights.tensors[key], state[key]) for key in state)
    assert weights.num_parameters == sum(tensor.numel() for tensor in state.values())
    assert weights.nbytes == 4 * weights.num_parameters


@pytest.mark.parametrize("spec", [LoraSpec(rank=2), PrefixSpec(num_virtual_tokens=2)])
def test_folder_that_peft_saved_is_readable(tmp_path, spec):
    adapted = trained(spec, "TOKEN_CLS")
    adapted.save_pretrained(tmp_path)
    found = read_peft_folder(tmp_path)
    state = peft.get_peft_model_state_dict(adapted)
    assert {key: tuple(tensor.shape) for key, tensor in found.weights.tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in state.items()
    }
    assert found.weights.spec.method == spec.method
    assert (found.base_model, found.revision, found.task_type) == (None, None, "TOKEN_CLS")


def test_pickle_of_plain_peft_is_refused(tmp_path):
    adapted = trained(LoraSpec(rank=2), "CAUSAL_LM")
    adapted.save_pretrained(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"'adapter_model\.bin' is a pickle"):
        read_peft_folder(tmp_path)


@pytest.mark.parametrize(
    "spec",
    [
        LoraSpec(rank=8, alpha=12.5, dropout=0.1, target_modules=("k", "q"), rslora=True),
        LoraSpec(rank=3, dora=True, init="random", target_modules=("q",)),
        LoraSpec(init="gaussian", target_modules=("q",)),
        PrefixSpec(num_virtual_tokens=9, projection=True),
    ],
)
def test_spec_survives_peft(spec):
    targets = getattr(spec, "target_modules", ())
    document = config_document(config_of(spec, "SEQ_CLS", targets))
    assert spec_of(json.loads(json.dumps(document))) == spec


def test_configuration_has_one_form_whatever_the_order_of_names():
    def form(targets, saved):
        config = config_of(LoraSpec(), "SEQ_CLS", targets, modules_to_save=saved)
        return json.dumps(config_document(config))

    assert form(["b", "a", "c"], ["y", "x"]) == form(["c", "b", "a"], ["x", "y", "x"])


@pytest.mark.parametrize("spec", [LoraSpec(rank=2), PrefixSpec(num_virtual_tokens=2)])
def test_configuration_is_what_peft_itself_saves(tmp_path, spec):
    adapted = trained(spec, "TOKEN_CLS")
    document = config_document(adapted.peft_config["default"])
    adapted.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_bytes())
    for names in ("target_modules", "modules_to_save"):
        if saved.get(names):
            saved[names] = sorted(set(saved[names]))
    assert document == saved


@pytest.mark.parametrize(
    ("init", "why"),
    [
        ("pissa", "subtracts the initial adapter"),
        ("pissa_niter_16", "subtracts the initial adapter"),
        ("olora", "subtracts the initial adapter"),
        ("corda", "subtracts the initial adapter"),
        ("lora_ga", "subtracts the initial adapter"),
        ("loftq", "quantizes the backbone again"),
        ("mica", "freezes B"),
        ("eva", "needs a pass over the training data"),
        ("gausian", "Did you mean 'gaussian'?"),
    ],
)
def test_initialisation_that_cannot_be_used_says_why(init, why):
    with pytest.raises(RecipeError) as caught:
        config_of(LoraSpec(init=init), "CAUSAL_LM")
    assert why in str(caught.value)
    assert caught.value.place == "adapter.init"


@pytest.mark.parametrize("init", ["default", "gaussian", "orthogonal", "random"])
def test_initialisation_that_is_offered_leaves_the_backbone_as_it_is(init):
    model = backbone("CAUSAL_LM")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    adapted = peft.get_peft_model(
        model, config_of(LoraSpec(rank=4, init=init), "CAUSAL_LM", ["q_proj"])
    )
    after = {
        key.removeprefix("base_model.model.").replace(".base_layer", ""): tensor
        for key, tensor in adapted.state_dict().items()
        if "lora_" not in key
    }
    assert after.keys() == before.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        (LoraSpec(rank=3, init="orthogonal"), "adapter.rank"),
        (LoraSpec(rank=0), "adapter.rank"),
        (PrefixSpec(num_virtual_tokens=0), "adapter.num_virtual_tokens"),
    ],
)
def test_size_that_cannot_be_used_is_named(spec, place):
    with pytest.raises(RecipeError) as caught:
        config_of(spec, "CAUSAL_LM")
    assert caught.value.place == place


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"peft_type": "POLY"}, "peft_type"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"peft_type": "BONE"}, "peft_type"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"arrow_config": {"top_k": 1}}, "arrow_config"),
        ({"peft_type": None}, "peft_type"),
        ({"rank_pattern": {"q_proj": "2"}}, "rank_pattern.q_proj"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"bias": "some"}, "bias"),
        ({"lora_bias": 1}, "lora_bias"),
        ({"some_later_feature": {"on": 1}}, "some_later_feature"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "new"}, "init_lora_weights"),
        ({"init_lora_weights": 1}, "init_lora_weights"),
        ({"init_lora_weights": ["eva"]}, "init_lora_weights"),
        ({"target_modules": ".*q_proj"}, "target_modules"),
        ({"r": "4"}, "r"),
        ({"r": 0}, "r"),
    ],
)
def test_configuration_that_is_not_supported_is_named(change, place):
    document = config_document(config_of(LoraSpec(), "CAUSAL_LM", ["q_proj"])) | change
    with pytest.raises(ArtifactError) as caught:
        spec_of(document)
    assert caught.value.place == f"adapter_config.json: {place}"


def test_all_linear_is_the_linear_layers_of_the_body():
    found = resolve_target_modules(backbone("CAUSAL_LM"), ("all-linear",), exclude=("lm_head",))
    assert found == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")


def test_named_targets_are_kept_and_sorted():
    found = resolve_target_modules(backbone("TOKEN_CLS"), ("value", "query"), exclude=())
    assert found == ("query", "value")


def test_a_layer_of_groups_of_vectors_is_no_linear_layer():
    assert is_linear_layer(nn.Linear(8, 8))
    assert not is_linear_layer(DeepseekV4GroupedLinear(8, 16, n_groups=4))


class HeadWithSameNames(nn.Module):
    """Body and head share the last part of a name, as in RoBERTa's classification head."""

    def __init__(self):
        super().__init__()
        self.output = nn.ModuleDict({"dense": nn.Linear(2, 2)})
        self.attention = nn.ModuleDict({"dense": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
        self.classifier = nn.ModuleDict({"dense": nn.Linear(2, 2)})


@pytest.mark.parametrize("targets", [("all-linear",), ("dense",)])
def test_name_that_the_head_has_too_is_made_longer(targets):
    found = resolve_target_modules(HeadWithSameNames(), targets, exclude=("classifier",))
    assert found == ("attention.dense", "output.dense")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("q_porj", "adapter.target_modules: 'q_porj' matches no module. Did you mean 'q_proj'?"),
        ("proj", "adapter.target_modules: 'proj' matches no module."),
        ("embed_tokens", "adapter.target_modules: 'embed_tokens' is not a linear layer"),
        ("lm_head", "adapter.target_modules: 'lm_head' is not a linear layer of the backbone"),
        ("all_linear", "adapter.target_modules: 'all_linear' matches no module. Did you mean"),
    ],
)
def test_target_that_matches_nothing_is_named(target, message):
    with pytest.raises(RecipeError) as caught:
        resolve_target_modules(backbone("CAUSAL_LM"), (target,), exclude=("lm_head",))
    assert str(caught.value).startswith(message)


def test_no_target_is_an_error():
    with pytest.raises(RecipeError, match=r"adapter\.target_modules: no module is named"):
        resolve_target_modules(backbone("CAUSAL_LM"), (), exclude=())


def test_strict_report_passes_what_matches():
    check_tensors_match("x", {"a": (2, 3)}, {"a": torch.zeros(2, 3)})


def test_strict_report_names_missing_unexpected_and_misshapen():
    found = {"b": torch.zeros(1), "c": torch.zeros(2, 3)}
    with pytest.raises(StrictLoadError) as caught:
        check_tensors_match("mine@2", {"a": (1,), "c": (3, 2)}, found)
    assert caught.value.missing == ("a", "c of shape [3, 2]")
    assert caught.value.unexpected == ("b", "c of shape [2, 3]")
    assert str(caught.value).startswith("mine@2: 2 tensors missing")
