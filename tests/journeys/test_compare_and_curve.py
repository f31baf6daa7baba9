"""``compare`` and ``learn-curve`` as a user runs them."""

import json

import pytest
from toy_fixtures import copy_home, train_once, write_moods, write_recipe


@pytest.fixture(scope="module")
def trained(encoder, tmp_path_factory):
    place = tmp_path_factory.mktemp("comparison")
    file = write_moods(place / "moods.jsonl")
    path = str(write_recipe(place, "mood", encoder, "text-classification", file))
    poor = ("optimizer.learning_rate=1e-6", "train.epochs=1", "name=poor")
    train_once(place, (path,), (path, *poor))
    return place


@pytest.fixture
def two(trained, own_home, moods):
    copy_home(trained, own_home)
    return moods


def test_the_better_adapter_is_named_with_its_tests(command, two):
    found = json.loads(command("compare", "poor", "mood", "--data", str(two), "--json").stdout)
    assert found["better"] == "mood@1"
    assert found["significant"]
    (accuracy,) = (each for each in found["differences"] if each["metric"] == "accuracy")
    assert accuracy["difference"] == pytest.approx(accuracy["second"] - accuracy["first"])
    assert 0 < accuracy["interval"]["low"] <= accuracy["difference"]
    counts = found["mcnemar"]
    assert counts["second_only"] > counts["first_only"]
    assert counts["p_value"] < 0.001
    scored = json.loads(command("eval", "poor", "--data", str(two), "--json").stdout)
    assert accuracy["first"] == pytest.approx(scored["adapter"]["accuracy"])
    # the same result in the other order
    shown = command("compare", "mood", "poor", "--data", str(two)).stdout
    assert "mood@1 has the better accuracy" in shown
    assert "exact McNemar test" in shown


def test_adapters_that_cannot_be_compared_are_refused(command, two, recipe, encoder, tmp_path):
    other = tmp_path / "tags.jsonl"
    example = {"tokens": ["the", "film", "was", "good"], "tags": ["O", "B-THING", "O", "O"]}
    other.write_text((json.dumps(example) + "\n") * 4)
    path = recipe("tags", encoder, "token-classification", other, train={"steps": 2})
    command("train", str(path), "--no-report")
    for arguments, said in (
        (("mood", "mood@1"), "is the same adapter"),
        (("mood", "tags"), "Compare adapters for the same task"),
        (("mood", "poor", "--metric", "acuracy"), "Did you mean 'accuracy'?"),
    ):
        result = command("compare", *arguments, "--data", str(two))
        assert said in str(result.exception), arguments
        assert result.exit_code == 2


def test_a_curve_improves_with_labels_and_is_not_trained_twice(command, recipe, encoder, moods):
    path = str(recipe("mood", encoder, "text-classification", moods, train={"batch_size": 16}))
    # a few-shot recipe's own limit does not bound the requested points
    few = "data.limit_per_label=2"
    arguments = (
        "learn-curve",
        path,
        few,
        "--examples-per-label",
        "1,4,16",
        "--min-steps",
        "20",
        "--json",
    )
    found = json.loads(command(*arguments).stdout)
    assert [point["num_examples"] for point in found["points"]] == [2, 8, 32]
    assert found["points"][-1]["value"] >= found["points"][0]["value"]
    assert all(point["low"] <= point["value"] <= point["high"] for point in found["points"])
    assert all(point["steps"] <= 20 for point in found["points"])
    assert found["forecast"] is None
    with open(found["plot"], "rb") as file:
        assert b"<svg" in file.read()
    again = json.loads(command(*arguments).stdout)
    assert again == found
    shown = command(*arguments[:-1]).stdout
    assert "no forecast" in shown


def test_points_by_number_of_examples_and_invalid_limits(command, recipe, encoder, moods):
    path = str(recipe("mood", encoder, "text-classification", moods, train={"epochs": 1}))
    found = json.loads(
        command("learn-curve", path, "--num-examples", "30,60", "--min-steps", "1", "--json").stdout
    )
    assert [point["num_examples"] for point in found["points"]] == [30, 60]
    for arguments, said in (
        (("--num-examples", "0"), "a limit is 1 or more, not 0"),
        (("--num-examples", "a,b"), "not a list of numbers"),
        (("--num-examples", "3", "--examples-per-label", "3"), "cannot be used with"),
    ):
        result = command("learn-curve", path, *arguments)
        assert said in str(result.exception)
        assert result.exit_code == 2


def test_few_examples_of_each_label_are_sampled_by_content(command, recipe, encoder, moods):
    from adapterhub.training.prepare import prepare_data
    from adapterhub.training.recipe_file import load_recipe

    path = recipe("mood", encoder, "text-classification", moods)
    few, more = (
        prepare_data(load_recipe(path, [f"data.limit_per_label={n}"])).splits["train"].numbers
        for n in (3, 9)
    )
    assert len(few) == 6
    assert set(few) < set(more)
