"""The Audio view: files, the microphone, transcripts that follow playback, and classes."""

import base64
import io
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
from page_api import BACKBONE, Api, adapter, serving
from page_browser import BROWSER, DRIVER, PHONE, Page, start

SEGMENTS = [
    {"start": 0.0, "end": 1.4, "text": " 今天天气很好。"},
    {"start": 1.4, "end": 2.96, "text": " The second sentence --> ends."},
]
RATE = 8000


@pytest.fixture
def wave(tmp_path):
    """A file of three seconds."""
    path = tmp_path / "talk one.wav"
    soundfile.write(path, np.sin(np.arange(3 * RATE) / 9) / 2, RATE)
    return path


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """A file in which a generated voice counts."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed (Debian: espeak-ng)")
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    subprocess.run(["espeak-ng", "-w", path, "one two three four five six"], check=True)
    return path


def listen(page, api, path=None):
    """Open the view in front of an audio backbone, and choose a file."""
    api.kind, api.segments = "audio", SEGMENTS
    api.adapters = [
        adapter("digits", 2, "audio-classification", labels=["one", "two"]),
        adapter("dictation", 1, "speech-recognition"),
    ]
    page.open("audio")
    page.until(lambda: page.all("#audio-model option"), "the models")
    if path is not None:
        page.find("#audio-file").send_keys(str(path))
        page.until(lambda: page.text("#audio-name") == path.name, "the file")


def test_the_tab_appears_only_where_the_backbone_reads_audio(page, api):
    page.open()
    assert not page.find("#nav-audio").is_displayed()
    listen(page, api)
    assert page.find("#nav-audio").is_displayed()
    assert page.texts("#audio-model option") == [
        f"{BACKBONE} (base model, transcript)",
        "digits@2 (classes)",
        "dictation@1 (transcript)",
    ]
    page.open("playground")
    assert "digits" not in page.text("#view-playground")


def test_a_transcript_follows_playback_and_plays_from_a_segment(page, api, wave):
    listen(page, api, wave)
    page.type("#audio-language", "zh")
    page.click("#audio-go")
    page.until(lambda: page.all(".segments button"), "the transcript")
    (sent,) = api.sent("/v1/audio/transcriptions")
    assert wave.read_bytes() in sent
    for name, value in (
        ("model", BACKBONE),
        ("response_format", "verbose_json"),
        ("language", "zh"),
    ):
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in sent
    assert page.texts(".segments button span:last-child") == [
        each["text"].strip() for each in SEGMENTS
    ]
    assert page.texts(".segments .num") == ["0:00.0–0:01.4", "0:01.4–0:03.0"]
    assert page.find(".segments").get_attribute("lang") == "zh"
    assert page.run(
        "return [...document.querySelectorAll('#audio-result a')].map((a) => a.download)"
    ) == ["talk one.txt", "talk one.srt", "talk one.vtt"]
    # by the keyboard
    page.run("document.querySelectorAll('.segments button')[1].focus()")
    page.keys("\ue007")
    current = "[...document.querySelectorAll('.segments button')].map((b) => b.ariaCurrent)"
    page.until(lambda: page.run(f"return {current}") == [None, "true"], "the second segment")
    assert page.run("return document.getElementById('audio-player').currentTime") >= 1.4
    page.scheme("dark")
    assert page.poor_contrast() == []
    page.size(PHONE)
    assert page.overflow() == []


def test_subtitles_have_times_and_one_cue_of_one_line_each(page):
    page.open()
    assert page.module("subtitles.js", "srt", SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:01,400\n今天天气很好。\n\n"
        "2\n00:00:01,400 --> 00:00:02,960\nThe second sentence -> ends.\n\n"
    )
    late = [{"start": 3599.9996, "end": 3725.5, "text": "a\n\nb"}]
    assert page.module("subtitles.js", "vtt", late) == (
        "WEBVTT\n\n01:00:00.000 --> 01:02:05.500\na b\n\n"
    )


def test_classes_have_scores(page, api, wave):
    api.scores = {"one": 0.8, "two": 0.2}
    listen(page, api, wave)
    page.run(
        "const s = document.getElementById('audio-model'); s.value = 'digits@2';"
        "s.dispatchEvent(new Event('change'))"
    )
    assert not page.find("#audio-language").is_displayed()
    page.click("#audio-go")
    page.until(lambda: page.all(".bars"), "the classes")
    assert page.texts(".bar-name") == ["one", "two"]
    ((item,),) = (body["items"] for body in api.sent("/v1/classify"))
    head, _, content = item["input"]["audio"].partition(",")
    assert item["model"] == "digits@2"
    assert head in {"data:audio/wav;base64", "data:audio/x-wav;base64"}
    assert base64.b64decode(content) == wave.read_bytes()


def test_what_is_no_audio_is_refused_by_the_page(page, api, tmp_path):
    path = tmp_path / "notes.webm"
    path.write_bytes(b"not audio")
    listen(page, api, path)
    page.click("#audio-go")
    page.until(lambda: page.text("#audio-notice"), "the error")
    assert "notes.webm can't be decoded as audio. Choose WAV, FLAC or MP3" in page.text(
        "#audio-notice"
    )
    assert api.sent("/v1/audio/transcriptions") == []


def test_a_voice_is_recorded_and_sent_as_wav(chromium, voice):
    flags = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
             f"--use-file-for-fake-audio-capture={voice}",
             "--autoplay-policy=no-user-gesture-required")  # fmt: skip
    driver = start(BROWSER, DRIVER, *flags)
    try:
        with serving(Api()) as api:
            page = Page(driver, api)
            listen(page, api)
            page.click("#audio-record")
            page.until(lambda: "recording 0:01" in page.text("#audio-name"), "a second of sound")
            assert page.find("#audio-record").get_attribute("aria-pressed") == "true"
            page.click("#audio-record")
            page.until(lambda: page.text("#audio-name") == "recording.wav", "the recording")
            page.click("#audio-go")
            page.until(lambda: page.all(".segments button"), "the transcript")
            (sent,) = api.sent("/v1/audio/transcriptions")
            samples, rate = soundfile.read(io.BytesIO(sent[sent.index(b"RIFF") :]))
            assert rate == 16000
            assert 0.8 < len(samples) / rate < 6
            assert np.abs(samples).max() > 0.05
            assert page.errors() == []
    finally:
        driver.quit()
