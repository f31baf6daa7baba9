"""Adapters that peft saved elsewhere: imported with what is known, refused where they lie."""

import shutil
from unittest.mock import Mock

import peft
import pytest
import torch
from huggingface_hub.errors import RevisionNotFoundError
from import_helpers import PLAIN, WEIGHTS, change_config, import_options, saved
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from adapterhub.adapters.artifact import read_artifact
from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    BackboneError,
    RecipeError,
    StrictLoadError,
)
from adapterhub.hub.import_peft import UPSTREAM_CARD, ImportOptions, import_peft
from adapterhub.workflows.open_adapter import open_engine


def imported(folder, target, options):
    import_peft(folder, target, name="imported", origin="hf://someone/adapter", options=options)
    return read_artifact(target)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "lora_alpha": 7},
        {"use_dora": True},
        {"target_modules": r".*layers\.[01]\.self_attn\.(q|k)_proj"},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
        {"prefix": True},
    ],
    ids=["lora", "rslora", "dora", "pattern", "layers", "prefix"],
)
def test_an_adopted_adapter_answers_as_peft_does(decoder, tmp_path, options):
    theirs = saved(decoder, tmp_path / "theirs", **options)
    artifact = imported(tmp_path / "theirs", tmp_path / "ours", import_options(decoder))
    loaded = open_engine(artifact).load(artifact, name="imported")
    prompt = [{"role": "user", "content": "the film was good"}]
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    ids = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    expected = theirs.generate(**ids, max_new_tokens=8, do_sample=False)
    expected = tokenizer.decode(expected[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert loaded.generate([prompt], max_new_tokens=8) == [expected.strip()]


def test_the_tensors_stay_as_they_are(decoder, tmp_path):
    saved(decoder, tmp_path / "theirs")
    imported(tmp_path / "theirs", tmp_path / "ours", import_options(decoder))
    theirs, ours = (load_file(tmp_path / each / WEIGHTS) for each in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_it_says_what_is_unknown(decoder, tmp_path):
    saved(decoder, tmp_path / "theirs")
    manifest = imported(tmp_path / "theirs", tmp_path / "ours", import_options(decoder)).manifest
    assert manifest.unknown == ("backbone", "data", "metrics", "quantization", "recipe", "seed")
    assert (manifest.seed, dict(manifest.data), dict(manifest.metrics.after)) == (None, {}, {})
    assert manifest.libraries == {"peft": peft.__version__}
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "Not recorded: backbone, data, metrics, quantization, recipe, seed" in card
    # peft's card names the folder of the backbone, which means nothing elsewhere
    upstream = (tmp_path / "theirs" / "README.md").read_text()
    assert (tmp_path / "ours" / UPSTREAM_CARD).read_text() == upstream.replace(
        str(decoder), decoder.name
    )


def test_a_classifier_gets_labels(decoder, tmp_path):
    saved(decoder, tmp_path / "theirs", task="SEQ_CLS")
    nameless = imported(
        tmp_path / "theirs", tmp_path / "nameless", import_options(decoder)
    ).manifest
    assert nameless.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert "labels" in nameless.unknown
    named = import_options(decoder, labels=("red", "green", "blue"))
    manifest = imported(tmp_path / "theirs", tmp_path / "named", named).manifest
    assert (manifest.task, manifest.labels) == ("text-classification", ("red", "green", "blue"))
    assert "labels" not in manifest.unknown
    with pytest.raises(ArtifactError, match="3 outputs, 2 labels were given"):
        imported(tmp_path / "theirs", tmp_path / "few", import_options(decoder, labels=("a", "b")))


def test_an_adapter_of_another_shape_is_refused(decoder, encoder, tmp_path):
    saved(decoder, tmp_path / "theirs")
    with pytest.raises(AdapterHubError):
        imported(tmp_path / "theirs", tmp_path / "ours", import_options(encoder))
    tensors = load_file(tmp_path / "theirs" / WEIGHTS)
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key] = tensors[key][:, :-1].contiguous()
    save_file(tensors, tmp_path / "theirs" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(StrictLoadError, match="1 tensors missing"):
        imported(tmp_path / "theirs", tmp_path / "ours", import_options(decoder))
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"peft_type": "XLORA"}, ArtifactError, "XLORA weighs several adapters.*blend them"),
        ({"peft_type": "NEW"}, ArtifactError, "'NEW' is not supported"),
        ({"layer_replication": [[0, 1]]}, ArtifactError, "layer_replication"),
        ({"task_type": None}, RecipeError, "no task type.*--task"),
        ({"task_type": "SEQ_2_SEQ_LM"}, RecipeError, "SEQ_2_SEQ_LM.*--task"),
        ({"task_type": 7}, ArtifactError, "must be text"),
        ({"init_lora_weights": "corda"}, ArtifactError, "peft can't load it.*plain LoRA"),
    ],
)
def test_what_cannot_be_used_is_refused(decoder, tmp_path, changes, error, message):
    saved(decoder, tmp_path / "theirs")
    change_config(tmp_path / "theirs", **changes)
    with pytest.raises(error, match=message):
        imported(tmp_path / "theirs", tmp_path / "ours", import_options(decoder))
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("base_model", "asked", "message"),
    [
        (None, None, "is missing.*--backbone"),
        ("/home/someone/model", None, "'/home/someone/model'.*--backbone"),
        ("../model", None, "no Hub id"),
        ("someone/other", "minilm-l6", "trained on 'someone/other'"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "minilm-l6", "another backbone"),
        (None, "no such", "neither a catalog backbone"),
    ],
)
def test_the_backbone_must_be_known_and_the_same(decoder, tmp_path, base_model, asked, message):
    saved(decoder, tmp_path / "theirs")
    change_config(tmp_path / "theirs", base_model_name_or_path=base_model)
    with pytest.raises(BackboneError, match=message):
        imported(tmp_path / "theirs", tmp_path / "ours", ImportOptions(backbone=asked))


def test_a_pickle_is_refused(decoder, tmp_path):
    saved(decoder, tmp_path / "theirs")
    shutil.copy(tmp_path / "theirs" / WEIGHTS, tmp_path / "theirs" / "adapter_model.bin")
    with pytest.raises(ArtifactError, match="pickle"):
        imported(tmp_path / "theirs", tmp_path / "ours", import_options(decoder))


def test_the_state_of_a_training_run_is_left_out_and_named(decoder, tmp_path, caplog):
    folder = tmp_path / "checkpoint-500"
    saved(decoder, folder)
    names = ("optimizer.pt", "rng_state.pth", "rng_state_1.pth", "scheduler.pt")
    for name in (*names, "trainer_state.json", "training_args.bin"):
        (folder / name).write_bytes(b"\x80\x04.")
    with caplog.at_level("INFO"):
        artifact = imported(folder, tmp_path / "ours", import_options(decoder))
    (line,) = [each.message for each in caplog.records if "left out" in each.message]
    assert line.endswith(": " + ", ".join((*names, "trainer_state.json", "training_args.bin")))
    assert not any("optimizer" in name for name in artifact.manifest.files)
    (folder / "other.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(ArtifactError, match=r"'other\.pt' is a pickle"):
        imported(folder, tmp_path / "again", import_options(decoder))


@pytest.mark.parametrize(
    ("revision", "cause", "imports"),
    [
        ("unsloth", OSError("no network"), True),
        ("1" * 40, RevisionNotFoundError("404", response=Mock()), True),
        ("1" * 40, OSError("no network"), False),
    ],
)
def test_a_revision_that_the_backbone_lacks_is_left_out(
    decoder, tmp_path, monkeypatch, caplog, revision, cause, imports
):
    saved(decoder, tmp_path / "theirs")
    change_config(tmp_path / "theirs", base_model_name_or_path="someone/tiny", revision=revision)

    def fetch(name, *, revision=None):
        if revision is not None:
            raise BackboneError("cannot be downloaded", place=name) from cause
        return decoder

    monkeypatch.setattr("adapterhub.hub.import_peft.fetch_backbone", fetch)
    for number, asked in enumerate((None, "someone/tiny")):
        options = ImportOptions(backbone=asked, quantization=PLAIN)
        if imports:
            artifact = imported(tmp_path / "theirs", tmp_path / str(number), options)
            assert artifact.manifest.backbone.revision is None
            assert artifact.adapter_config["revision"] is None
            assert f"names the revision {revision!r}" in caplog.text
        else:
            with pytest.raises(BackboneError, match="cannot be downloaded"):
                imported(tmp_path / "theirs", tmp_path / str(number), options)
