"""An adapter that tells moods by two words, and rows to refresh it with."""

import json
import random

import pytest
from toy_fixtures import GLAD, SAD, THINGS


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def draw_moods(seed, rows):
    """Draw sentences that two words of one mood tell; most draws are seen once."""
    draw = random.Random(seed)
    drawn = []
    for _ in range(rows):
        mood = draw.choice(("glad", "sad"))
        words = GLAD if mood == "glad" else SAD
        text = " ".join(f"the {draw.choice(THINGS)} was {draw.choice(words)}" for _ in range(2))
        drawn.append({"text": text, "label": mood})
    return drawn


@pytest.fixture
def signs(tmp_path):
    """Rows that tell moods by signs which the first training never saw."""
    draw = random.Random(5)
    rows = []
    for number in range(120):
        mood = draw.choice(("glad", "sad"))
        sign = "@" if mood == "glad" else "#"
        rows.append({"text": f"{draw.choice(THINGS)} {sign} " * (1 + number % 3), "label": mood})
    return write(tmp_path / "signs.jsonl", rows)


@pytest.fixture
def more_moods(tmp_path):
    """Other draws of the kind of rows that the first training saw."""
    return write(tmp_path / "more.jsonl", draw_moods(8, 80))


@pytest.fixture
def mood(command, recipe, encoder, tmp_path):
    """The file of the rows that the adapter ``mood`` was trained on, its alias ``prod`` set."""
    rows = tmp_path / "moods.jsonl"
    write(rows, draw_moods(3, 120))
    path = recipe("mood", encoder, "text-classification", rows)
    assert command("train", str(path), "--no-report").exit_code == 0
    command("promote", "mood", "--to", "prod")
    return rows
