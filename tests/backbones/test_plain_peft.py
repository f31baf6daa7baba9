"""What is trained here gives the same logits in plain peft, one sequence at a time."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from tiny_architectures import (
    DECODERS,
    ENCODERS,
    MIXTURES,
    backbone_of,
    random_weights,
    tiny_backbone,
    tiny_config,
    tiny_model,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertModel,
)

from adapterhub.backbones.forward_paths import PADDED_ONLY
from adapterhub.backbones.task_model import build_task_model
from adapterhub.data.packing import EncodedExample, pack
from adapterhub.errors import BackboneError
from adapterhub.specs import LoraSpec, PrefixSpec

CLASSES = {
    "sequence": ("SEQ_CLS", AutoModelForSequenceClassification),
    "token": ("TOKEN_CLS", AutoModelForTokenClassification),
    "span": ("QUESTION_ANS", AutoModelForQuestionAnswering),
    "causal_lm": ("CAUSAL_LM", AutoModelForCausalLM),
}
LABELS = {"sequence": "xyz", "token": "OBI", "span": "se", "causal_lm": ""}
SEQUENCES = ([5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], [20, 21, 22], [30, 31, 32, 33, 34])
LORA = LoraSpec(rank=2, alpha=4.0)


def batch_of(backbone, kind, sequences=SEQUENCES):
    def select(ids):
        if kind != "sequence":
            return tuple(range(len(ids)))
        return (len(ids) - 1,) if backbone.kind == "decoder" else (0,)

    return pack([EncodedExample(n, ids, select(ids)) for n, ids in enumerate(sequences, 1)])


def trained(backbone, kind, adapter=LORA, **options):
    """Return a model whose adapter and head are random."""
    torch.manual_seed(0)
    model = build_task_model(
        backbone,
        head=kind,
        task_type=CLASSES[kind][0],
        labels=LABELS[kind],
        adapter=adapter,
        **options,
    )
    with torch.no_grad():
        for _, parameter in model.trainable():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def stored(model, folder):
    folder.mkdir()
    save_file(model.tensors(), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(model.config_document()))
    return folder


def peft_logits(folder, artifact, kind, sequences=SEQUENCES):
    """Return the logits of plain peft on plain transformers for each sequence alone."""
    options = {} if kind in ("span", "causal_lm") else {"num_labels": 3}
    stock = CLASSES[kind][1].from_pretrained(folder, dtype=torch.float32, **options)
    reference = PeftModel.from_pretrained(stock, artifact).eval()
    found = []
    with torch.no_grad():
        for ids in sequences:
            output = reference(
                input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long()
            )
            if kind == "span":
                found.append(torch.stack([output.start_logits, output.end_logits], -1)[0])
            else:
                found.append(output.logits if kind == "sequence" else output.logits[0])
    return torch.cat(found)


def check(tmp_path, name, kind, adapter=LORA, **options):
    saved = tiny_model(name)
    saved.save_pretrained(tmp_path / "backbone")
    backbone = backbone_of(saved)
    model = trained(backbone, kind, adapter, **options)
    artifact = stored(model, tmp_path / "artifact")
    with torch.no_grad():
        ours = model.head(model.hidden(batch_of(backbone, kind)))
    expected = peft_logits(tmp_path / "backbone", artifact, kind)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)
    model.close()
    return backbone


CASES = [
    *[(name, kind) for name in ENCODERS for kind in ("sequence", "token", "span")],
    *[(name, "causal_lm") for name in DECODERS],
    *[(name, kind) for name in ("llama", "qwen2", "gpt2") for kind in ("sequence", "token")],
    ("stablelm", "sequence"),
    ("stablelm", "token"),
    ("opt", "sequence"),
]


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case != ("eurobert", "span")])
def test_an_adapter_and_its_head_equal_plain_peft(tmp_path, name, kind):
    check(tmp_path, name, kind)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_padded_path_equals_the_packed_one(tmp_path, name):
    for kind in ("sequence", "token"):
        backbone = tiny_backbone(name)
        model = trained(backbone, kind)
        assert model.is_packed
        batch = batch_of(backbone, kind)
        with torch.no_grad():
            packed = model.head(model.hidden(batch))
        tensors = model.tensors()
        model.close()
        for padding in (True, False):
            backbone.verdicts["paths"] = replace(PADDED_ONLY, padding=padding)
            model = trained(backbone, kind)
            model.load_tensors(tensors, "same")
            assert not model.is_packed
            with torch.no_grad():
                padded = model.head(model.hidden(batch))
            torch.testing.assert_close(padded, packed, rtol=1e-4, atol=2e-5)
            model.close()


def test_a_pooler_that_the_checkpoint_lacks_is_stored(tmp_path):
    saved = BertModel(tiny_config("bert"), add_pooling_layer=False)
    random_weights(saved)
    saved.save_pretrained(tmp_path / "backbone")
    backbone = backbone_of(saved)
    model = trained(backbone, "sequence")
    assert any(".pooler." in name for name in model.tensors())
    artifact = stored(model, tmp_path / "artifact")
    with torch.no_grad():
        ours = model.head(model.hidden(batch_of(backbone, "sequence")))
    expected = peft_logits(tmp_path / "backbone", artifact, "sequence")
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_a_prefix_equals_plain_peft(tmp_path, name):
    check(tmp_path, name, "causal_lm", PrefixSpec(3))


def test_an_architecture_without_the_class_is_refused():
    with pytest.raises(BackboneError, match="'granite' has no sequence head"):
        trained(tiny_backbone("granite"), "sequence")


@pytest.mark.parametrize("name", MIXTURES)
def test_lora_on_experts_equals_plain_peft_and_learns(tmp_path, name):
    experts = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    spec = LoraSpec(rank=2, alpha=4.0, target_parameters=experts)
    backbone = check(tmp_path, name, "causal_lm", spec)
    model = trained(backbone, "causal_lm", spec).train()
    loss = model(batch_of(backbone, "causal_lm"), lambda head, h, _: head(h).square().mean())
    loss.backward()
    learned = dict(model.trainable())
    assert any("experts" in name for name in learned)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learned.values())


@pytest.mark.parametrize("name", ["stablelm", "lfm2", "llama", "gemma2"])
def test_a_sequence_sees_neither_its_neighbour_nor_its_future(name):
    backbone = tiny_backbone(name)
    model = trained(backbone, "causal_lm", LoraSpec(rank=2, target_modules=("q_proj",)))
    one, two = list(range(40, 60)), list(range(70, 90))

    def hidden(*sequences):
        return model.hidden(batch_of(backbone, "causal_lm", sequences))[20:]

    with torch.no_grad():
        whole = hidden(one, two)
        assert (hidden(one[::-1], two) - whole).abs().max() < 1e-6
        assert (hidden(one, [*two[:-1], 7]) - whole)[0].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "plain"), [("llama", True), ("granite", False), ("gemma2", False)]
)
def test_the_fused_loss_is_used_only_where_logits_are_a_plain_product(name, plain):
    model = trained(tiny_backbone(name), "causal_lm")
    assert (model.head.frozen_weight is not None) == plain


def test_a_padded_batch_may_be_given_as_embeddings():
    backbone = tiny_backbone("roberta")
    backbone.verdicts["paths"] = replace(PADDED_ONLY, padding=True)
    model = trained(backbone, "sequence")
    batch = batch_of(backbone, "sequence")
    with torch.no_grad():
        embedded = model.embed(batch.input_ids)
        expected = model.hidden(batch)
        torch.testing.assert_close(model.hidden(batch, embedded), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["roberta", "modernbert", "distilbert"])
def test_a_head_of_several_layers_learns(name):
    backbone = tiny_backbone(name)
    model = trained(backbone, "sequence").train()
    model(batch_of(backbone, "sequence"), lambda head, h, _: head(h).square().sum()).backward()
    learned = dict(model.trainable())
    assert len([name for name in learned if "modules_to_save" in name]) > 2
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learned.values())
