"""An alias moves to a version that passes its rule, or with force and a reason."""

import json

import pytest
from toy_fixtures import copy_home, train_once, write_moods, write_recipe


@pytest.fixture(scope="module")
def trained(encoder, tmp_path_factory):
    """Train one version well and one hardly at all."""
    place = tmp_path_factory.mktemp("promotion")
    file = write_moods(place / "moods.jsonl")
    path = str(write_recipe(place, "mood", encoder, "text-classification", file))
    weak = ("train.steps=1", "train.epochs=null", "optimizer.learning_rate=1e-6")
    train_once(place, (path,), (path, *weak))
    return place


@pytest.fixture
def two(command, trained, own_home):
    copy_home(trained, own_home)
    return command


def checks(result):
    return {check["what"].split()[0]: check for check in json.loads(result.stdout)["checks"]}


def test_without_a_rule_a_version_must_load(two):
    done = two("promote", "mood@1", "--to", "prod", "--why", "first")
    assert done.exit_code == 0
    assert "passed  it loads on the backbone that serves" in done.stdout
    assert "mood@prod points to version 1" in done.stdout
    (move,) = json.loads(two("log", "mood@prod", "--json").stdout)
    assert (move["to_version"], move["why"]) == (1, "first")


def test_a_version_below_the_threshold_does_not_pass(two, moods):
    rule = ("alias", "rule", "mood@prod", "--metric", "accuracy", "--at-least", "0.9")
    assert "at least 0.9" in two(*rule, "--data", str(moods)).stdout
    done = two("promote", "mood@2", "--to", "prod", "--json")
    assert done.exit_code == 8
    assert checks(done)["it"]["passed"]
    assert not checks(done)["accuracy"]["passed"]
    assert json.loads(two("log", "--json").stdout) == []
    assert two("show", "mood@prod").exit_code == 4
    passed = two("promote", "mood@1", "--to", "prod", "--json")
    assert passed.exit_code == 0
    assert json.loads(passed.stdout)["move"]["to_version"] == 1


def test_a_version_worse_than_the_current_one_needs_force_and_a_reason(two, moods):
    rule = ("alias", "rule", "mood@prod", "--metric", "accuracy", "--not-worse-by", "0.02")
    two(*rule, "--data", str(moods))
    assert two("promote", "mood@1", "--to", "prod").exit_code == 0
    refused = two("promote", "mood@2", "--to", "prod")
    assert refused.exit_code == 8
    assert "FAILED  accuracy is not worse than the current version's" in refused.stdout
    assert "mood@prod was not moved" in refused.stdout

    silent = two("promote", "mood@2", "--to", "prod", "--force")
    assert silent.exit_code == 1
    assert b"needs a reason" in silent.stderr_bytes
    forced = two("promote", "mood@2", "--to", "prod", "--force", "--why", "hotfix", "--json")
    assert forced.exit_code == 0
    assert json.loads(forced.stdout)["forced"]
    newest = json.loads(two("log", "mood@prod", "--json").stdout)[0]
    assert (newest["from_version"], newest["to_version"]) == (1, 2)
    assert newest["why"] == "forced: hotfix"


def test_metrics_of_training_count_where_the_rule_names_no_file(two):
    two("alias", "rule", "mood@prod", "--metric", "loss", "--at-most", "0.3")
    assert two("promote", "mood@2", "--to", "prod").exit_code == 8
    assert two("promote", "mood@1", "--to", "prod").exit_code == 0
    two("alias", "rule", "mood@prod", "--metric", "bleu", "--at-least", "0.3")
    unknown = two("promote", "mood@1", "--to", "prod")
    assert unknown.exit_code == 8
    assert "no such metric; known metrics: accuracy, loss, macro_f1" in unknown.stdout
    assert "must load on its backbone" in two("alias", "rule", "mood@prod", "--clear").stdout
    assert json.loads(two("alias", "rule", "mood@prod", "--json").stdout) is None


def test_another_backbone_than_the_serving_one_does_not_pass(two, decoder):
    two("alias", "rule", "mood@prod", "--backbone", str(decoder))
    done = two("promote", "mood@1", "--to", "prod", "--json")
    assert done.exit_code == 8
    assert "was trained on the backbone with fingerprint" in checks(done)["it"]["found"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--at-least", "0.5"), b"a bound needs a metric"),
        (("--metric", "accuracy"), b"the metric 'accuracy' has no bound"),
        (("--metric", "accuracy", "--not-worse-by", "0.1"), b"Add --data FILE"),
        (("--metric", "f1", "--not-worse-by=-1", "--data", "x"), b"must not be negative"),
    ],
)
def test_an_invalid_rule_is_refused(command, words, said):
    done = command("alias", "rule", "mood@prod", *words)
    assert done.exit_code == 1
    assert said in done.stderr_bytes


def test_a_stored_evaluation_is_not_repeated(two, moods, monkeypatch):
    from adapterhub.registry import Registry
    from adapterhub.workflows import promote as gate

    scored = []
    whole = gate.score
    monkeypatch.setattr(gate, "score", lambda a, r: scored.append(a.name) or whole(a, r))
    rule = ("alias", "rule", "mood@prod", "--metric", "accuracy", "--not-worse-by", "1.0")
    two(*rule, "--data", str(moods))
    two("promote", "mood@1", "--to", "prod")
    two("promote", "mood@2", "--to", "prod")
    assert scored == ["mood@1", "mood@2"]
    registry = Registry()
    (kept,) = registry.evaluations(registry.resolve("mood@1"))
    assert kept.data == "moods.jsonl"
    assert kept.metrics["accuracy"] > 0.9


def test_an_adapter_without_effect_does_not_pass(command, recipe, decoder, talks, tmp_path):
    import torch

    from adapterhub.adapters.artifact import read_artifact, write_artifact
    from adapterhub.registry import Registry

    path = recipe("talk", decoder, "dialogue", talks)
    assert command("train", str(path), "--no-report").exit_code == 0
    registry = Registry()
    whole = read_artifact(registry.materialize(registry.resolve("talk@1")))
    write_artifact(
        tmp_path / "empty",
        tensors={name: torch.zeros_like(x) for name, x in whole.weights.tensors.items()},
        adapter_config=whole.adapter_config,
        manifest=whole.manifest,
        card="# A card\n",
    )
    registry.put(tmp_path / "empty", "talk")
    refused = command("promote", "talk@2", "--to", "prod", "--json")
    assert refused.exit_code == 8
    assert not checks(refused)["it"]["passed"]
    assert "does not change the output" in checks(refused)["it"]["found"]
    assert json.loads(command("log", "--json").stdout) == []


@pytest.mark.parametrize(("found", "passes"), [(0.94, True), (0.9399, False)])
def test_as_much_worse_as_allowed_is_allowed(two, moods, monkeypatch, found, passes):
    from adapterhub.workflows import promote as gate

    # 0.95 - 0.94 > 0.01 in floating point
    measured = {"mood@1": 0.95, "mood@2": found}
    monkeypatch.setattr(gate, "score", lambda a, r: {"accuracy": measured[a.name]})
    rule = ("alias", "rule", "mood@prod", "--metric", "accuracy", "--not-worse-by", "0.01")
    two(*rule, "--data", str(moods))
    assert two("promote", "mood@1", "--to", "prod").exit_code == 0
    assert two("promote", "mood@2", "--to", "prod").exit_code == (0 if passes else 8)
