"""Whisper in the engine writes what transformers' own ``generate`` writes, adapters mixed."""

import numpy as np
import peft
import pytest
import torch
from audio_backbones import RATE, SECONDS, encoded, save_whisper, tone
from transformers import WhisperForConditionalGeneration

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.architecture import read_preprocessor
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.audio import AudioFile
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.transcription import transcribe_all
from adapterhub.errors import RecipeError, RequestError
from adapterhub.specs import LoraSpec, QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task
from adapterhub.tasks.transcription import TranscriptionOptions
from adapterhub.tasks.whisper_windows import split_segments

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
    """Return the tokens that transformers writes for one recording, without its end token.

    Its loop over windows would leave out what a random model writes after two timestamps.
    """
    extractor = engine.backbone.preprocessor.feature_extractor
    samples = recording.waveform(RATE, 60)
    inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
    once = {"return_dict_in_generate": True, "force_unique_generate_call": True}
    how = {"language": "en", "task": "transcribe", **once, **options}
    with torch.no_grad():
        found = peers[name].generate(input_features=inputs.input_features, **how)
    prompt = 3 if options.get("return_timestamps") else 4
    written = found.sequences[0, prompt:].tolist()
    end = peers[name].config.eos_token_id
    return tuple(written[: written.index(end)] if end in written else written)


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


def test_beams_find_the_transcript_of_transformers(engine, peers):
    heard, names = recordings(2), ["cross", None]
    found = transcribed(engine, heard, names, num_beams=3)
    wanted = [
        expected(engine, peers, name, each, num_beams=3)
        for name, each in zip(names, heard, strict=True)
    ]
    assert tokens(found) == wanted
    assert found[0].segments[0].avg_logprob is None


def test_a_translation_has_the_prompt_of_transformers(engine, peers):
    (heard,) = recordings(1)
    options = TranscriptionOptions(language="German", task="translate")
    (found,) = transcribed(engine, [heard], ["decoder"], options)
    how = {"language": "de", "task": "translate"}
    assert tokens([found]) == [expected(engine, peers, "decoder", heard, **how)]
    assert (found.language, found.task) == ("german", "translate")


def test_a_language_that_is_not_given_is_detected(engine, peers):
    (heard,) = recordings(1)
    (found,) = transcribed(engine, [heard], [None], TranscriptionOptions())
    extractor = engine.backbone.preprocessor.feature_extractor
    samples = heard.waveform(RATE, 60)
    features = extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features
    config = peers[None].generation_config
    (token,) = peers[None].detect_language(input_features=features, generation_config=config)
    code = engine.backbone.tokenizer.convert_ids_to_tokens(int(token))
    assert {"<|en|>": "english", "<|de|>": "german"}[code] == found.language


def test_long_recordings_have_the_segments_of_transformers(engine, peers):
    draw = np.random.default_rng(0)
    samples = draw.normal(0, 0.2, int(RATE * 4.3)) * np.linspace(0.2, 1, int(RATE * 4.3))
    long = AudioFile("long.wav", encoded(samples, RATE))
    for name in (None, "cross"):
        (found,) = transcribed(engine, [long], [name])
        extractor = engine.backbone.preprocessor.feature_extractor
        inputs = extractor(
            long.waveform(RATE, 60),
            sampling_rate=RATE,
            return_tensors="pt",
            truncation=False,
            padding="longest",
            return_attention_mask=True,
        )
        with torch.no_grad():
            wanted = peers[name].generate(
                input_features=inputs.input_features,
                attention_mask=inputs.attention_mask,
                language="en",
                task="transcribe",
                return_timestamps=True,
                return_segments=True,
            )["segments"][0]
        assert found.windows > 1
        texts = engine.backbone.tokenizer
        spoken = [
            each
            for each in wanted
            if texts.decode([t for t in each["tokens"].tolist() if t < 266], True).strip()
        ]
        assert [s.start for s in found.segments] == pytest.approx(
            [min(float(each["start"]), 4.3) for each in spoken], abs=1e-3
        )
        for own, each in zip(found.segments, spoken, strict=True):
            assert list(own.tokens) == each["tokens"].tolist()[: len(own.tokens)]


def test_segments_are_between_timestamps():
    first, text = 100, (1, 2)
    whole = split_segments(text, None, 200)
    assert whole.segments == ((0.0, 2.0, text),)
    # a segment that is not complete is left to the next window
    found = split_segments((100, 1, 120, 120, 2, 150, 150, 3), first, 200)
    assert [(s, e) for s, e, _ in found.segments] == [(0.0, 0.4), (0.4, 1.0)]
    assert found.advance == 100
    # nothing more is said after a single timestamp
    found = split_segments((100, 1, 120, 120, 2, 150), first, 200)
    assert [(s, e) for s, e, _ in found.segments] == [(0.0, 0.4), (0.4, 1.0)]
    assert found.advance == 200


def test_what_a_whisper_can_not_do_is_refused(engine, tmp_path):
    (heard,) = recordings(1)
    with pytest.raises(RequestError, match="knows no language 'klingon'"):
        transcribed(engine, [heard], [None], TranscriptionOptions(language="klingon"))
    with pytest.raises(RequestError, match="reads recordings, not texts"):
        engine.add("a text")
    english = read_preprocessor(save_whisper(tmp_path / "english", multilingual=False))
    task = build_task("speech-recognition", english, "audio", [], TaskOptions(max_seconds=SECONDS))
    with pytest.raises(RequestError, match="does not translate"):
        task.transcribe(heard, TranscriptionOptions(task="translate"))
    with pytest.raises(RequestError, match="English-only backbone knows no language 'de'"):
        task.transcribe(heard, TranscriptionOptions(language="de"))
    with pytest.raises(RecipeError, match="does not use it"):
        task_of(engine, vocabulary="abc")


def test_the_decoder_learns_no_token_that_it_may_not_write(engine):
    task = task_of(engine, language="en")
    recording = recordings(1)[0]
    learned = task.encode({"audio": recording, "text": "low"}, 1, train=True)
    window = next(task.transcribe(recording, ENGLISH))
    assert list(window.prompt) == list(learned.input_ids)
    for at, target in enumerate(learned.targets):
        ids = torch.tensor([[*window.prompt, *learned.targets[:at]]])
        logits = window.rules(ids, torch.zeros(1, engine.backbone.config.vocab_size))
        assert logits[0, target] == 0
