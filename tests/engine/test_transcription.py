"""Whisper in the engine writes what transformers' own ``generate`` writes, adapters mixed."""

import peft
import pytest
import torch
from audio_backbones import RATE, SECONDS, save_whisper, tone
from transformers import WhisperForConditionalGeneration

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.audio import AudioFile
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.transcription import transcribe_all
from adapterhub.specs import LoraSpec, QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task
from adapterhub.tasks.transcription import TranscriptionOptions

PLAIN = QuantizationSpec("none", "float32")
#: Ends of the names of the layers that each adapter changes.
TARGETS = {
    "encoder": ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.fc1"),
    "cross": ("encoder_attn.v_proj", "encoder_attn.k_proj", "encoder_attn.q_proj"),
    "decoder": ("decoder.layers.0.self_attn.v_proj", "decoder.layers.1.fc2"),
}
NAMES = [None, "encoder", "cross", "decoder", "cross"]
ENGLISH = TranscriptionOptions(language="en")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_whisper(tmp_path_factory.mktemp("models") / "whisper")


@pytest.fixture(scope="module")
def peers(folder):
    """peft's model of each adapter, alone on plain transformers."""
    found = {}
    for seed, (name, ends) in enumerate(TARGETS.items()):
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        paths = [path for path, _ in model.named_modules() if path.endswith(ends)]
        config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=paths, init_lora_weights=False)
        found[name] = peft.get_peft_model(model, config).eval()
    found[None] = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return {name: model.eval() for name, model in found.items()}


@pytest.fixture(scope="module")
def engine(folder, peers):
    engine = Engine(load_backbone(str(folder), PLAIN), EngineConfig(rank_slots=32))
    for name, model in peers.items():
        if name is not None:
            paths = tuple(sorted(model.peft_config["default"].target_modules))
            state = peft.get_peft_model_state_dict(model)
            tensors = {key: value.detach() for key, value in state.items()}
            spec = LoraSpec(rank=4, alpha=16.0, target_modules=paths)
            engine.load_weights(AdapterWeights(spec, tensors), key=name, name=name)
    yield engine
    engine.close()


def task_of(engine, **options):
    backbone = engine.backbone
    settings = TaskOptions(max_seconds=SECONDS, **options)
    return build_task("speech-recognition", backbone.preprocessor, "audio", [], settings)


def recordings(count):
    labels = ("low", "high", "middle")
    return [AudioFile(f"{n}.wav", tone(labels[n % 3], n)) for n in range(count)]


def transcribed(engine, heard, names, options=ENGLISH, **settings):
    task = task_of(engine, **settings)
    return transcribe_all(engine, [task.transcribe(each, options) for each in heard], names)


def expected(engine, peers, name, recording, **options):
    """Return the tokens that transformers writes for one recording, without its end token."""
    extractor = engine.backbone.preprocessor.feature_extractor
    samples = recording.waveform(RATE, 60)
    inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
    how = {"language": "en", "task": "transcribe", **options}
    with torch.no_grad():
        found = peers[name].generate(input_features=inputs.input_features, **how)
    return tuple(found[0].tolist())


def tokens(found):
    return [each.segments[0].tokens if each.segments else () for each in found]


def test_mixed_adapters_write_the_tokens_of_transformers(engine, peers):
    heard = recordings(5)
    together = transcribed(engine, heard, NAMES)
    wanted = [expected(engine, peers, n, each) for n, each in zip(NAMES, heard, strict=True)]
    assert tokens(together) == wanted
    assert len(set(wanted)) == 5
    assert max(map(len, wanted)) == 48 - 4
    alone = [transcribed(engine, [h], [n])[0] for h, n in zip(heard, NAMES, strict=True)]
    assert tokens(alone) == wanted
    for found, own in zip(together, alone, strict=True):
        assert found.segments[0].avg_logprob == pytest.approx(own.segments[0].avg_logprob, abs=1e-4)
