"""Audio classification: inputs, lengths, settings and messages."""

import pytest
import torch
from audio_backbones import RATE, encoded, tone
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from adapterhub.data.audio import AudioFile
from adapterhub.data.packing import pack
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import TASKS, build_task

WAVE, MEL = Wav2Vec2FeatureExtractor(), WhisperFeatureExtractor(chunk_length=2)
LABELS = ["high", "low"]


def task_of(extractor=WAVE, **options):
    return build_task("audio-classification", extractor, "audio", LABELS, TaskOptions(**options))


def example_of(label="low", number=1, **options):
    return {"audio": AudioFile("x.wav", tone(label, number, **options)), "label": label}


def test_a_batch_holds_recordings_as_the_extractor_makes_them():
    task = task_of()
    examples = [example_of("low", 1), example_of("high", 2)]
    batch = pack([task.encode(each, n, train=True) for n, each in enumerate(examples, start=1)])
    samples = [each["audio"].waveform(RATE, 30) for each in examples]
    assert [len(each) for each in batch.media] == [len(each) for each in samples] == [6880, 7360]
    assert batch.targets.tolist() == [1, 0]
    # fifty positions a second
    assert batch.lengths == (22, 23)
    own = WAVE(samples[1], sampling_rate=RATE, return_tensors="pt")["input_values"][0]
    assert torch.equal(batch.media[1], own)


def test_a_spectrogram_has_the_size_that_the_model_reads():
    task = task_of(MEL, max_seconds=2)
    example = task.encode(example_of(), 1, train=True)
    assert example.media().shape == (80, 200)
    assert len(example) == 100


def test_the_limit_cuts_recordings():
    example = task_of(max_seconds=0.25).encode(example_of(seconds=1.0), 1, train=False)
    assert (len(example.media()), len(example)) == (RATE // 4, 12)
    with pytest.raises(
        RecipeError, match=r"task\.max_seconds: 30 s are more than .* Use 2 or less"
    ):
        task_of(MEL)


def test_what_is_no_recording_is_named():
    task = task_of()
    with pytest.raises(DataError, match="must be a recording, not str"):
        task.encode({"audio": "a.wav"}, 3, train=False)
    with pytest.raises(DataError, match=r"the recording 'x\.wav' is 0\.05 s long"):
        task.encode({"audio": AudioFile("x.wav", encoded([0.1] * 400, 8000))}, 3, train=False)


@pytest.mark.parametrize("kind", ["encoder", "decoder", "vision"])
def test_the_task_needs_a_backbone_of_recordings(kind):
    with pytest.raises(RecipeError, match="needs a backbone that reads recordings, this one reads"):
        build_task("audio-classification", WAVE, kind, LABELS, TaskOptions())


@pytest.mark.parametrize(
    "name", [name for name, entry in TASKS.items() if entry.media_field != "audio"]
)
def test_other_tasks_are_rejected_on_a_backbone_of_recordings(name):
    with pytest.raises(RecipeError, match="this one reads recordings"):
        build_task(name, WAVE, "audio", LABELS, TaskOptions())
