"""Compositions as versions: lineage, the same bytes again, and answers on the backbone."""

import json
import random

import pytest
import torch
from toy_fixtures import copy_home, train_once, write_moods, write_recipe, write_talks

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.manifest import Manifest
from adapterhub.composition import MergeMethod, compose
from adapterhub.registry import Registry
from adapterhub.workflows import merge_search as blend_search
from adapterhub.workflows.open_adapter import open_adapter

PLAIN = {"quantization": "none", "compute_dtype": "float32"}
ASKED = [{"text": "the song was great"}, {"text": "the meal was awful"}]


@pytest.fixture(scope="module")
def two_moods(encoder, tmp_path_factory):
    """Train two adapters for the same labels, of different ranks."""
    place = tmp_path_factory.mktemp("two-moods")
    path = write_moods(place / "moods.jsonl")
    paths = [
        write_recipe(
            place,
            name,
            encoder,
            "text-classification",
            path,
            backbone={"name": str(encoder), **PLAIN},
            adapter={"rank": rank, "alpha": 16},
            train={"batch_size": 16, "epochs": 4, "seed": rank},
        )
        for name, rank in (("calm", 8), ("loud", 4))
    ]
    train_once(place, *((str(path),) for path in paths))
    return place


@pytest.fixture
def moods_twice(command, two_moods, own_home):
    copy_home(two_moods, own_home)
    return command


@pytest.fixture(scope="module")
def two_talks(decoder, tmp_path_factory):
    """Train two dialogue adapters, which have no heads."""
    place = tmp_path_factory.mktemp("two-talks")
    path = write_talks(place / "talks.jsonl")
    paths = [
        write_recipe(
            place,
            name,
            decoder,
            "dialogue",
            path,
            backbone={"name": str(decoder), **PLAIN},
            train={"batch_size": 8, "epochs": 2, "seed": seed},
        )
        for seed, name in enumerate(("left", "right"))
    ]
    train_once(place, *((str(path),) for path in paths))
    return place


@pytest.fixture
def talks_twice(command, two_talks, own_home):
    copy_home(two_talks, own_home)
    return command


def composed(command, *arguments):
    done = command("compose", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def artifact_of(ref):
    registry = Registry()
    return read_artifact(registry.materialize(registry.resolve(ref)))


def test_a_composition_is_a_version_that_tells_what_it_was_made_of(moods_twice):
    made = composed(moods_twice, "both", "calm*0.75", "loud@1*0.25")
    assert (made["ref"], made["rank"], made["labels"]) == ("both@1", 12, ["glad", "sad"])
    calm, loud = (Registry().resolve(name).digest for name in ("calm", "loud"))
    shown = json.loads(moods_twice("show", "both", "--json").stdout)
    assert shown["parent"] == calm
    assert shown["recipe"]["composition"] == {
        "method": "concat",
        "adapters": [
            {"ref": "calm@1", "digest": calm, "weight": 0.75},
            {"ref": "loud@1", "digest": loud, "weight": 0.25},
        ],
    }
    assert calm in moods_twice("show", "both").stdout
    manifest = artifact_of("both").manifest
    assert manifest.unknown == ("data", "metrics", "recipe", "seed")
    card = (artifact_of("both").path / "README.md").read_text()
    assert f"| `loud@1` | 0.25 | `{loud}` |" in card


def test_the_same_again_is_the_same_version_and_other_weights_are_the_next(moods_twice):
    first = composed(moods_twice, "both", "calm*0.75", "loud*0.25")
    again = composed(moods_twice, "both", "calm@1*0.75", "loud@latest*0.25")
    assert again["digest"] == first["digest"]
    assert composed(moods_twice, "both", "calm*0.7", "loud*0.25")["ref"] == "both@2"


def test_a_composition_answers_on_the_backbone_and_can_be_scored(moods_twice, moods):
    composed(moods_twice, "both", "calm*0.5", "loud*0.5", "--head-from", "calm")
    loaded, _ = open_adapter(Registry(), "both")
    answers = loaded.predict(ASKED)
    assert [answer["label"] for answer in answers] == ["glad", "sad"]
    scores = json.loads(moods_twice("eval", "both", "--data", str(moods), "--json").stdout)
    assert scores["adapter"]["accuracy"] > 0.9


def test_one_adapter_of_weight_one_keeps_its_bytes(command, recipe, encoder, moods):
    path = recipe(
        "odd",
        encoder,
        "text-classification",
        moods,
        backbone={"name": str(encoder), **PLAIN},
        adapter={"rank": 3, "alpha": 12.5, "dropout": 0.1, "dora": True, "init": "gaussian"},
        train={"batch_size": 16, "steps": 4, "epochs": None},
    )
    assert command("train", str(path), "--no-report").exit_code == 0
    composed(command, "same", "odd")
    first, second = artifact_of("odd"), artifact_of("same")
    assert first.weights.spec == second.weights.spec
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    assert second.manifest.parent == first.digest
    assert command("compose", "half", "odd*0.5").exit_code == 2


def test_settings_reach_the_method_and_the_lineage(moods_twice):
    made = composed(
        moods_twice,
        "both",
        "calm",
        "loud*-0.5",
        *(
            "--combination-type",
            "dare_ties_svd",
            "--density",
            "0.3",
            "--svd-rank",
            "3",
            "--seed",
            "7",
        ),
        *("--majority-sign-method", "frequency", "--head-from", "loud@1"),
    )
    artifact = artifact_of("both")
    document = artifact.manifest.recipe["composition"]
    settings = {"density": 0.3, "rank": 3, "majority_sign": "frequency", "seed": 7}
    assert settings.items() <= document.items()
    assert made["composition"]["method"] == document["method"] == "dare_ties_svd"
    assert document["head_from"] == "loud@1"
    assert artifact.manifest.seed == 7
    parents = [artifact_of(name).weights for name in ("calm", "loud")]
    method = MergeMethod("dare_ties_svd", 0.3, 3, "frequency", 7)
    expected = compose(parents, (1.0, -0.5), method, head_from=1)
    assert all(torch.equal(expected.tensors[k], t) for k, t in artifact.weights.tensors.items())


def test_few_shot_finds_weights_that_beat_equal_ones(talks_twice, talks, monkeypatch):
    loads = []
    whole = blend_search.open_engine
    monkeypatch.setattr(
        blend_search, "open_engine", lambda *a, **k: loads.append(a) or whole(*a, **k)
    )
    arguments = ("both", "left", "right", "--combination-type", "few-shot", "--data", str(talks))
    made = composed(talks_twice, *arguments, "--budget", "12", "--limit", "16")
    assert len(loads) == 1
    artifact = artifact_of("both")
    document = artifact.manifest.recipe["composition"]
    assert document["method"] == "concat"
    assert document["search"]["budget"] == 12
    assert artifact.manifest.data["examples"].num_examples == 16
    assert "data" not in artifact.manifest.unknown

    def loss(name):
        found = talks_twice("eval", name, "--data", str(talks), "--limit", "16", "--json")
        return json.loads(found.stdout)["adapter"]["loss"]

    composed(talks_twice, "equal", "left*0.5", "right*0.5")
    assert loss("both") < loss("equal")
    assert loss("both") == pytest.approx(made["search"]["loss"], abs=1e-5)
    again = composed(talks_twice, *arguments, "--budget", "12", "--limit", "16")
    assert again["digest"] == made["digest"]
    table = talks_twice("compose", *arguments, "--budget", "2").stdout
    assert "examples of talks.jsonl" in table
    assert "stored both@2 by concat" in table


def test_few_shot_needs_a_head_to_be_chosen_and_then_blends_the_rest(moods_twice, moods):
    arguments = ("both", "calm", "loud", "--combination-type", "few-shot", "--data", str(moods))
    refused = moods_twice("compose", *arguments)
    assert refused.exit_code == 2
    assert b"--head-from REF" in refused.stderr_bytes
    options = ("--head-from", "calm", "--budget", "4", "--blend", "svd", "--svd-rank", "6")
    made = composed(moods_twice, *arguments, *options)
    assert (made["composition"]["method"], made["rank"]) == ("svd", 6)
    assert made["search"]["loss"] < 0.69


@pytest.fixture
def strangers(moods_twice, recipe, encoder, decoder, moods, tmp_path):
    """Beside them: another backbone, another task, other labels."""
    plain = {"name": str(encoder), **PLAIN}
    tags = tmp_path / "tags.jsonl"
    draw = random.Random(0)
    words = [draw.choice(("film", "good", "meal")) for _ in range(40)]
    tags.write_text(
        "".join(
            json.dumps({"tokens": ["the", w], "tags": ["O", "O" if w == "good" else "B-X"]}) + "\n"
            for w in words
        )
    )
    other = tmp_path / "other.jsonl"
    other.write_text(moods.read_text().replace('"sad"', '"gloomy"'))
    short = {"batch_size": 16, "steps": 2, "epochs": None}
    for name, task, data, backbone in (
        ("tagger", "token-classification", tags, plain),
        ("gloomy", "text-classification", other, plain),
        ("elsewhere", "text-classification", moods, {"name": str(decoder), **PLAIN}),
    ):
        path = recipe(name, encoder, task, data, backbone=backbone, train=short)
        done = moods_twice("train", str(path))
        assert done.exit_code == 0, done.stderr
    return moods_twice


def test_strangers_are_refused_and_nothing_is_stored(strangers):
    for ref, code, problem in (
        ("elsewhere", 6, b"was trained on the backbone with fingerprint"),
        ("tagger", 2, b"calm@1 is for text-classification, tagger@1 for token-classification"),
        ("gloomy", 2, b"have different labels. Choose the head of one adapter: --head-from REF"),
        ("nobody", 4, b"nobody"),
    ):
        done = strangers("compose", "both", "calm", ref)
        assert done.exit_code == code
        assert problem in done.stderr_bytes
    assert Registry().versions("both") == ()
    made = composed(strangers, "both", "calm", "gloomy", "--head-from", "gloomy")
    assert made["labels"] == ["glad", "gloomy"]
    assert open_adapter(Registry(), "both")[0].task.labels == ("glad", "gloomy")


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("x", "a*b"), 2, b"'b' is not a weight"),
        (("X", "a"), 2, b"is not an adapter name"),
        (("x", "a", "--combination-type", "tise"), 2, b"Did you mean 'ties'?"),
        (("x", "a", "--combination-type", "few-shot"), 3, b"few-shot needs labelled examples"),
        (("x", "a", "--data", "rows"), 2, b"--data: is an option of few-shot"),
        (("x", "a", "--blend", "svd"), 2, b"--blend: is an option of few-shot"),
        (("x", "a*1", "--combination-type", "few-shot", "--data", "r"), 2, b"searches the weights"),
        (("x", "a", "--density", "0.5"), 2, b"the method 'concat' does not use it"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(command, arguments, code, problem):
    done = command("compose", *arguments)
    assert done.exit_code == code
    assert problem in done.stderr_bytes


def test_a_head_of_an_adapter_that_is_not_there_is_refused(moods_twice):
    composed(moods_twice, "both", "calm", "loud")
    done = moods_twice("compose", "x", "calm", "loud", "--head-from", "both")
    assert done.exit_code == 2
    assert b"Name one of: calm@1, loud@1" in done.stderr_bytes


def test_only_signed_parents_are_read_where_signatures_are_required(moods_twice):
    Registry().set_requires_signed(True)
    done = moods_twice("compose", "both", "calm", "loud")
    assert done.exit_code == 9
    assert b"calm@1: is not signed" in done.stderr_bytes


def test_concatenated_prefixes_answer(command, recipe, decoder, talks):
    for tokens, name in ((3, "short"), (5, "long")):
        path = recipe(
            name,
            decoder,
            "dialogue",
            talks,
            backbone={"name": str(decoder), **PLAIN},
            adapter={"method": "prefix", "num_virtual_tokens": tokens, "projection": tokens == 5},
            train={"batch_size": 8, "steps": 4, "epochs": None},
        )
        assert command("train", str(path), "--no-report").exit_code == 0
    made = composed(command, "both", "short", "long")
    assert (made["method"], made["rank"]) == ("prefix", 8)
    loaded, _ = open_adapter(Registry(), "both")
    assert loaded.generate([[{"role": "user", "content": "the film was awful"}]])
    refused = command("compose", "both", "short", "long*0.5")
    assert refused.exit_code == 2
    assert b"their weight must be 1" in refused.stderr_bytes


def test_a_composition_of_compositions_is_one_too(talks_twice):
    composed(talks_twice, "both", "left*0.5", "right*0.5")
    made = composed(talks_twice, "more", "both", "right*-0.25", "--combination-type", "svd")
    manifest = Manifest.from_json((artifact_of("more").path / "manifest.json").read_bytes())
    assert manifest.parent == Registry().resolve("both").digest
    assert made["rank"] == 16
    loaded, _ = open_adapter(Registry(), "more")
    assert loaded.generate([[{"role": "user", "content": "the film was awful"}]])
