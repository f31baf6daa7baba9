"""Recordings of examples: formats, channels, resampling and limits."""

import zipfile

import numpy as np
import pytest
from audio_backbones import encoded, save_tones, tone

from adapterhub.data import media
from adapterhub.data.audio import AudioFile
from adapterhub.data.dataset import Dataset, FileSource
from adapterhub.data.media import load_media, read_media
from adapterhub.data.readers import read_examples
from adapterhub.data.splits import fingerprint
from adapterhub.errors import DataError


def read(path):
    return load_media(read_examples(FileSource(str(path))), "file", path, AudioFile)


def sine(rate, seconds=1.0, pitch=440.0):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)


def test_recordings_are_read_from_a_zip_file_and_from_a_folder_alike(tmp_path):
    zipped = read(save_tones(tmp_path / "a", count=4))
    folder = read(save_tones(tmp_path / "b", count=4, zipped=False))
    assert [example["file"] for example in zipped.examples] == [
        example["file"] for example in folder.examples
    ]
    assert fingerprint(zipped) == fingerprint(folder)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_formats_and_rates_give_the_same_tone(form, rate):
    recording = AudioFile("x", encoded(sine(rate), rate, form))
    found = recording.waveform(16000, 30.0)
    assert found.dtype == np.float32
    assert len(found) == pytest.approx(16000, abs=1200)
    spectrum = np.abs(np.fft.rfft(found[2000:14000]))
    assert np.argmax(spectrum) * 16000 / 12000 == pytest.approx(440, abs=2)
    assert np.abs(found[2000:14000]).max() == pytest.approx(0.5, abs=0.06)
    assert recording.seconds() == pytest.approx(1.0, abs=0.1)


def test_a_recording_at_the_rate_of_the_backbone_is_not_resampled():
    samples = sine(16000).astype(np.float32)
    found = AudioFile("x", encoded(samples, 16000)).waveform(16000, 30.0)
    np.testing.assert_allclose(found, samples, atol=2**-15)


def test_channels_are_averaged():
    left, right = sine(16000), np.zeros(16000)
    found = AudioFile("x", encoded(np.stack([left, right], 1), 16000)).waveform(16000, 30.0)
    np.testing.assert_allclose(found, left / 2, atol=2**-14)


def test_what_follows_after_the_limit_is_not_read():
    found = AudioFile("x", encoded(sine(8000, 3.0), 8000)).waveform(16000, 0.5)
    assert len(found) == 8000


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "can't be read as a recording"),
        (b"no audio", "can't be read as a recording"),
        (encoded(sine(8000), 8000)[:30], "can't be read as a recording"),
        (encoded(sine(8000), 8000, "OGG"), "is of the format OGG"),
        (encoded(sine(8000, 0.02), 8000), "is 0.02 s long, the least is 0.1 s"),
        (encoded(np.zeros((800, 20)), 8000), "has 20 channels"),
        (encoded(sine(400), 400), "has 1 channels of 400 samples per second"),
    ],
    ids=["empty", "text", "cut", "format", "short", "channels", "rate"],
)
def test_what_is_no_usable_recording_is_rejected(content, problem):
    with pytest.raises(DataError, match=rf"x\.wav: {problem}"):
        AudioFile("x.wav", content).waveform(16000, 30.0)


def test_samples_that_are_not_finite_are_rejected():
    import io

    import soundfile

    stream, samples = io.BytesIO(), sine(8000).astype(np.float32)
    samples[5] = np.nan
    soundfile.write(stream, samples, 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(DataError, match="not finite"):
        AudioFile("x.wav", stream.getvalue()).waveform(16000, 30.0)


def test_missing_and_large_recordings_are_named(tmp_path, monkeypatch):
    save_tones(tmp_path, count=2)
    examples = Dataset.whole("rows.jsonl", [{"file": "00.wav"}])
    with pytest.raises(DataError, match=r"no such recording\. Did you mean '00\d\.wav'"):
        load_media(examples, "file", tmp_path / "rows.jsonl", AudioFile)
    monkeypatch.setattr(media, "MAX_FILE_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "rows.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00.wav", bytes(200 << 20))
    with pytest.raises(DataError, match="larger than the limit of 1 MiB per recording"):
        load_media(examples, "file", tmp_path / "rows.jsonl", AudioFile)


def test_a_file_that_the_user_names_is_read(tmp_path):
    (tmp_path / "x.wav").write_bytes(tone("low", 1))
    assert read_media(tmp_path / "x.wav", AudioFile).seconds() == pytest.approx(0.43)
