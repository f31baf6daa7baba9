"""The scripts in ``recipes/`` write examples in the format that the recipes read."""

import gzip
import json
import runpy
from pathlib import Path

import pytest

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
