"""Adapters merged into the weights of their backbone compute what peft computes beside it."""

import pytest
import torch
from kind_cases import CASES, CLASSES, import_case, logits, peft_model, save_adapter, save_backbone
from peft import PeftModel

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.architecture import quiet_transformers
from adapterhub.backbones.merged_model import merge_adapter
from adapterhub.errors import ArtifactError

HEADS = {
    "CAUSAL_LM": "causal_lm",
    "SEQ_CLS": "sequence",
    "TOKEN_CLS": "token",
    "QUESTION_ANS": "span",
}
MERGED = (
    "lora, dora",
    "lora, overlapping patterns",
    "lora, embedding, tied",
    "lora, embedding and output layer, tied",
    "lora, trainable_token_indices, tied",
    "lora, whole embedding, tied",
    "lora, norm layers in full",
    "lora, all biases",
    "lora, fan_in_fan_out",
    "lora, experts",
    "lora, question answering",
    "lora, encoder, pooler",
    "(IA)^3",
)
REFUSED = {
    "lora, lora_bias": "the base layer has no bias",
    "lora, activated": "from its invocation tokens on",
    "lora, resized vocabulary": "resizes the vocabulary from 64 to 70",
    "prefix tuning": "keys and values before the text",
    "prompt tuning": "embeddings before the text",
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Return a function from a name to the case, its backbone and its artifact."""
    backbones = {}

    def find(name):
        case = CASES[name]
        if case.backbone not in backbones:
            folder = tmp_path_factory.mktemp(case.backbone)
            backbones[case.backbone] = save_backbone(case.backbone, folder)
        folder = tmp_path_factory.mktemp("adapter")
        theirs = save_adapter(case, backbones[case.backbone], folder / "theirs")
        import_case(case, backbones[case.backbone], theirs, folder / "ours")
        return case, backbones[case.backbone], read_artifact(folder / "ours")

    return find


def merged(case, backbone, artifact):
    labels = artifact.manifest.labels
    return merge_adapter(artifact, backbone, head=HEADS[case.task_type], labels=labels)


@pytest.mark.parametrize("name", MERGED)
def test_a_saved_merge_computes_what_peft_computes(name, stored, tmp_path):
    case, backbone, artifact = stored(name)
    with quiet_transformers():
        merged(case, backbone, artifact).save_pretrained(tmp_path / "merged")
        reloaded = CLASSES[case.task_type].from_pretrained(tmp_path / "merged").eval()
    assert not isinstance(reloaded, PeftModel)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    expected = logits(peft_model(case, backbone, artifact.path))
    torch.testing.assert_close(logits(reloaded), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_change_of_weights_is_refused_with_its_reason(name, stored):
    with pytest.raises(ArtifactError, match=REFUSED[name]) as refused:
        merged(*stored(name))
    assert refused.value.hint


def test_a_merge_that_changes_the_outputs_is_refused(stored, monkeypatch):
    case, backbone, artifact = stored("lora, embedding, tied")
    # then the output layer, which is the same tensor, gets the change of the embedding too
    monkeypatch.setattr("adapterhub.backbones.merged_model._untie", lambda *_: None)
    with pytest.raises(ArtifactError, match="merging changes its logits"):
        merged(case, backbone, artifact)
