"""Adapters logged to MLflow are loaded by MLflow, and its registry has their digest."""

import json

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from adapterhub.hub.import_peft import ImportOptions, import_peft
from adapterhub.registry import Registry
from adapterhub.specs import QuantizationSpec

mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def tracking(own_home):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{own_home}/mlflow.db")
    yield
    mlflow.set_tracking_uri(before)


def stored(folder, auto, backbone, modules, **settings):
    """Store a random adapter of peft, and return peft's model."""
    options = {"num_labels": 3} if "labels" in settings else {}
    model = auto.from_pretrained(backbone, dtype=torch.float32, **options)
    kind = "SEQ_CLS" if "labels" in settings else "CAUSAL_LM"
    config = peft.LoraConfig(r=4, target_modules=modules, task_type=kind)
    adapted = peft.get_peft_model(model, config).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for _, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    adapted.save_pretrained(folder / "peft")
    given = ImportOptions(str(backbone), QuantizationSpec("none", "float32"), **settings)
    import_peft(folder / "peft", folder / "ours", name="desk", origin="here", options=given)
    Registry().put(folder / "ours", "desk")
    return adapted


def loaded(command):
    """Log the adapter, and return what was printed and MLflow's components of the model."""
    done = command("export", "desk", "--format", "mlflow", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    version = mlflow.MlflowClient().get_model_version("desk", found["version"])
    assert version.tags["adapterhub.digest"] == found["digest"] == Registry().resolve("desk").digest
    uri = f"models:/desk/{found['version']}"
    return found, mlflow.transformers.load_model(uri, return_type="components")


def test_a_classifier_is_logged_merged(encoder, command, tracking, own_home):
    auto = AutoModelForSequenceClassification
    theirs = stored(own_home, auto, encoder, ["query", "value"], labels=("glad", "sad", "calm"))
    found, components = loaded(command)
    assert found["merged"]
    inputs = components["tokenizer"](["the song was great"], return_tensors="pt")
    with torch.no_grad():
        ours, expected = components["model"](**inputs).logits, theirs(**inputs).logits
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert components["model"].config.id2label[2] == "calm"


def test_text_generation_is_logged_as_an_adapter_beside_its_backbone(
    decoder, command, tracking, own_home
):
    theirs = stored(own_home, AutoModelForCausalLM, decoder, ["q_proj", "v_proj"])
    found, components = loaded(command)
    assert not found["merged"]
    assert isinstance(components["model"], peft.PeftModel)
    ids = torch.tensor([[6, 9, 2, 33, 11]])
    with torch.no_grad():
        ours, expected = components["model"](ids).logits, theirs(ids).logits
    torch.testing.assert_close(ours.float(), expected, rtol=1e-4, atol=1e-4)


def test_a_file_is_refused(command):
    assert command("export", "desk", "x", "--format", "mlflow").exit_code == 2
