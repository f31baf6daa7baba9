"""A run in TensorBoard and MLflow, read by their own readers: parameters, curves, the artifact."""

import os

import pytest
import yaml

from adapterhub.errors import MissingExtraError, RecipeError
from adapterhub.integrations import trackers
from adapterhub.training.curves import read_curves
from adapterhub.training.recipe_file import parse_recipe
from adapterhub.workflows.run_report.options import WITHOUT_BIAS_AUDIT
from adapterhub.workflows.train_run import train_run

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
)
mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def store(own_home, monkeypatch):
    """Return the address of an MLflow store in the test's own folder."""
    address = f"sqlite:///{own_home}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(address)
    yield address
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_RUN_ID", None)


def test_a_run_is_read_by_tensorboard_and_mlflow(recipe, encoder, moods, store, own_home):
    train = {"batch_size": 40, "epochs": 2, "trackers": ["tensorboard", "mlflow"]}
    path = recipe("desk", encoder, "text-classification", moods, train=train)
    result = train_run(path, output=own_home / "run-1", report=WITHOUT_BIAS_AUDIT)
    curves = read_curves(result.folder / "log.jsonl")

    board = event_accumulator.EventAccumulator(str(result.folder / "tensorboard")).Reload()
    losses = board.Scalars("train/loss")
    assert [each.step for each in losses] == list(curves.steps)
    assert [each.value for each in losses] == pytest.approx(list(curves.losses), rel=1e-5)
    accuracy = board.Scalars("validation/accuracy")
    assert [each.value for each in accuracy] == pytest.approx(list(curves.metric_values))
    texts = {
        tag: board.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in board.Tags()["tensors"]
    }
    assert texts["digest/text_summary"] == result.digest
    assert "accuracy" in texts["report/text_summary"]

    (run,) = mlflow.search_runs(experiment_names=["desk"], output_format="list")
    assert run.info.run_name == "run-1"
    assert run.info.status == "FINISHED"
    assert run.data.params["adapter.rank"] == "8"
    assert run.data.params["backbone.name"] == str(encoder)
    assert run.data.tags["adapterhub.digest"] == result.digest
    assert run.data.metrics["final/accuracy"] == result.after["accuracy"]
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [each.value for each in history] == pytest.approx(list(curves.losses))
    stored = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, dst_path=str(own_home))
    for file in result.artifact.iterdir():
        assert (own_home / stored / "adapter" / file.name).read_bytes() == file.read_bytes()
    assert (own_home / stored / "report" / "report.html").is_file()


def test_a_failed_run_is_recorded_as_failed(recipe, encoder, moods, store, own_home):
    path = recipe("desk", encoder, "text-classification", moods)
    settings = parse_recipe(_document(path))
    step = type("Step", (), {"step": 1, "loss": 2.0, "learning_rate": 1.0, "tokens_per_second": 3})
    started = trackers.RunTrackers(["mlflow"], settings, own_home / "run")
    started.on_step(step)
    started.__exit__(ZeroDivisionError, None, None)
    (run,) = mlflow.search_runs(experiment_names=["desk"], output_format="list")
    assert run.info.status == "FAILED"
    assert run.data.metrics["train/loss"] == 2.0


def test_trackers_are_no_part_of_the_stored_recipe(recipe, encoder, moods):
    plain = parse_recipe(_document(recipe("desk", encoder, "text-classification", moods)))
    document = _document(
        recipe("desk", encoder, "text-classification", moods, train={"trackers": ["trackio"]})
    )
    tracked = parse_recipe(document)
    assert tracked.train.trackers == ("trackio",)
    assert "trackers" not in tracked.model_dump()["train"]
    assert plain.train.trackers == ()


def test_an_unknown_tracker_and_a_missing_package_are_refused(recipe, encoder, moods, monkeypatch):
    path = recipe("desk", encoder, "text-classification", moods, train={"trackers": ["excel"]})
    with pytest.raises(RecipeError, match="trackers"):
        train_run(path)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    path = recipe("desk", encoder, "text-classification", moods, train={"trackers": ["wandb"]})
    with pytest.raises(MissingExtraError, match=r"adapterhub\[wandb\]"):
        train_run(path)


def _document(path):
    return yaml.safe_load(path.read_text())
