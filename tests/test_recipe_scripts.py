"""The scripts in ``recipes/`` write examples in the format that the recipes read."""

import gzip
import json
import runpy
import zipfile
from pathlib import Path

import pytest
from audio_backbones import save_audio

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def run(tmp_path):
    """Write files (gzip by their name), run a script on them and return its examples by file."""

    def run(script, files, *more):
        for name, records in files.items():
            text = "".join(json.dumps(each) + "\n" for each in records).encode()
            (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        module = runpy.run_path(str(RECIPES / script))
        module["main"](tmp_path, tmp_path / "out", *more)
        return {
            path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in (tmp_path / "out").iterdir()
        }

    return run


def conversation(*turns, intents):
    roles = ("user", "assistant")
    return {
        "intents": intents,
        "turns": [{"role": roles[at % 2], "text": text} for at, text in enumerate(turns)],
    }


def test_a_conversation_becomes_the_text_and_intents_of_its_user(run, capsys):
    examples = run(
        "make_sgd.py",
        {
            "train.jsonl.gz": [
                conversation("A bus.", "When?", "At six.", intents=["FindBus", "FindBus"]),
                conversation("A play.", "Which?", intents=["FindEvents"]),
            ],
            "dev.jsonl": [
                conversation("A play and a bus.", intents=["FindEvents", "FindBus"]),
                conversation("A bus and a film.", intents=["FindBus", "RentFilm"]),
            ],
        },
    )
    assert examples["train"] == [
        {"text": "A bus. At six.", "intents": ["FindBus"]},
        {"text": "A play.", "intents": ["FindEvents"]},
    ]
    # RentFilm is not in training, so its conversation is left out and counted
    assert examples["dev"] == [{"text": "A play and a bus.", "intents": ["FindBus", "FindEvents"]}]
    assert "1 left out" in capsys.readouterr().out


def test_ratings_become_pairs_of_an_earlier_history_and_a_candidate(run):
    films = [
        {"item_id": number, "title": f"film {number}", "genres": ["Drama"]} for number in range(4)
    ]
    ratings = [
        {"user_id": user, "item_id": item, "rating": rating, "timestamp": item}
        for user, item, rating in [(1, 0, 5), (1, 1, 2), (1, 2, 4), (2, 0, 1), (2, 1, 5)]
    ]
    held_out = [{"user_id": user, "item_id": 3, "rating": 4, "timestamp": 9} for user in (1, 2)]
    files = {"items.jsonl": films, "train.jsonl.gz": ratings, "dev.jsonl": held_out}
    (example,) = run("make_movielens.py", files, 1)["dev"]
    # only the first user is evaluated; the history is what it liked before, the newest last
    assert example["history"] == ["film 0 [Drama]", "film 2 [Drama]"]
    assert example["candidate"] == "film 3 [Drama]"
    assert example["label"] == 1


def test_a_history_holds_what_was_liked_before_and_nothing_later():
    module = runpy.run_path(str(RECIPES / "make_movielens.py"))
    Rating, history_pairs = module["Rating"], module["history_pairs"]
    known = [
        Rating("u", "first", 5, 1),
        Rating("u", "disliked", 1, 2),
        Rating("u", "second", 4, 3),
        Rating("v", "of another", 5, 1),
        Rating("u", "third", 4, 5),
    ]
    asked = [Rating("u", "now", 2, 4), *known]
    examples = list(history_pairs(asked, known, liked=4, length=2))
    assert examples[0] == {
        "history": ["first", "second"],
        "candidate": "now",
        "label": 0,
        "group": "u",
        "gain": 2,
    }
    assert [example["history"] for example in examples[1:]] == [
        [],
        ["first"],
        ["first"],
        [],
        ["first", "second"],
    ]
    shuffled = known[::-1]
    assert list(history_pairs(asked, shuffled, liked=4, length=2)) == examples


def test_a_speaker_is_left_out_of_training(tmp_path, capsys):
    for split, numbers in (("train", (1, 2)), ("dev", (3,))):
        examples = [
            {"file": f"{speaker}{n}.wav", "speaker": speaker} for speaker in "ab" for n in numbers
        ]
        text = "".join(json.dumps(each) + "\n" for each in examples)
        (tmp_path / f"{split}.jsonl").write_text(text)
        with zipfile.ZipFile(tmp_path / f"{split}.zip", "w") as archive:
            for each in examples:
                archive.writestr(each["file"], each["file"].encode())
    main = runpy.run_path(str(RECIPES / "make_fsdd.py"))["main"]
    main(tmp_path, tmp_path / "out", "b")
    found = {}
    for split in ("train", "dev"):
        with zipfile.ZipFile(tmp_path / "out" / f"{split}.zip") as archive:
            found[split] = {name: archive.read(name).decode() for name in archive.namelist()}
        listed = (tmp_path / "out" / f"{split}.jsonl").read_text().splitlines()
        assert [json.loads(line)["file"] for line in listed] == list(found[split])
        assert all(name == content for name, content in found[split].items())
    assert (list(found["train"]), list(found["dev"])) == (
        ["a1.wav", "a2.wav"],
        ["b1.wav", "b2.wav", "b3.wav"],
    )
    assert "2 training examples, 3 validation examples of b" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there are a, b"):
        main(tmp_path, tmp_path / "out", "c")


def test_a_short_whisper_has_the_weights_and_another_window(tmp_path):
    from transformers import AutoFeatureExtractor, WhisperForAudioClassification

    folder = save_audio(tmp_path / "long", "whisper")
    assert json.loads((folder / "config.json").read_text())["max_source_positions"] == 100
    runpy.run_path(str(RECIPES / "make_short_whisper.py"))["main"](folder, tmp_path / "short", 1)
    short = tmp_path / "short"
    model, report = WhisperForAudioClassification.from_pretrained(short, output_loading_info=True)
    assert {name.partition(".")[0] for name in report["missing_keys"]} == {
        "projector",
        "classifier",
    }
    extractor = AutoFeatureExtractor.from_pretrained(short)
    features = extractor([0.0] * 4000, sampling_rate=16000, return_tensors="pt")
    assert features["input_features"].shape == (1, 80, 100)
    assert model(**features).logits.shape == (1, 2)
