"""Heads of transformers' own classes around a shared base model."""

import pytest
import torch
from tiny_architectures import DECODERS, ENCODERS, backbone_of, tiny_backbone, tiny_config
from torch import nn
from transformers import AutoModel, PvtConfig

from adapterhub.backbones.adapter_config import adapter_peft_config
from adapterhub.backbones.head_construction import build_head, head_config
from adapterhub.backbones.heads import head_model_class
from adapterhub.errors import BackboneError, RecipeError
from adapterhub.specs import LoraSpec

LABELS = ("x", "y", "z")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
INPUTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def own_class(name, kind, head):
    """Return a separate instance of transformers' class with the weights of a head model."""
    config = tiny_config(name)
    config.num_labels = 2 if kind == "span" else len(LABELS)
    config.pad_token_id = head.model.config.pad_token_id
    model = head_model_class(config, kind, name)(config)
    model.load_state_dict(head.model.state_dict())
    return model.eval()


def logits(output, kind):
    if kind == "span":
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits


CASES = [
    *[(name, kind) for name in ENCODERS for kind in ("sequence", "token", "span")],
    *[(name, "causal_lm") for name in DECODERS],
    *[(name, "sequence") for name in DECODERS if name not in ("granite", "cohere", "lfm2")],
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_whole_class_and_its_parts_equal_transformers(name, kind):
    try:
        head = build_head(tiny_backbone(name), kind, LABELS)
    except BackboneError as error:
        pytest.skip(str(error))
    with torch.no_grad():
        whole = head.forward(INPUTS)
        expected = logits(own_class(name, kind, head)(**INPUTS), kind)
        torch.testing.assert_close(whole, expected)
        output = head.base_model(**head.base_inputs(INPUTS))
        torch.testing.assert_close(head.logits_of(output, INPUTS), expected)
        states = head.logits_of(output.last_hidden_state, INPUTS)
        torch.testing.assert_close(states, expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_the_class_holds_beside_its_base_model_is_learned(name):
    backbone = tiny_backbone(name)
    head = build_head(backbone, "sequence", LABELS)
    learned = {
        id(p) for path in head.head_modules for p in head.model.get_submodule(path).parameters()
    }
    shared = {id(parameter) for parameter in backbone.base_model.parameters()}
    held = {id(parameter) for parameter in head.model.parameters()}
    assert held - learned <= shared
    assert not learned & shared
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in head.model.parameters())


def test_a_pooler_that_the_checkpoint_lacks_is_learned():
    backbone = backbone_of(AutoModel.from_config(tiny_config("bert"), add_pooling_layer=False))
    head = build_head(backbone, "sequence", LABELS)
    assert head.head_modules == ("bert.pooler", "classifier")
    assert backbone.base_model.pooler is None
    assert head.forward(INPUTS).shape == (2, 3)


def test_a_pooler_that_the_class_does_not_use_is_left_out():
    backbone = tiny_backbone("bert")
    head = build_head(backbone, "token", LABELS)
    assert head.head_modules == ("classifier",)
    assert head.base_model.pooler is None
    assert isinstance(backbone.base_model.pooler, nn.Module)


def test_new_layers_are_initialised_by_their_class():
    torch.manual_seed(1)
    head = build_head(tiny_backbone("roberta", initializer_range=0.5), "sequence", LABELS)
    assert 0.4 < head.model.classifier.dense.weight.std() < 0.6
    assert head.model.classifier.dense.bias.eq(0).all()


def test_padding_is_found_where_the_checkpoint_names_no_token():
    head = build_head(tiny_backbone("gpt2"), "sequence", LABELS)
    short = torch.tensor([11, 12, 13, head.padding_token])
    padded = torch.stack([IDS[0], torch.cat([short, torch.full((2,), head.padding_token)])])
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    with torch.no_grad():
        together = head.forward({"input_ids": padded, "attention_mask": mask})
        alone = head.forward({"input_ids": short[None], "attention_mask": mask[1:, :4]})
    torch.testing.assert_close(together[1:], alone)


def test_the_output_step_of_single_positions_is_that_of_the_whole():
    for name in DECODERS:
        head = build_head(tiny_backbone(name), "causal_lm", ())
        hidden = torch.randn(1, 5, 32)
        with torch.no_grad():
            whole = head.logits_of(hidden)[0]
            torch.testing.assert_close(head.logits_of(hidden[0, :, None])[:, 0], whole)


def test_the_number_of_labels_is_set_where_it_is_a_field_of_the_configuration():
    config = PvtConfig()
    assert config.num_labels == 1000
    found = head_config(config, "image", ["cat", "dog", "owl"])
    assert (found.num_labels, found.id2label) == (3, {0: "cat", 1: "dog", 2: "owl"})


def test_a_head_that_an_adapter_cannot_store_is_refused_before_training():
    heads = build_head(tiny_backbone("bert"), "sequence", LABELS)
    heads.model.classifier = nn.Sequential(nn.Linear(32, 3), nn.BatchNorm1d(3))
    with pytest.raises(RecipeError, match="num_batches_tracked is int64"):
        adapter_peft_config(heads, "encoder", "bert", "SEQ_CLS", LoraSpec(), "adapter")
