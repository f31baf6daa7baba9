"""A run of speech recognition by CTC, from recipe to transcripts."""

import json
from pathlib import Path

import pytest
import torch
from audio_backbones import RATE, save_audio, save_tones, tone
from peft import PeftModel
from transformers import AutoModelForCTC

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.audio import AudioFile
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.errors import BackboneError
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train

TASK = "speech-recognition"
SECTIONS = {
    "train": {"batch_size": 6, "steps": 110, "evaluate_every": 110},
    "optimizer": {"learning_rate": 0.01},
}
PLAIN = {"quantization": "none", "compute_dtype": "float32"}


def data_of(file: Path) -> dict:
    return {"train": str(file), "validation": str(file), "fields": {"audio": "file"}}


@pytest.fixture
def tones(tmp_path) -> Path:
    """Recordings of which the transcript is one letter."""
    path = save_tones(tmp_path / "tones", count=24)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["text"] = line["text"][0]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_letters_are_learned_stored_and_transcribed(tones, recipe, command, tmp_path):
    backbone = save_audio(tmp_path / "ear", "hubert")
    path = recipe("letters", backbone, TASK, tones, data=data_of(tones), **SECTIONS)
    done = command("train", str(path), "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    after = result["metrics"]["after"]
    assert after["wer"] < 0.2
    assert after["cer"] < 0.2
    manifest = read_artifact(Path(result["artifact"])).manifest
    assert manifest.labels == ("<blank>", "h", "l", "m")
    file = tmp_path / "x.flac"
    file.write_bytes(tone("high", 100, form="FLAC"))
    (found,) = json.loads(command("predict", "letters", str(file), "--json").stdout)
    assert found["text"] == "h"
    figures = json.loads(command("eval", "letters", "--data", str(tones), "--json").stdout)
    assert figures["adapter"]["wer"] == pytest.approx(after["wer"])


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-layer-norm", "hubert", "wavlm"])
def test_mixed_recordings_have_the_logits_of_plain_peft(family, tones, recipe, tmp_path):
    folder = save_audio(tmp_path / "ear", family)
    backbone = {"name": str(folder), **PLAIN}
    path = recipe("l", folder, TASK, tones, data=data_of(tones), **SECTIONS, backbone=backbone)
    artifacts = [
        read_artifact(
            train(
                load_recipe(path, ["train.steps=12", f"train.seed={seed}"]),
                output=tmp_path / f"run{seed}",
            ).artifact
        )
        for seed in (1, 2)
    ]
    local = LocalEngine(load_backbone(str(folder), artifacts[0].manifest.quantization))
    for number, artifact in enumerate(artifacts, start=1):
        local.load(artifact, name=f"run{number}")
    heard = [AudioFile("x", tone(label, n)) for n, label in enumerate(("low", "high", "middle"))]
    engine, names = local.engine, ["run1", "run2", "run1"]
    requests = [
        engine.add_labeling({"audio": recording}, name, kind="transcript")
        for recording, name in zip(heard, names, strict=True)
    ]
    while not all(request.finished for request in requests):
        engine.step()
    for request, recording, name in zip(requests, heard, names, strict=True):
        stock = AutoModelForCTC.from_pretrained(folder, vocab_size=4, pad_token_id=0)
        model = PeftModel.from_pretrained(stock, str(tmp_path / name / "artifact")).eval()
        samples = recording.waveform(RATE, 30)
        inputs = local.backbone.preprocessor(samples, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        (found,) = request.results()
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
    first, _, third = (request.results()[0] for request in requests)
    assert (first[:19] - third[:19]).abs().max() > 1e-2


def test_a_backbone_without_a_tokenizer_is_refused(tones, recipe, tmp_path):
    folder = save_audio(tmp_path / "ear", "whisper")
    path = recipe("l", folder, TASK, tones, data=data_of(tones), **SECTIONS)
    with pytest.raises(BackboneError, match="'whisper' has no ctc head"):
        train(load_recipe(path, ["task.max_seconds=1"]), output=tmp_path / "run")
