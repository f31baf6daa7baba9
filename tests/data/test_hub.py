"""Data sets of the Hub, with a fake Hub."""

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from vision_backbones import shape_image

from adapterhub.data.dataset import HubSource
from adapterhub.data.images import ImageFile
from adapterhub.data.media import load_media
from adapterhub.data.readers import read_examples
from adapterhub.errors import DataError

FEATURES = Features(
    {
        "tokens": List(Value("string")),
        "tags": List(ClassLabel(names=["O", "B-PER"])),
        "label": ClassLabel(names=["bad", "good"]),
        "n": Value("int64"),
    }
)


def test_class_numbers_become_names_and_settings_are_passed_on(monkeypatch):
    calls = []

    def load(*args, **kwargs):
        calls.append((args, kwargs))
        examples = [
            {"tokens": ["Mara", "left"], "tags": [1, 0], "label": 1, "n": 1},
            {"tokens": None, "tags": None, "label": -1, "n": None},
        ]
        return Dataset.from_list(examples, features=FEATURES)

    monkeypatch.setattr(datasets, "load_dataset", load)
    examples = read_examples(HubSource("someone/plants", "train", revision="abc", config="small"))
    assert calls == [(("someone/plants", "small"), {"split": "train", "revision": "abc"})]
    assert list(examples.examples) == [
        {"tokens": ["Mara", "left"], "tags": ["B-PER", "O"], "label": "good", "n": 1},
        {"tokens": None, "tags": None, "label": None, "n": None},
    ]
    assert examples.origin == "hub:someone/plants"
    assert examples.place(1) == "hub:someone/plants small split 'train' example 2"


@pytest.mark.parametrize("name", ["json", "pandas", "../data", "a/b/c", ""])
def test_only_ids_of_the_hub_are_loaded(monkeypatch, name):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(DataError, match="owner/name"):
        read_examples(HubSource(name, "train"))


def test_a_local_folder_never_stands_in_for_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("was loaded"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "plants").mkdir(parents=True)
    with pytest.raises(DataError, match="local folder 'someone/plants'"):
        read_examples(HubSource("someone/plants", "train"))


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("it does not exist\nor is private"),
        ValueError('Unknown split "trian". Should be one of ["train"].'),
        ConnectionError("no network"),
        RuntimeError("Dataset scripts are no longer supported"),
    ],
)
def test_what_the_hub_rejects_is_one_line(monkeypatch, error):
    def load(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError) as caught:
        read_examples(HubSource("someone/plants", "trian"))
    text = str(caught.value)
    assert text.startswith("hub:someone/plants: can't load split 'trian': ")
    assert str(error).split()[0] in text
    assert "\n" not in text


def test_images_come_as_the_bytes_of_their_files(monkeypatch):
    content = shape_image("red", 1)
    features = Features({"img": Image(), "label": ClassLabel(names=["blue", "red"])})
    example = {"img": {"bytes": content, "path": None}, "label": 1}
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: Dataset.from_list([example], features=features)
    )
    examples = load_media(
        read_examples(HubSource("someone/plants", "train")), "img", None, ImageFile
    )
    assert examples.examples[0]["img"].content == content
    assert examples.examples[0]["label"] == "red"
