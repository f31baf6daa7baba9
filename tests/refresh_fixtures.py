"""An adapter that classifies moods by two words, and examples to refresh it with."""

import json
import random

import pytest
from toy_fixtures import GLAD, SAD, THINGS


def write(path, examples):
    path.write_text("".join(json.dumps(each) + "\n" for each in examples))
    return str(path)


def draw_moods(seed, count):
    """Draw sentences with two words of one mood; most sentences are drawn once."""
    draw = random.Random(seed)
    drawn = []
    for _ in range(count):
        mood = draw.choice(("glad", "sad"))
        words = GLAD if mood == "glad" else SAD
        text = " ".join(f"the {draw.choice(THINGS)} was {draw.choice(words)}" for _ in range(2))
        drawn.append({"text": text, "label": mood})
    return drawn


@pytest.fixture
def signs(tmp_path):
    """Examples whose moods show in signs that the first training never saw."""
    draw = random.Random(5)
    examples = []
    for number in range(120):
        mood = draw.choice(("glad", "sad"))
        sign = "@" if mood == "glad" else "#"
        examples.append(
            {"text": f"{draw.choice(THINGS)} {sign} " * (1 + number % 3), "label": mood}
        )
    return write(tmp_path / "signs.jsonl", examples)


@pytest.fixture
def more_moods(tmp_path):
    """Other examples of the distribution that the first training saw."""
    return write(tmp_path / "more.jsonl", draw_moods(8, 80))


@pytest.fixture
def mood(command, recipe, encoder, tmp_path):
    """File that the adapter ``mood`` was trained on; its alias ``prod`` is set."""
    file = tmp_path / "moods.jsonl"
    write(file, draw_moods(3, 120))
    path = recipe("mood", encoder, "text-classification", file)
    assert command("train", str(path), "--no-report").exit_code == 0
    command("promote", "mood", "--to", "prod")
    return file
