"""A run on recordings, from recipe to prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audio_backbones import RATE, TONES, save_audio, save_tones, tone

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.audio import AudioFile
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train

TASK = {"name": "audio-classification", "max_seconds": 1.0}
SECTIONS = {
    "train": {"batch_size": 6, "steps": 40, "evaluate_every": 20},
    "optimizer": {"learning_rate": 0.01},
}


def data_of(file: Path) -> dict:
    return {
        "train": str(file),
        "validation": str(file),
        "fields": {"audio": "file", "label": "label_name"},
    }


@pytest.fixture
def tones(tmp_path) -> Path:
    return save_tones(tmp_path / "tones")


@pytest.mark.parametrize("family", ["whisper", "wav2vec2-layer-norm"])
def test_tones_are_learned_stored_and_predicted(family, tones, recipe, command, tmp_path):
    backbone = save_audio(tmp_path / "ear", family)
    path = recipe("tones", backbone, TASK["name"], tones, data=data_of(tones), **SECTIONS)
    done = command("train", str(path), "task.max_seconds=1", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["metrics"]["after"]["accuracy"] > 0.9
    page = Path(result["report"]).read_text()
    assert "when one part of the recording is silent" in page
    assert "strongest parts" in page
    assert "Calibration" in page

    files = []
    for number, label in enumerate(("high", "low", "middle"), start=100):
        file = tmp_path / f"{label}.flac"
        file.write_bytes(tone(label, number, form="FLAC"))
        files.append(str(file))
    shown = command("predict", "tones", *files)
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["high", "low", "middle"]
    (found,) = json.loads(command("predict", "tones", files[0], "--json").stdout)
    assert (found["audio"], found["label"]) == (files[0], "high")
    missing = command("predict", "tones", "none.wav")
    assert missing.exit_code != 0
    assert b"none.wav: can't be read" in missing.stderr_bytes
    scored = command("eval", "tones", "--data", str(tones), "--json")
    assert json.loads(scored.stdout)["adapter"]["accuracy"] > 0.9
    explain_half_a_recording(command, tmp_path)


def explain_half_a_recording(command, folder):
    """Explain a recording with a tone in its second half, and 0.2 s that are not read."""
    time = np.arange(RATE * 12 // 10) / RATE
    samples = np.where(time < 0.5, 0.0, 0.6 * np.sin(2 * np.pi * TONES["low"] * time))
    file = folder / "half.wav"
    soundfile.write(file, samples, RATE)
    done = command("explain", "tones", str(file), "--html", str(folder / "half.html"), "--json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["answers"]
    parts = found["words"]
    assert (found["method"], found["baseline"], found["unread"]) == ("ablation", "silence", 4)
    assert [parts[0]["word"], parts[-1]["word"]] == ["0.00–0.05s", "0.95–1.00s"]
    # silence in place of silence changes nothing but the rounding of another batch
    silent, heard = (
        [abs(each["attribution"]) for each in half] for half in (parts[:10], parts[10:])
    )
    assert max(silent) < 1e-4 < max(heard)
    assert "4 parts were truncated" in (folder / "half.html").read_text()
    shown = command("explain", "tones", str(file), "--label", "high").stdout
    assert "part" in shown.splitlines()[2]
    refused = command("explain", "tones", str(file), "--method", "gradients")
    assert b"explained by the silence of its parts" in refused.stderr_bytes


@pytest.mark.parametrize("family", ["whisper", "wav2vec2", "hubert"])
def test_plain_peft_and_transformers_give_the_same_scores(family, tones, recipe, tmp_path):
    folder = save_audio(tmp_path / "ear", family)
    backbone = {"name": str(folder), "quantization": "none", "compute_dtype": "float32"}
    path = recipe(
        "plain", folder, TASK["name"], tones, data=data_of(tones), **SECTIONS, backbone=backbone
    )
    result = train(
        load_recipe(path, ["train.steps=6", "task.max_seconds=1"]), output=tmp_path / "r"
    )
    artifact = read_artifact(result.artifact)
    loaded = LocalEngine(load_backbone(str(folder), artifact.manifest.quantization)).load(
        artifact, name="new"
    )
    content = tone("middle", 3)
    (tmp_path / "your recording.wav").write_bytes(content)
    (found,) = loaded.predict([{"audio": AudioFile("x", content)}])

    card = (result.artifact / "README.md").read_text()
    snippet = card[card.index("```python\n") + 10 :]
    snippet = snippet[: snippet.index("\n```")].replace(
        'adapter = "."', f'adapter = "{result.artifact}"'
    )
    snippet = snippet.replace("path/to/backbone", str(folder))
    snippet = snippet.replace("your recording.wav", str(tmp_path / "your recording.wav"))
    names: dict = {}
    exec(compile(snippet, "card", "exec"), names)
    expected = torch.tensor(list(found["scores"].values()))
    torch.testing.assert_close(names["scores"], expected, rtol=1e-4, atol=1e-5)
