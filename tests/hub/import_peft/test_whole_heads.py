"""Heads of adapters that peft stored in part, and copies of the backbone's layers."""

import peft
import pytest
import torch
from import_helpers import import_options
from tiny_configs import modernbert_config
from toy_fixtures import run_command, save_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    ModernBertForSequenceClassification,
    ModernBertModel,
)

from adapterhub.adapters.artifact import read_artifact
from adapterhub.errors import ArtifactError
from adapterhub.hub.import_peft import import_peft

IDS = torch.tensor([[2, 6, 9, 3]])


def modernbert(folder, *, head):
    torch.manual_seed(0)
    config = modernbert_config(vocab_size=64, num_labels=3)
    model = ModernBertForSequenceClassification if head else ModernBertModel
    model(config).save_pretrained(folder)
    save_tokenizer(folder, encoder=True)
    return folder


def save_adapter(backbone, folder, **settings):
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=3)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", target_modules=["Wqkv"], init_lora_weights=False, **settings
    )
    peft.get_peft_model(model, config).save_pretrained(folder)
    return folder


def loaded(backbone, folder):
    torch.manual_seed(2)
    stock = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=3)
    model = peft.PeftModel.from_pretrained(stock, folder).eval()
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def imported(backbone, folder, target):
    import_peft(folder, target, name="a", origin="a", options=import_options(backbone))
    return target


def test_a_part_of_the_head_that_peft_left_out_is_that_of_the_checkpoint(tmp_path):
    backbone = modernbert(tmp_path / "backbone", head=True)
    theirs = save_adapter(backbone, tmp_path / "theirs")
    ours = imported(backbone, theirs, tmp_path / "ours")
    weights = read_artifact(ours).weights
    assert "base_model.model.head.dense.weight" in weights.tensors
    assert torch.equal(loaded(backbone, ours), loaded(backbone, theirs))
    # without a head in the checkpoint, the artifact still has all of it
    bare = modernbert(tmp_path / "bare", head=False)
    assert torch.equal(loaded(bare, ours), loaded(backbone, theirs))


def test_a_head_that_is_stored_nowhere_is_refused(tmp_path):
    backbone = modernbert(tmp_path / "backbone", head=False)
    theirs = save_adapter(backbone, tmp_path / "theirs")
    with pytest.raises(ArtifactError, match=r"'head.dense'.*lacks too.*modules_to_save"):
        imported(backbone, theirs, tmp_path / "ours")
    whole = save_adapter(backbone, tmp_path / "whole", modules_to_save=["head"])
    assert torch.equal(
        loaded(backbone, imported(backbone, whole, tmp_path / "ours")), loaded(backbone, whole)
    )


def test_copies_of_the_backbone_are_dropped(decoder, tmp_path):
    from import_helpers import saved

    saved(decoder, tmp_path / "theirs", target_modules=["q_proj", "embed_tokens"])
    ours = imported(decoder, tmp_path / "theirs", tmp_path / "ours")
    keys = read_artifact(ours).weights.tensors
    assert not any("base_layer" in key for key in keys)
    assert any("lora_embedding_A" in key for key in keys)


def test_the_command_reports_a_conversion(decoder, tmp_path):
    from import_helpers import saved

    saved(decoder, tmp_path / "plain")
    arguments = ("--backbone", str(decoder), "--quantization", "none", "--name", "theirs")
    done = run_command("import-peft", str(tmp_path / "plain"), *arguments)
    assert (done.exit_code, "converted" in done.stdout) == (0, False)
    torch.manual_seed(0)
    save_oft(decoder, tmp_path / "oft")
    done = run_command("import-peft", str(tmp_path / "oft"), *arguments)
    assert done.exit_code == 0, done.stderr
    assert "converted from OFT to LoRA of rank 64, relative error " in done.stdout
    assert "from OFT to LoRA" in run_command("show", "theirs@2").stdout
    few = run_command("import-peft", str(tmp_path / "oft"), *arguments, "--max-rank", "4")
    assert few.exit_code != 0
    assert "a LoRA of rank 4 differs from it by" in few.stderr
    assert "--max-error" in few.stderr


def save_oft(backbone, folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(backbone)
    config = peft.OFTConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=0, oft_block_size=8)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(folder)
