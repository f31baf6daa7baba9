"""Search spaces are parsed, and each error names the key."""

import pytest
from pydantic import TypeAdapter

from adapterhub.errors import RecipeError
from adapterhub.training.recipe_file import load_recipe, parse_recipe
from adapterhub.training.sweep.space import (
    Choices,
    Range,
    check_space,
    default_space,
    load_space,
    parse_space,
    values_of,
    with_values,
)
from adapterhub.training.sweep.study import build_sampler, distributions, recipe_values

PLAIN = {
    "name": "mood",
    "backbone": {"name": "minilm-l6"},
    "task": {"name": "text-classification"},
    "data": {"train": "moods.jsonl"},
}


def plain(**sections):
    return parse_recipe({**PLAIN, **sections})


def test_ranges_and_choices_are_parsed(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "optimizer.learning_rate: {low: 1e-4, high: 1.0e-2, log: true}\n"
        "adapter.rank: {low: 2, high: 8, step: 2}\n"
        "adapter.target_modules: [[query, value], [all-linear]]\n"
        "schedule.name: {choices: [linear, cosine]}\n"
    )
    space = load_space(path)
    assert space.parameters == {
        "optimizer.learning_rate": Range(1e-4, 1e-2, log=True),
        "adapter.rank": Range(2, 8, step=2),
        "adapter.target_modules": Choices((["query", "value"], ["all-linear"])),
        "schedule.name": Choices(("linear", "cosine")),
    }
    assert parse_space(space.document(), origin="again").parameters == space.parameters


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "a space must map recipe keys"),
        ({"adapter.rank": 4}, "s.yaml: adapter.rank: 4 is neither a range nor a list of choices"),
        ({"adapter.rank": [4]}, "two or more values"),
        ({"adapter.rank": [4, 4]}, "the choice 4 is listed twice"),
        ({"adapter.rank": {"low": 4}}, "adapter.rank.high: is missing"),
        ({"adapter.rank": {"low": 4, "high": "x"}}, "adapter.rank.high: 'x' is not a number"),
        ({"adapter.rank": {"low": 4, "high": 2}}, "low 4 is not below high 2"),
        ({"adapter.rank": {"low": 4, "hgh": 8}}, "Did you mean 'high'?"),
        ({"adapter.rank": {"low": 0, "high": 8, "log": True}}, "log needs a low above 0"),
        ({"adapter.rank": {"low": 1, "high": 8, "log": True, "step": 1}}, "exclude each other"),
        ({"adapter.rank": {"low": 1, "high": 8, "step": 0.5}}, "the step between integers"),
    ],
)
def test_each_error_of_a_space_names_its_key(document, said):
    with pytest.raises(RecipeError) as caught:
        parse_space(document, origin="s.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"adapter.rnk": [2, 4]}, "s.yaml: adapter.rnk: unknown key. Did you mean 'rank'?"),
        ({"adapter.rank": {"low": -1, "high": 4}}, "s.yaml: adapter.rank"),
        ({"schedule.name": ["linear", "cosin"]}, "Did you mean 'cosine'?"),
        ({"train.batch_tokens": [512, 1024]}, "exclude each other"),
        ({"adapter.method": ["lora", "prefix"]}, "can't be varied. Run a sweep for each method"),
        ({"train.metric": ["accuracy", "macro_f1"]}, "compared by one metric on the same examples"),
        ({"data.limit_validation": [10, 20]}, "compared by one metric on the same examples"),
        ({"data.split.seed": [1, 2]}, "compared by one metric on the same examples"),
    ],
)
def test_values_that_the_recipe_refuses_are_found_before_training(document, said):
    recipe = plain(train={"batch_size": 8})
    with pytest.raises(RecipeError) as caught:
        check_space(parse_space(document, origin="s.yaml"), recipe)
    assert said in str(caught.value)


def test_a_missing_file_suggests_a_near_name(tmp_path):
    (tmp_path / "space.yaml").write_text("adapter.rank: [2, 4]")
    with pytest.raises(RecipeError, match=r"Did you mean 'space\.yaml'"):
        load_space(tmp_path / "spce.yaml")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, "adapter.rank"),
        ({"adapter": {"method": "prefix"}}, "adapter.num_virtual_tokens"),
        ({"train": {"parts": "head"}}, "optimizer.weight_decay"),
    ],
)
def test_the_default_space_of_each_method_is_valid(sections, expected):
    recipe = plain(**sections)
    space = default_space(recipe)
    assert expected in space.parameters
    check_space(space, recipe)


def test_the_recipe_is_a_trial_only_where_the_space_contains_it():
    recipe = plain()
    space = parse_space({"adapter.rank": [8, 16], "adapter.alpha": [16, 32]}, origin="s")
    assert values_of(recipe, space) == {"adapter.rank": 16, "adapter.alpha": 32.0}
    assert values_of(plain(adapter={"rank": 12}), space) is None
    stepped = parse_space({"adapter.rank": {"low": 3, "high": 31, "step": 4}}, origin="s")
    assert values_of(recipe, stepped) is None


def test_sampled_values_of_every_type_fit_the_recipe():
    pytest.importorskip("optuna")
    space = parse_space(
        {
            "adapter.target_modules": [["query"], ["query", "value"]],
            "train.patience": [None, 2],
            "adapter.rank": {"low": 2, "high": 4},
            "optimizer.learning_rate": {"low": 0.001, "high": 0.01, "log": True},
        },
        origin="s",
    )
    import optuna

    from adapterhub.training.sweep.study import SweepOptions

    study = optuna.create_study(sampler=build_sampler(SweepOptions(5), 0))
    for _ in range(5):
        drawn = study.ask(fixed_distributions=distributions(space))
        recipe = with_values(plain(), recipe_values(space, drawn.params))
        assert recipe.adapter.target_modules in (("query",), ("query", "value"))
        assert recipe.train.patience in (None, 2)
        assert recipe.adapter.rank in (2, 3, 4)
        TypeAdapter(float).validate_python(recipe.optimizer.learning_rate, strict=True)
        study.tell(drawn, 0.0)


def test_a_recipe_file_is_left_as_it_is(recipe, encoder, moods):
    loaded = load_recipe(recipe("mood", encoder, "text-classification", moods))
    changed = with_values(loaded, {"adapter.rank": 2})
    assert (loaded.adapter.rank, changed.adapter.rank) == (8, 2)
    assert changed.model_copy(update={"adapter": loaded.adapter}) == loaded
