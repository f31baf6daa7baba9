"""What counts as a path of this machine, and what only looks like one."""

import pytest

from adapterhub.adapters.local_paths import (
    clean_text,
    is_local_path,
    local_paths_in,
    without_local_paths,
)


@pytest.mark.parametrize(
    "path",
    [
        "/data/x.csv",
        "~/x.csv",
        "~ann/x.csv",
        "../x.csv",
        "a/../../x",
        "C:\\x",
        "D:/x",
        "\\\\srv\\x",
    ],
)
def test_local_paths(path):
    assert is_local_path(path)


@pytest.mark.parametrize("path", ["data/x.csv", "x.csv", "owner/name", "minilm-l6", "hub:a/b", "~"])
def test_portable_names(path):
    assert not is_local_path(path)


def test_only_keys_of_files_are_searched():
    document = {
        "labels": ["/location/country", "/film"],
        "recipe": {
            "task": {"system_prompt": "/no_think", "terminators": ["/s"]},
            "data": {
                "train": "/srv/secret/train.csv",
                "hub": {"id": "a/b"},
                "fields": {"text": "/x"},
            },
            "backbone": {"name": "/srv/secret/model"},
        },
        "added": [{"path": "C:\\Users\\ann\\new.csv"}],
        "tokenizer_name_or_path": "/srv/secret/model",
    }
    found = dict(local_paths_in(document))
    assert found == {
        "recipe.data.train": "/srv/secret/train.csv",
        "recipe.backbone.name": "/srv/secret/model",
        "added.path": "C:\\Users\\ann\\new.csv",
        "tokenizer_name_or_path": "/srv/secret/model",
    }
    cleaned = without_local_paths(document, {"/srv/secret/model": "sha256:ab"})
    assert cleaned["recipe"]["data"]["train"] == "train.csv"
    assert cleaned["recipe"]["backbone"]["name"] == cleaned["tokenizer_name_or_path"] == "sha256:ab"
    assert cleaned["added"] == [{"path": "new.csv"}]
    assert cleaned["labels"] == document["labels"]
    assert cleaned["recipe"]["task"] == document["recipe"]["task"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("base_model: /home/ann/models/tiny", "base_model: tiny"),
        ("see `/Users/ann/x.csv`.", "see `x.csv`."),
        ("C:\\Users\\ann\\m\\tiny", "tiny"),
        ("https://host/home/ann/page", "https://host/home/ann/page"),
        ("either/home/or", "either/home/or"),
    ],
)
def test_folders_of_users_in_running_text(text, cleaned):
    assert clean_text(text, {}) == cleaned
