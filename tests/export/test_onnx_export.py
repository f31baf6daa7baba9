"""Encoders with a head in ONNX Runtime: the same logits, labels in the configuration."""

import json

import peft
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from adapterhub.backbones.backbone import load_backbone
from adapterhub.errors import ArtifactError, MissingExtraError
from adapterhub.hub.import_peft import ImportOptions, import_peft
from adapterhub.integrations import onnx
from adapterhub.registry import Registry
from adapterhub.specs import QuantizationSpec

onnxruntime = pytest.importorskip("onnxruntime")

CLASSES = {"SEQ_CLS": AutoModelForSequenceClassification, "CAUSAL_LM": AutoModelForCausalLM}
LABELS = ("glad", "sad", "calm")


@pytest.fixture
def store(own_home):
    """Return a function that stores a random classifier of peft for a backbone."""

    def build(backbone, modules, kind="SEQ_CLS", **options) -> None:
        auto = CLASSES[kind]
        labels = {"num_labels": 3} if kind == "SEQ_CLS" else {}
        model = auto.from_pretrained(backbone, dtype=torch.float32, **labels)
        config = peft.LoraConfig(r=4, target_modules=modules, task_type=kind)
        adapted = peft.get_peft_model(model, config)
        torch.manual_seed(3)
        with torch.no_grad():
            for _, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn_like(parameter) * 0.3)
        adapted.save_pretrained(own_home / f"{kind}-peft")
        given = ImportOptions(str(backbone), QuantizationSpec("none", "float32"), **options)
        target = own_home / f"{kind}-artifact"
        import_peft(own_home / f"{kind}-peft", target, name="desk", origin="here", options=given)
        Registry().put(target, "desk")

    return build


def test_a_classifier_has_the_same_logits_in_onnx_runtime(encoder, store, command, own_home):
    store(encoder, ["query", "value"], labels=LABELS)
    done = command("export", "desk", "served", "--format", "onnx", "--json")
    assert done.exit_code == 0, done.stderr
    assert "differ from transformers' by at most" in json.loads(done.stdout)["note"]
    folder = own_home / "served"
    assert json.loads((folder / "config.json").read_text())["id2label"]["2"] == "calm"
    assert command("merge", "desk", "--output", "plain", "--dtype", "float32").exit_code == 0
    plain = AutoModelForSequenceClassification.from_pretrained(own_home / "plain").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = {each.name for each in session.get_inputs()}
    for texts in (["the song was great"], ["bad", "the dull meal was awful", "fine day"]):
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            expected = plain(**inputs).logits
        given = {name: value.numpy() for name, value in inputs.items() if name in names}
        (logits,) = session.run(["logits"], given)
        assert expected.std() > 0.01
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)
    # the comparison that the command makes fails where they differ
    with torch.no_grad():
        plain.classifier.bias.add_(0.1)
    with pytest.raises(ArtifactError, match="ONNX Runtime's logits differ"):
        onnx._difference(folder / "model.onnx", plain, dict(inputs), "desk")


def test_a_decoder_is_refused_and_so_is_a_head_by_llama_cpp(encoder, decoder, store, command):
    store(decoder, ["q_proj"], kind="CAUSAL_LM")
    done = command("export", "desk", "--format", "onnx")
    assert done.exit_code == 5
    assert "--format gguf" in done.stderr
    store(encoder, ["query"], labels=LABELS)
    for format in ("gguf", "ollama"):
        done = command("export", "desk", "--format", format)
        assert done.exit_code == 5
        assert "which llama.cpp and Ollama can't compute" in done.stderr
        assert "--format onnx" in done.stderr


def test_a_missing_package_names_the_extra(encoder, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    backbone = load_backbone(str(encoder))
    with pytest.raises(MissingExtraError, match=r"adapterhub\[onnx\]"):
        onnx.check_exportable(backbone, "desk")
    with pytest.raises(ArtifactError, match="kind 'decoder'"):
        onnx.check_exportable(type("Backbone", (), {"kind": "decoder"}), "desk")
