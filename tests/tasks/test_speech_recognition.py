"""Speech recognition by CTC: targets, likelihood, transcripts and error rates."""

import pytest
import torch
from audio_backbones import tone
from torch.nn import functional as F
from transformers import Wav2Vec2FeatureExtractor

from adapterhub.backbones.media_inputs import with_blanks
from adapterhub.data.audio import AudioFile
from adapterhub.data.packing import pack
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task
from adapterhub.tasks.transcripts import infer_vocabulary, word_errors

WAVE = Wav2Vec2FeatureExtractor()


def task_of(vocabulary=" abc", **options):
    options = TaskOptions(vocabulary=vocabulary, **options)
    return build_task("speech-recognition", WAVE, "audio", [], options)


def example_of(text, number=1, **options):
    return {"audio": AudioFile("x.wav", tone("low", number, **options)), "text": text}


def batch_of(*texts):
    return pack([task_of().encode(example_of(t), n, train=True) for n, t in enumerate(texts, 1)])


def test_the_vocabulary_is_the_characters_of_transcripts():
    assert infer_vocabulary([{"text": "cab  a"}, {"text": "bé"}]) == " abcé"
    assert task_of().labels == ("<blank>", " ", "a", "b", "c")
    with pytest.raises(RecipeError, match="no list of different characters"):
        task_of("aa")
    with pytest.raises(RecipeError, match="Leave it out"):
        task_of(None)


def test_targets_are_characters_of_the_vocabulary():
    batch = batch_of("ab c", "xb")
    assert batch.targets.tolist() == [2, 3, 1, 4, 3]
    assert batch.selected == (4, 1)


def test_the_loss_is_the_likelihood_of_each_recording_alone():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(frames, 5, generator=generator) for frames in (9, 5)]
    expected = sum(
        F.ctc_loss(each.log_softmax(-1)[:, None], torch.tensor([target]), (len(each),),
                   (len(target),), reduction="sum")
        for each, target in zip(logits, ([2, 3], [4, 2, 2]), strict=True)
    )  # fmt: skip
    batch = batch_of("ab", "caa")
    found = task_of().loss(lambda hidden: hidden, torch.stack(with_blanks(logits)), batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert task_of().weight(batch) == 5
    alone = task_of().loss(lambda hidden: hidden, logits[0], batch_of("ab"))
    both = task_of().loss(lambda hidden: hidden, logits[0][None], batch_of("ab"))
    assert alone == both


def test_a_transcript_joins_repetitions_and_leaves_blanks_out():
    frames = [0, 2, 2, 0, 2, 1, 1, 3, 3, 0]
    logits = F.one_hot(torch.tensor(frames), 5).float()
    task, batch = task_of(), batch_of("a")
    assert task.decode(lambda hidden: hidden, logits, batch) == ["aa b"]
    assert task.decode(lambda hidden: hidden, torch.stack([logits, logits]), batch) == ["aa b"] * 2
    assert task.prediction({}, "aa b") == {"text": "aa b"}


def test_error_rates_count_words_and_characters():
    assert word_errors("a b c", "a x c d") == (2, 3, 3, 5)
    examples = [{"text": "a b c"}, {"text": "ab"}]
    task, found = task_of(), ["a x c d", "ab"]
    assert task.evaluate(examples, found).metrics == pytest.approx({"wer": 2 / 4, "cer": 3 / 7})
    (error,) = task.errors(examples, found)
    assert (error.expected, error.predicted, error.error) == (
        "a b c",
        "a x c d",
        pytest.approx(2 / 3),
    )
    scores = task.statistics(examples, found)
    import numpy as np

    drawn = scores.metrics(np.array([[0, 0], [1, 1], [0, 1]]))
    assert drawn["wer"] == pytest.approx([2 / 3, 0, 2 / 4])


def test_long_recordings_and_missing_transcripts_are_refused():
    with pytest.raises(DataError, match=r"is 0\.43 s long, the limit is 0\.2 s"):
        task_of(max_seconds=0.2).encode(example_of("a"), 1, train=False)
    with pytest.raises(DataError, match="no transcript"):
        task_of().encode(example_of(" "), 1, train=True)
    assert task_of().encode({"audio": example_of("a")["audio"]}, 1, train=False).targets == []
