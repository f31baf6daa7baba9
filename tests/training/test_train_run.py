"""A run returns its evidence; the workflow around it reports and registers."""

import torch
import yaml

from adapterhub.registry.registry import Registry
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train
from adapterhub.workflows.train_run import train_run


def test_a_result_holds_weights_metrics_predictions_and_curves(recipe, encoder, moods, tmp_path):
    loaded = load_recipe(recipe("mood", encoder, "text-classification", moods))
    result = train(loaded, output=tmp_path / "run")
    evidence = result.evidence
    assert len(evidence.after.decoded) == len(evidence.data.splits["validation"])
    assert evidence.before.evaluation.metrics == result.before
    assert evidence.after.evaluation.metrics == result.after
    assert {curve["name"] for curve in result.curves()} == {"train loss", "accuracy"}
    assert result.report is None
    assert result.reference == ""
    again = train(loaded, output=tmp_path / "run", resume=True)
    assert again.evidence is None
    assert again.after == result.after
    first, second = result.weights.tensors, again.weights.tensors
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_of_a_path_or_plain_data_is_reported_and_registered(
    recipe, encoder, moods, own_home, tmp_path
):
    path = recipe("mood", encoder, "text-classification", moods, train={"steps": 2})
    result = train_run(path, output=tmp_path / "run", register=True)
    assert result.reference == "mood@1"
    assert Registry().resolve("mood").digest == result.digest
    assert result.report.is_file()
    assert result.intervals["accuracy"].low <= result.after["accuracy"]
    document = yaml.safe_load(path.read_text())
    again = train_run(document, output=tmp_path / "run", resume=True, register=True)
    assert (again.reference, again.report) == (result.reference, result.report)
