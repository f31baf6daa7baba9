"""The initial bias of a multi-label head matches the label frequencies."""

import json
import math

import pytest

from adapterhub.training.prepare import PreparedData, label_log_odds
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train


class Counted(list):
    """Examples of which only the number matters."""


def test_log_odds_are_those_of_smoothed_shares():
    data = PreparedData(
        splits={"train": Counted(range(8))},
        label_counts={"never": 0, "half": 4, "always": 8},
        dropped=0,
        leaked={},
    )
    assert label_log_odds(data) == pytest.approx([math.log(1 / 9), 0.0, math.log(9)])


def test_an_untrained_multi_label_adapter_predicts_the_label_shares(recipe, encoder, tmp_path):
    examples = [
        {"text": f"the film was {'good' if n % 2 else 'bad'} {n}", "label": labels}
        for n in range(64)
        for labels in [(["often"] if n % 4 else []) + (["rare"] if n % 16 == 0 else [])]
    ]
    file = tmp_path / "examples.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in examples))
    path = recipe(
        "several",
        encoder,
        "text-classification",
        file,
        train={"batch_size": 8, "steps": 1, "evaluate_every": 1},
    )
    result = train(load_recipe(path, ["task.multi_label=true"]), output=tmp_path / "run")
    shares = [48 / 64, 4 / 64]
    # the loss of predicting each label's share for every text; the random head adds a little
    entropy = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in shares) / len(shares)
    assert result.before["loss"] == pytest.approx(entropy, abs=0.06)
