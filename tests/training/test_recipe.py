"""Recipes are parsed, and each error is one line that names the key."""

import pytest

from adapterhub.errors import RecipeError
from adapterhub.training.recipe_file import load_recipe

RECIPE = """
name: mood
backbone: {name: minilm-l6}
task: {name: text-classification}
data: {train: rows.jsonl}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mood.yaml"
    file.write_text(RECIPE)
    return file


def test_overrides_are_parsed_as_yaml_and_add_sections(path):
    recipe = load_recipe(
        path,
        [
            "optimizer.learning_rate=5e-4",
            "train.epochs=2",
            "adapter.target_modules=[query, value]",
            "adapter.rslora=true",
            "data.fields={text: sentence}",
            "optimizer.betas=[0.8, 0.95]",
            "description=a=b",
        ],
    )
    assert recipe.optimizer.learning_rate == 5e-4
    assert recipe.train.epochs == 2
    assert recipe.adapter.target_modules == ("query", "value")
    assert recipe.adapter.rslora is True
    assert recipe.data.fields == {"text": "sentence"}
    assert recipe.optimizer.betas == (0.8, 0.95)
    assert recipe.description == "a=b"


def test_a_single_target_needs_no_list(path):
    recipe = load_recipe(path, ["adapter.target_modules=query"])
    assert recipe.adapter.spec().target_modules == ("query",)


@pytest.mark.parametrize(
    ("override", "place", "said"),
    [
        ("train.epoch=3", "train.epoch", "Did you mean 'epochs'?"),
        ("trian.epochs=3", "trian", "Did you mean 'train'?"),
        ("adapter.rnak=3", "adapter.rnak", "Did you mean 'rank'?"),
        ("adapter={method: prefix, rank: 3}", "adapter.rank", "unknown key"),
        ("adapter.method=lorra", "adapter.method", "Did you mean 'lora'?"),
        ("train.epochs=many", "train.epochs", "found 'many'"),
        ("train.epochs=0", "train.epochs", "found 0"),
        ("train.epochs=1.5", "train.epochs", "found 1.5"),
        ("adapter.dropout=1.5", "adapter.dropout", "found 1.5"),
        ("adapter.rslora=perhaps", "adapter.rslora", "found 'perhaps'"),
        ("optimizer.name=adam", "optimizer.name", "Did you mean 'adamw'?"),
        ("schedule.name=cosin", "schedule.name", "Did you mean 'cosine'?"),
        ("backbone.quantization=nf8", "backbone.quantization", "Did you mean 'nf4'?"),
        ("name=My Adapter", "name", "lowercase letters"),
        ("backbone.name=null", "backbone.name", "found None"),
        ("name.first=a", "name", "is a value, not a section"),
        ("train.epochs", None, "Write key.path=value"),
        ("train.epochs=[1", "train.epochs", "not a value"),
    ],
)
def test_each_error_names_its_key(path, override, place, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    if place:
        assert str(caught.value).startswith(f"{place}: ")


def test_alternative_keys_exclude_each_other(path):
    with pytest.raises(RecipeError, match="epochs and steps exclude each other"):
        load_recipe(path, ["train.epochs=1", "train.steps=1"])
    with pytest.raises(RecipeError, match="batch_size and batch_tokens exclude each other"):
        load_recipe(path, ["train.batch_size=1", "train.batch_tokens=100"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a mapping of keys to values"),
        ("- a\n- b\n", "a mapping of keys to values"),
        ("name: [a\n", "line 2"),
        ("name: mood\nbackbone: {name: x}\ntask: {name: y}\n", "data: is missing"),
        ("name: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
    ],
)
def test_an_invalid_recipe_file(path, text, said):
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert said in str(caught.value)


def test_a_missing_recipe_suggests_a_near_name(path):
    with pytest.raises(RecipeError, match=r"Did you mean 'mood\.yaml'\?"):
        load_recipe(path.with_name("moods.yaml"))


def test_a_recipe_that_is_not_utf8(path):
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(path)
