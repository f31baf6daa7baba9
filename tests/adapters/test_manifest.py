"""manifest.json: canonical bytes, strict reading, upgrades."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.adapters.manifest import (
    BackboneRef,
    DataSource,
    FileEntry,
    Manifest,
    Metrics,
    check_file_name,
)
from adapterhub.adapters.migrations import Migration, upgrade
from adapterhub.errors import ArtifactError
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

GOLDENS = Path(__file__).parent / "golden"
GOLDEN = GOLDENS / "manifest-3.json"


def example() -> Manifest:
    return Manifest(
        task="text-classification",
        labels=("fruit", "légume"),
        backbone=BackboneRef(
            name="tiny", fingerprint="sha256:ab", hub_id="someone/tiny", revision="main"
        ),
        quantization=QuantizationSpec("nf4", "float32"),
        adapter=LoraSpec(rank=4, alpha=8.0, target_modules=("q_proj",)),
        trained_parameters=12,
        backbone_parameters=3400,
        recipe={"optimizer": {"learning_rate": 0.001}, "epochs": 2, "notes": None},
        data={
            "train": DataSource(fingerprint="sha256:11", num_examples=8, origin="train.jsonl"),
            "validation": DataSource(fingerprint="sha256:22", num_examples=4, origin="dev.jsonl"),
        },
        metrics=Metrics(before={"accuracy": 0.5}, after={"accuracy": 0.75}),
        seed=7,
        libraries={"torch": "2.13.0", "peft": "0.21.2"},
        parent=None,
        files={"README.md": FileEntry(sha256="0" * 64, size=10)},
    )


def document() -> dict:
    return json.loads(GOLDEN.read_bytes())


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def test_bytes_of_schema_3_stay_as_they_are():
    assert example().to_json() == GOLDEN.read_bytes()


@pytest.mark.parametrize("golden", ["manifest-1.json", "manifest-2.json", "manifest-3.json"])
def test_golden_files_read_as_the_same_manifest(golden):
    assert Manifest.from_json((GOLDENS / golden).read_bytes()) == example()


def test_what_is_unknown_is_kept():
    manifest = replace(example(), seed=None, unknown=("data", "seed"))
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_order_of_mappings_does_not_change_the_bytes():
    first = example()
    turned = replace(
        first,
        data=dict(reversed(first.data.items())),
        libraries=dict(reversed(first.libraries.items())),
        recipe=dict(reversed(first.recipe.items())),
    )
    assert turned.to_json() == first.to_json()


def test_whole_numbers_and_floats_of_equal_value_give_equal_bytes():
    metrics = Metrics(before={"accuracy": 0}, after={"accuracy": 1})
    floats = Metrics(before={"accuracy": 0.0}, after={"accuracy": 1.0})
    whole = replace(example(), metrics=metrics)
    assert whole.to_json() == replace(example(), metrics=floats).to_json()


plain = st.characters(codec="utf-8", exclude_categories=["Cc"], include_characters="\t\n\r")
texts = st.text(plain, max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(
    recipe=st.dictionaries(texts, json_values, max_size=4),
    labels=st.lists(texts, unique=True, max_size=4),
    tokens=st.integers(1, 64),
)
def test_every_manifest_survives_the_round_trip(recipe, labels, tokens):
    manifest = replace(
        example(), recipe=recipe, labels=tuple(labels), adapter=PrefixSpec(tokens, projection=True)
    )
    content = manifest.to_json()
    assert Manifest.from_json(content) == manifest
    assert Manifest.from_json(content).to_json() == content


@pytest.mark.parametrize("key", sorted(document()))
def test_missing_key_is_named(key):
    content = document()
    del content[key]
    with pytest.raises(ArtifactError, match=rf"manifest\.json.*{key}"):
        Manifest.from_json(encoded(content))


def test_unknown_key_is_named_with_the_near_one():
    content = document() | {"label": []}
    with pytest.raises(ArtifactError) as caught:
        Manifest.from_json(encoded(content))
    assert str(caught.value) == "manifest.json: label: is an unknown key. Did you mean 'labels'?"


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (["labels"], "fruit", "manifest.json: labels"),
        (["labels"], ["a", "a"], "manifest.json: labels"),
        (["labels"], ["a", 3], "manifest.json: labels[1]"),
        (["seed"], True, "manifest.json: seed"),
        (["seed"], 1.0, "manifest.json: seed"),
        (["trained_parameters"], -1, "manifest.json: trained_parameters"),
        (["backbone", "hub_id"], 3, "manifest.json: backbone.hub_id"),
        (["backbone", "licence"], "mit", "manifest.json: backbone.licence"),
        (["quantization", "scheme"], "nf3", "manifest.json: quantization.scheme"),
        (["quantization", "scheme"], ["nf4"], "manifest.json: quantization.scheme"),
        (["adapter", "method"], "ia4", "manifest.json: adapter.method"),
        (["adapter", "spec", "rank"], "4", "manifest.json: adapter.spec.rank"),
        (["data", "train", "rows"], None, "manifest.json: data.train.rows"),
        (["metrics", "after", "accuracy"], "0.9", "manifest.json: metrics.after.accuracy"),
        (["metrics", "after", "accuracy"], True, "manifest.json: metrics.after.accuracy"),
        (["libraries"], ["torch"], "manifest.json: libraries"),
        (["parent"], "sha256:12", "manifest.json: parent"),
        (["files", "README.md", "sha256"], "AB" * 32, "manifest.json: files.README.md.sha256"),
    ],
)
def test_wrong_value_is_named(path, value, place):
    content = document()
    *parents, last = path
    target = content
    for key in parents:
        target = target[key]
    target[last] = value
    with pytest.raises(ArtifactError) as caught:
        Manifest.from_json(encoded(content))
    assert caught.value.place == place


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b"{",
        b'{"schema_version": 1, "schema_version": 1}',
        b'{"schema_version": NaN}',
        b"[" * 100_000,
        b'{"schema_version": ' + b"1" * 10_000 + b"}",
    ],
)
def test_what_is_not_a_json_object_is_refused(content):
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        Manifest.from_json(content)


def test_infinity_by_overflow_is_refused():
    content = GOLDEN.read_bytes().replace(b"0.75", b"1e999")
    with pytest.raises(ArtifactError, match=r"metrics\.after\.accuracy: must be a finite number"):
        Manifest.from_json(content)


@pytest.mark.parametrize(
    "recipe", [{"when": object()}, {"rate": float("nan")}, {"pair": (1, 2)}, {1: "one"}]
)
def test_recipe_that_json_does_not_keep_is_refused(recipe):
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        replace(example(), recipe=recipe).to_json()


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", ".hidden", "manifest.json", "a\\b", "é"])
def test_file_name_outside_the_folder_is_refused(name):
    content = document()
    content["files"][name] = {"sha256": "0" * 64, "size": 1}
    with pytest.raises(ArtifactError, match="cannot be a file of an artifact"):
        Manifest.from_json(encoded(content))


@pytest.mark.parametrize("name", ["adapter_model.bin", "x.PT", "a.b.pkl", "m.ckpt", "optim.pth"])
def test_pickle_is_refused_with_what_to_do(name):
    with pytest.raises(ArtifactError, match=r"pickle.*Convert its tensors with safetensors"):
        check_file_name(name, "somewhere")


def test_schema_of_the_future_is_refused():
    with pytest.raises(ArtifactError, match=r"schema version 4, this adapterhub reads up to 3"):
        Manifest.from_json(encoded(document() | {"schema_version": 4}))


@pytest.mark.parametrize("version", [None, 0, "1", 1.0, True])
def test_schema_version_that_is_no_version_is_refused(version):
    with pytest.raises(ArtifactError, match="schema_version must be a whole number"):
        Manifest.from_json(encoded(document() | {"schema_version": version}))


STEPS = (
    Migration(1, "name becomes title", lambda old: {"title": old["name"]}),
    Migration(2, "tags appear", lambda old: old | {"tags": []}),
)


@pytest.mark.parametrize(
    "old",
    [
        {"schema_version": 1, "name": "a"},
        {"schema_version": 2, "title": "a"},
        {"schema_version": 3, "title": "a", "tags": []},
    ],
)
def test_upgrade_from_every_schema_gives_the_current_one(old):
    before = dict(old)
    assert upgrade(old, STEPS, place="x") == {"schema_version": 3, "title": "a", "tags": []}
    assert old == before


def test_upgrades_with_a_gap_are_a_mistake_of_the_program():
    with pytest.raises(ValueError, match="leave no gap"):
        upgrade({"schema_version": 1}, STEPS[1:], place="x")
