"""A run learns, is deterministic, can be interrupted and never changes the backbone."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones import task_model
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.forward_paths import PADDED_ONLY
from adapterhub.backbones.memory import state_digest
from adapterhub.errors import (
    DataError,
    NonFiniteLossError,
    RecipeError,
    TrainingError,
    TrainingInterrupted,
)
from adapterhub.tasks.text_classification import TextClassification
from adapterhub.training import setup
from adapterhub.training import train as train_module
from adapterhub.training.loop import InterruptFlag, TrainingLoop
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.setup import recipe_quantization
from adapterhub.training.train import train
from adapterhub.workflows.train_run import train_run

DROPOUT = {"rank": 4, "alpha": 8, "dropout": 0.2}


def interrupt_after(monkeypatch, steps: int) -> None:
    """Interrupt a run after a number of steps, as a signal would."""
    flags = iter([False] * (steps - 1) + [True])
    fake = property(lambda _: next(flags), lambda *_: None)
    monkeypatch.setattr(InterruptFlag, "is_set", fake, raising=False)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "sgd"])
def test_a_resumed_run_ends_with_the_same_bytes(
    recipe, encoder, moods, monkeypatch, tmp_path, optimizer
):
    path = recipe(
        "mood",
        encoder,
        "text-classification",
        moods,
        adapter=DROPOUT,
        optimizer={"name": optimizer, "learning_rate": 0.01},
        train={"batch_size": 16, "epochs": 2, "evaluate_every": 5},
    )
    whole = train(load_recipe(path), output=tmp_path / "whole")

    with monkeypatch.context() as patched:
        interrupt_after(patched, 7)
        with pytest.raises(TrainingInterrupted) as caught:
            train(load_recipe(path), output=tmp_path / "cut")
    assert caught.value.step == 7
    names = {p.name for p in (tmp_path / "cut").rglob("*") if p.is_file()}
    assert names == {".train.lock", "log.jsonl", "state.safetensors", "state.json", "digests.json"}

    resumed = train(load_recipe(path), output=tmp_path / "cut", resume=True)
    first, second = (read_artifact(run.artifact).weights.tensors for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed.digest == whole.digest


def test_a_killed_process_leaves_a_checkpoint_to_resume_from(recipe, encoder, moods, tmp_path):
    path = recipe(
        "mood",
        encoder,
        "text-classification",
        moods,
        adapter=DROPOUT,
        train={"batch_size": 8, "epochs": 4, "evaluate_every": 10, "checkpoint_every": 3},
    )
    whole = train(load_recipe(path), output=tmp_path / "whole")
    code = (
        "import os, sys, signal\n"
        "from pathlib import Path\n"
        "from adapterhub.training.recipe_file import load_recipe\n"
        "from adapterhub.training.train import train\n"
        "class Killer:\n"
        "    def on_step(self, event):\n"
        "        if event.step == 20: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    def on_evaluation(self, event): pass\n"
        "    def on_message(self, text): pass\n"
        f"train(load_recipe({str(path)!r}), output=Path({str(tmp_path / 'cut')!r}),"
        " reporter=Killer())\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ.copy(), check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-500:]
    resumed = train_run(load_recipe(path), output=tmp_path / "cut", resume=True)
    assert resumed.digest == whole.digest
    assert resumed.report.is_file()


def test_a_checkpoint_belongs_to_its_recipe(recipe, encoder, moods, monkeypatch, tmp_path):
    path = recipe("mood", encoder, "text-classification", moods)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        with pytest.raises(TrainingInterrupted):
            train(load_recipe(path), output=tmp_path / "run")
    with pytest.raises(TrainingError, match="belongs to another recipe"):
        train(load_recipe(path, ["train.seed=9"]), output=tmp_path / "run", resume=True)
    with pytest.raises(TrainingError, match="Continue with --resume"):
        train(load_recipe(path), output=tmp_path / "run")


def test_a_run_that_stopped_early_stops_there_again_after_a_kill(
    recipe, encoder, moods, monkeypatch, tmp_path
):
    # nothing is learned, so patience runs out while no checkpoint is due
    still = {"batch_size": 16, "steps": 40, "evaluate_every": 3, "checkpoint_every": 7}
    path = recipe(
        "mood",
        encoder,
        "text-classification",
        moods,
        optimizer={"name": "sgd", "learning_rate": 1e-12},
        train={**still, "patience": 2},
    )
    whole = train(load_recipe(path), output=tmp_path / "whole")
    assert whole.steps < 40
    with monkeypatch.context() as patched:
        patched.setattr(TrainingLoop, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(load_recipe(path), output=tmp_path / "cut")
    monkeypatch.setattr(TrainingLoop, "_step", lambda *_: pytest.fail("a step was made"))
    resumed = train(load_recipe(path), output=tmp_path / "cut", resume=True)
    assert (resumed.steps, resumed.digest) == (whole.steps, whole.digest)


def test_a_finished_run_is_reused_and_not_trained_again(
    recipe, encoder, moods, monkeypatch, tmp_path
):
    path, run = recipe("mood", encoder, "text-classification", moods), tmp_path / "run"
    whole = train(load_recipe(path), output=run)
    # killed before the end was recorded: the artifact may be incomplete
    for name in ("finished.json", "artifact"):
        with monkeypatch.context() as patched:
            patched.setattr(train_module, "write_finished", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                train(load_recipe(path), output=tmp_path / name)
        assert (tmp_path / name / "artifact").is_dir()
    monkeypatch.setattr(TrainingLoop, "_step", lambda *_: pytest.fail("a step was made"))
    (tmp_path / "artifact" / "artifact" / "manifest.json").unlink()
    for folder in (run, tmp_path / "finished.json", tmp_path / "artifact"):
        again = train(load_recipe(path), output=folder, resume=True)
        assert read_artifact(again.artifact).digest == whole.digest
        assert (again.digest, again.steps) == (whole.digest, whole.steps)
        assert again.after == whole.after
        assert again.curves()
        assert not (folder / "checkpoint").exists()
    with pytest.raises(
        TrainingError, match="a finished run of another recipe, or on other examples"
    ):
        train(load_recipe(path, ["train.seed=9"]), output=run, resume=True)
    with pytest.raises(TrainingError, match="Store it with --resume"):
        train(load_recipe(path), output=run)
    (run / "finished.json").unlink()
    with pytest.raises(TrainingError, match="already holds a finished run"):
        train(load_recipe(path), output=run, resume=True)


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8", "none"])
def test_the_backbone_keeps_every_byte(recipe, decoder, moods, tmp_path, scheme):
    path = recipe("mood", decoder, "text-classification", moods)
    loaded = load_recipe(path, [f"backbone.quantization={scheme}"])
    spec = recipe_quantization(loaded, torch.device("cpu"))
    backbone = load_backbone(str(decoder), spec)
    before = state_digest(backbone.base_model), state_digest(backbone.lm_head)
    result = train(loaded, output=tmp_path / "run", backbone=backbone)
    assert result.after["accuracy"] > result.before["accuracy"]
    assert (state_digest(backbone.base_model), state_digest(backbone.lm_head)) == before


def test_a_prefix_learns_and_is_small(recipe, decoder, talks, tmp_path):
    path = recipe(
        "talk",
        decoder,
        "dialogue",
        talks,
        adapter={"method": "prefix", "num_virtual_tokens": 4},
        train={"batch_size": 8, "epochs": 12},
    )
    result = train(load_recipe(path), output=tmp_path / "run")
    assert result.after["loss"] < result.before["loss"]
    (tensor,) = read_artifact(result.artifact).weights.tensors.values()
    # 4 positions, 2 layers, keys and values of 2 heads of 16
    assert tensor.shape == (4, 2 * 2 * 2 * 16)


def test_parts_head_trains_the_head_only(recipe, decoder, moods, tmp_path):
    path = recipe("mood", decoder, "text-classification", moods)
    result = train(load_recipe(path, ["train.parts=head"]), output=tmp_path / "run")
    tensors = read_artifact(result.artifact).weights.tensors
    assert not any(t.any() for name, t in tensors.items() if "lora_B" in name)
    assert result.trained_share < 0.01
    assert result.after["loss"] < result.before["loss"]


def test_norm_layers_learn_beside_the_adapter(recipe, decoder, moods, tmp_path):
    path = recipe("mood", decoder, "text-classification", moods)
    result = train(load_recipe(path, ["train.parts=adapter_and_norms"]), output=tmp_path / "run")
    names = read_artifact(result.artifact).weights.tensors
    assert any("input_layernorm" in name for name in names)
    assert result.after["accuracy"] > 0.9


def test_patience_ends_a_run_and_the_best_weights_are_kept(recipe, encoder, moods, tmp_path):
    path = recipe(
        "mood",
        encoder,
        "text-classification",
        moods,
        train={"batch_size": 16, "epochs": 50, "evaluate_every": 4, "patience": 2},
    )
    result = train(load_recipe(path), output=tmp_path / "run")
    assert result.steps < 50 * 8
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    scores = [r["metrics"] for r in records if r["event"] == "evaluation" and r["step"]]
    best = max(score["accuracy"] for score in scores)
    assert result.after["accuracy"] == best
    # several evaluations reach it; the one with the lowest loss is kept
    losses = [score["loss"] for score in scores if score["accuracy"] == best]
    assert len(losses) > 1
    assert result.after["loss"] == pytest.approx(min(losses))
    assert min(losses) < losses[0]


def test_accumulated_batches_give_the_gradient_of_one_batch(recipe, decoder, moods, tmp_path):
    exact = ["backbone.quantization=none", "backbone.compute_dtype=float32", "train.steps=1"]
    exact += ["train.epochs=null", "optimizer.name=sgd", "optimizer.momentum=0.0"]
    exact += ["schedule.name=constant", "schedule.warmup=0.0", "data.limit_train=16"]
    # the decoder's head has no dropout, which would fall differently on other batches
    path = recipe("mood", decoder, "text-classification", moods, train={"epochs": None})
    tensors = []
    for name, more in (
        ("whole", ["train.batch_size=16"]),
        ("parts", ["train.batch_size=4", "train.gradient_accumulation=4"]),
    ):
        result = train(load_recipe(path, exact + more), output=tmp_path / name)
        tensors.append(read_artifact(result.artifact).weights.tensors)
    for name in tensors[0]:
        torch.testing.assert_close(tensors[0][name], tensors[1][name], rtol=1e-3, atol=1e-5)


def test_a_non_finite_loss_names_step_and_examples(recipe, encoder, moods, monkeypatch, tmp_path):
    whole = TextClassification.loss
    calls = iter(range(1000))

    def broken(self, head, hidden, batch):
        loss = whole(self, head, hidden, batch)
        return loss * float("nan") if torch.is_grad_enabled() and next(calls) == 2 else loss

    monkeypatch.setattr(TextClassification, "loss", broken)
    path = recipe("mood", encoder, "text-classification", moods)
    with pytest.raises(NonFiniteLossError) as caught:
        train(load_recipe(path), output=tmp_path / "run")
    assert caught.value.step == 3
    assert len(caught.value.examples) == 16
    assert str(caught.value.examples[0]) in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        (["data.train=mods.jsonl"], DataError, "no such file. Did you mean 'moods.jsonl'?"),
        (["data.fields={text: sentence}"], DataError, "example 1"),
        (["data.fields={txt: text}"], RecipeError, "Did you mean 'text'?"),
        (["data.validation=null", "data.split.validation=0.0"], DataError, "split is empty"),
        (["adapter.target_modules=[qery]"], RecipeError, "Did you mean 'query'?"),
        (["task.name=text-clasification"], RecipeError, "Did you mean 'text-classification'?"),
        (["adapter={method: prefix}"], RecipeError, "prefix tuning needs a decoder"),
        (["backbone.name=minilm-16"], Exception, "Did you mean 'minilm-l6'?"),
    ],
)
def test_errors_are_raised_before_any_weight_is_loaded(
    recipe, encoder, moods, monkeypatch, tmp_path, overrides, error, said
):
    def refuse(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(setup, "load_backbone", refuse)
    path = recipe("mood", encoder, "text-classification", moods)
    with pytest.raises(error) as caught:
        train(load_recipe(path, overrides), output=tmp_path / "run")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_text_is_refused_before_any_weight_is_loaded(
    recipe, encoder, moods, monkeypatch, tmp_path
):
    monkeypatch.setattr(setup, "load_backbone", None)
    with moods.open("a") as file:
        file.write('{"text": "  ", "label": "glad"}\n')
    path = recipe("mood", encoder, "text-classification", moods)
    with pytest.raises(DataError, match=r"moods\.jsonl example 121"):
        train(load_recipe(path), output=tmp_path / "run")


def test_a_label_that_only_validation_has_is_refused(recipe, encoder, moods, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "the day was fine", "label": "calm"}\n')
    path = recipe("mood", encoder, "text-classification", moods)
    with pytest.raises(DataError, match=r"other\.jsonl example 1.*'calm'.*validation"):
        train(load_recipe(path, [f"data.validation={other}"]), output=tmp_path / "run")


def test_the_plot_is_in_the_card_and_the_log_is_json(recipe, encoder, moods, tmp_path):
    result = train(
        load_recipe(recipe("mood", encoder, "text-classification", moods)),
        output=tmp_path / "run",
    )
    assert "(loss.png)" in (result.artifact / "README.md").read_text()
    assert (result.artifact / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (result.artifact / "loss.svg").read_bytes()
    log = (tmp_path / "run/log.jsonl").read_text()
    events = {json.loads(line)["event"] for line in log.splitlines()}
    assert events == {"step", "evaluation", "message"}


def test_padded_training_says_how_much_of_its_own_batches_is_padding(
    recipe, encoder, moods, monkeypatch, tmp_path
):
    monkeypatch.setattr(task_model, "forward_paths", lambda _: replace(PADDED_ONLY, padding=True))
    lengths = [4, 20] * 16
    examples = [{"text": " ".join(["good"] * n), "label": "up"} for n in lengths]
    examples += [{"text": " ".join(["bad"] * n), "label": "down"} for n in lengths]
    file = tmp_path / "lengths.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in examples))
    path = recipe(
        "mood",
        encoder,
        "text-classification",
        file,
        train={"batch_size": 4, "steps": 1},
    )
    train(load_recipe(path), output=tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    found = re.search(r"in padded batches of which (\d+)% is padding", log)
    # a third in random batches of short and long texts
    assert found
    assert int(found[1]) < 20
