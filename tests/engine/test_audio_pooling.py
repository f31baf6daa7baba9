"""Recordings of a mixed batch have the scores that each has alone with transformers and peft."""

import random

import peft
import pytest
import torch
from audio_backbones import FAMILIES, RATE, TONES, save_audio, tone
from pooling_helpers import randomize
from transformers import AutoModelForAudioClassification

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.audio import AudioFile
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.errors import DataError, RequestError
from adapterhub.specs import LoraSpec, QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

PLAIN = QuantizationSpec("none", "float32")
LABELS = list(TONES)
#: Layers by family; WavLM's attention reads the weights of its projections.
TARGETS = {
    "ast": ("fc1", "fc2"),
    "whisper": ("q_proj", "v_proj", "fc1"),
    "wavlm": ("intermediate_dense", "output_dense"),
}


class Peer:
    """An adapter of random weights, its task, and peft's model of it."""

    def __init__(self, folder, backbone, family, seed):
        torch.manual_seed(seed)
        stock = AutoModelForAudioClassification.from_pretrained(
            folder, num_labels=len(LABELS), dtype=torch.float32
        )
        names = {name.rpartition(".")[2] for name, _ in stock.named_modules()}
        wanted = TARGETS.get(family, ("q_proj", "v_proj", "intermediate_dense", "projection"))
        targets = [name for name in wanted if name in names] or ["dense"]
        heads = [n for n in ("projector", "classifier") if hasattr(stock, n)]
        config = peft.LoraConfig(
            r=3 + seed,
            lora_alpha=8,
            target_modules=targets,
            modules_to_save=heads,
            init_lora_weights=False,
        )
        self.model = peft.get_peft_model(stock, config).eval()
        for name, parameter in self.model.named_parameters():
            randomize(name, parameter)
        state = peft.get_peft_model_state_dict(self.model)
        spec = LoraSpec(rank=3 + seed, alpha=8.0, target_modules=tuple(targets))
        self.weights = AdapterWeights(spec, {key: value.clone() for key, value in state.items()})
        self.extractor = backbone.preprocessor
        self.task = build_task(
            "audio-classification",
            backbone.preprocessor,
            "audio",
            LABELS,
            TaskOptions(max_seconds=1),
        )

    def scores(self, recording):
        samples = recording.waveform(RATE, 1)
        inputs = self.extractor(samples, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            logits = self.model(**inputs).logits[0]
        return dict(zip(LABELS, logits.softmax(-1).tolist(), strict=True))


def recordings(count):
    return [AudioFile(f"{n}.wav", tone(LABELS[n % 3], n)) for n in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_recordings_are_classified_as_alone(family, tmp_path):
    folder = save_audio(tmp_path, family)
    backbone = load_backbone(str(folder), PLAIN)
    peers = {name: Peer(folder, backbone, family, seed) for seed, name in enumerate("ab")}
    engine = Engine(backbone, EngineConfig(rank_slots=64))
    for name, peer in peers.items():
        engine.load_weights(peer.weights, key=f"sha256:{name}", name=name, task=peer.task)
    heard = recordings(7)
    names = random.Random(4).choices(list(peers), k=len(heard))
    answers = engine.label([{"audio": each} for each in heard], names)
    for answer, name, recording in zip(answers, names, heard, strict=True):
        expected = peers[name].scores(recording)
        assert answer["scores"] == pytest.approx(expected, abs=1e-4)
    a, b = (peers[name].scores(heard[0])["low"] for name in "ab")
    assert abs(a - b) > 1e-3
    with pytest.raises(RequestError, match="reads recordings, not texts"):
        engine.add("a text")
    with pytest.raises(DataError, match=r"'x\.wav' can't be read as a recording"):
        engine.label([{"audio": AudioFile("x.wav", b"none")}], "a")
    engine.close()
