"""A run of speech recognition by Whisper, from recipe to transcripts and plain peft."""

import json
from pathlib import Path

import pytest
import torch
from audio_backbones import RATE, SECONDS, save_tones, save_whisper, tone
from peft import PeftModel
from transformers import (
    AutoFeatureExtractor,
    AutoTokenizer,
    WhisperForConditionalGeneration,
)

from adapterhub.adapters.artifact import read_artifact
from adapterhub.data.audio import AudioFile
from adapterhub.errors import RecipeError
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train

TASK = "speech-recognition"
SECTIONS = {
    "train": {"batch_size": 8, "steps": 30, "evaluate_every": 30},
    "optimizer": {"learning_rate": 0.02},
    "adapter": {"rank": 8, "alpha": 32},
}
SPOKEN = ("task.language=en", f"task.max_seconds={SECONDS}")


@pytest.fixture
def tones(tmp_path) -> Path:
    """Recordings of which the transcript is one letter."""
    path = save_tones(tmp_path / "tones", count=12)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["text"] = line["text"][0]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def by_peft(backbone: Path, artifact: Path, content: bytes) -> str:
    """Return what plain peft writes for a recording, without transformers' loop over windows."""
    model = WhisperForConditionalGeneration.from_pretrained(backbone)
    model = PeftModel.from_pretrained(model, str(artifact)).eval()
    extractor = AutoFeatureExtractor.from_pretrained(backbone)
    samples = AudioFile("x", content).waveform(RATE, 30)
    inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
    once = {"return_dict_in_generate": True, "force_unique_generate_call": True}
    with torch.no_grad():
        found = model.generate(
            input_features=inputs.input_features, language="en", task="transcribe", **once
        )
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    first_timestamp = tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
    tokens = [each for each in found.sequences[0].tolist() if each < first_timestamp]
    return tokenizer.decode(tokens, skip_special_tokens=True).strip()


def data_of(file: Path) -> dict:
    return {"train": str(file), "validation": str(file), "fields": {"audio": "file"}}


def test_an_adapter_is_trained_stored_transcribes_and_is_scored(tones, recipe, command, tmp_path):
    backbone = save_whisper(tmp_path / "ear")
    plain = {"name": str(backbone), "quantization": "none", "compute_dtype": "float32"}
    path = recipe("letters", backbone, TASK, tones, data=data_of(tones), **SECTIONS, backbone=plain)
    done = command("train", str(path), *SPOKEN, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    metrics = result["metrics"]
    assert metrics["after"]["loss"] < metrics["before"]["loss"] * 0.8
    artifact = Path(result["artifact"])
    stored = read_artifact(artifact)
    assert stored.manifest.labels == ()
    assert stored.manifest.recipe["task"]["vocabulary"] is None
    assert any(".encoder_attn." in name for name in stored.weights.tensors)
    wanted = [by_peft(backbone, artifact, tone(label, 100)) for label in ("high", "low")]

    files = []
    for label in ("high", "low"):
        files.append(tmp_path / f"{label}.flac")
        files[-1].write_bytes(tone(label, 100, form="FLAC"))
    shown = command("predict", "letters", *map(str, files), "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert [each["text"] for each in found] == wanted
    scored = command("eval", "letters", "--data", str(tones), "--limit", "3", "--json")
    assert scored.exit_code == 0, scored.output
    report = json.loads(scored.stdout)
    assert {"loss", "wer", "cer"} <= report["adapter"].keys()
    assert report["adapter"]["loss"] < report["base"]["loss"]
    assert report["adapter"]["cer"] != report["base"]["cer"]
    assert "english normalization" in report["signatures"]["wer"]

    # the card's own example, in plain transformers and peft
    (tmp_path / "your recording.wav").write_bytes(tone("high", 100))
    card = (artifact / "README.md").read_text()
    snippet = card[card.index("```python\n") + 10 :]
    snippet = snippet[: snippet.index("\n```")].replace('adapter = "."', f'adapter = "{artifact}"')
    snippet = snippet.replace("path/to/backbone", str(backbone))
    snippet = snippet.replace("your recording.wav", str(tmp_path / "your recording.wav"))
    names: dict = {"print": lambda text: names.update(printed=text)}
    exec(compile(snippet, "card", "exec"), names)
    # transformers leaves out what an adapter of few steps writes after two timestamps
    assert isinstance(names["printed"], str)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["task.language=null"], "task.language: this backbone writes many languages"),
        (["task.language=klingon"], "knows no language 'klingon'"),
        (["task.max_new_tokens=5"], "task.max_new_tokens: a Whisper does not use it"),
        (["task.max_seconds=3"], "3 s are more than the backbone reads"),
    ],
    ids=["no-language", "language", "tokens", "window"],
)
def test_settings_that_can_not_be_used_are_refused(changes, problem, tones, recipe, tmp_path):
    backbone = save_whisper(tmp_path / "ear")
    path = recipe("l", backbone, TASK, tones, data=data_of(tones), **SECTIONS)
    with pytest.raises(RecipeError, match=problem):
        train(load_recipe(path, [*SPOKEN, *changes]), output=tmp_path / "run")


def test_an_english_only_whisper_does_not_translate(tones, recipe, tmp_path):
    backbone = save_whisper(tmp_path / "ear", multilingual=False)
    path = recipe("l", backbone, TASK, tones, data=data_of(tones), **SECTIONS)
    changes = [SPOKEN[1], "task.speech_task=translate"]
    with pytest.raises(RecipeError, match="English-only backbone does not translate"):
        train(load_recipe(path, changes), output=tmp_path / "run")
