"""Windows of a recording for a model of a character per frame: nothing is lost or heard twice."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adapterhub.tasks.frame_transcripts import text_of_frames, transcribe_frames

#: Samples per second, and of a frame.
RATE, FRAME = 5000, 100
LABELS = ("<blank>", " ", "a", "b", "c")


class Ramp:
    """A recording whose samples are their own positions."""

    name = "ramp"

    def __init__(self, frames):
        self.count = frames * FRAME

    def seconds(self):
        return self.count / RATE

    def waveform(self, rate, most_seconds):
        return np.arange(self.count, dtype=np.float32)


class Loader:
    rate = RATE

    def features_of(self, samples):
        return torch.from_numpy(samples)

    def positions_of(self, seconds):
        return round(seconds * RATE / FRAME)


def transcribed(truth, window_seconds=2.4):
    """Return the transcript where a model gives each frame its true label, and the windows."""
    steps = transcribe_frames(Ramp(len(truth)), Loader(), LABELS, window_seconds)
    found, spans = None, []
    while True:
        try:
            window = steps.send(found)
        except StopIteration as end:
            return end.value, spans
        samples = window.media()
        first = int(samples[0]) // FRAME
        count = len(samples) // FRAME
        assert window.positions == count
        spans.append((first, first + count))
        found = F.one_hot(torch.tensor(truth[first : first + count]), len(LABELS)).float()


@pytest.mark.parametrize("count", [5, 119, 120, 121, 200, 333, 1000])
def test_windows_give_the_text_of_the_whole_recording(count):
    draw = random.Random(count)
    truth = draw.choices(range(5), k=count)
    found, spans = transcribed(truth)
    assert found.text == text_of_frames(truth, LABELS)
    assert found.duration == pytest.approx(count * FRAME / RATE)
    assert found.windows == len(spans)
    assert spans[-1][1] == count
    assert all(end - start <= 120 for start, end in spans)
    # frames next to an inner end of a window are read in another
    assert all(later[0] <= before[1] - 40 for before, later in pairwise(spans))


def test_segments_end_where_nothing_is_said_for_half_a_second():
    truth = [0] * 10 + [2, 2, 0, 3, 1, 4] + [0] * 30 + [3, 0, 3] + [0] * 10 + [4] + [0] * 200
    found, _ = transcribed(truth)
    assert [each.text for each in found.segments] == [" ab c", " bbc"]
    assert [(each.start, each.end) for each in found.segments] == [(0.2, 0.32), (0.92, 1.2)]
    assert found.prediction()["segments"][0] == {"start": 0.2, "end": 0.32, "text": " ab c"}
    silent, _ = transcribed([0] * 50)
    assert (silent.text, silent.segments) == ("", ())
