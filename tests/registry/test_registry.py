"""Put, resolve, list and remove, as one process sees them."""

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from registry_helpers import WEIGHTS, text_of, weights_file

from adapterhub.errors import ArtifactError, NotFoundError, RefError, RegistryError
from adapterhub.refs import AdapterRef
from adapterhub.registry import Registry


def blob_files(registry):
    return {path.name for path in (registry.folder / "blobs").rglob("*") if path.is_file()}


def test_a_version_tells_what_the_manifest_says(registry, artifact):
    folder = artifact(parent="sha256:" + "1" * 64)
    version = registry.put(folder, "team/topics", info={"seconds": 1.5})
    assert (version.name, version.version, str(version.ref)) == (
        "team/topics",
        1,
        "team/topics@1",
    )
    content = (folder / "manifest.json").read_bytes()
    assert version.digest == "sha256:" + sha256(content).hexdigest()
    assert (version.task, version.backbone) == ("text-classification", "tiny")
    assert (version.fingerprint, version.method) == ("sha256:ab", "lora")
    assert version.metrics == {"before": {"accuracy": 0.5}, "after": {"accuracy": 0.75}}
    assert version.size == sum(path.stat().st_size for path in folder.iterdir())
    assert version.parent == "sha256:" + "1" * 64
    assert version.info == {"seconds": 1.5}
    age = datetime.now(UTC) - datetime.fromisoformat(version.created)
    assert timedelta(seconds=-1) < age < timedelta(minutes=1)
    with pytest.raises(FrozenInstanceError):
        version.version = 2
    assert version in {version}


def test_versions_count_up_per_name_and_equal_contents_are_one_version(registry, artifact):
    first, second = artifact("first"), artifact("second")
    assert registry.put(first, "topics").version == 1
    assert registry.put(second, "topics").version == 2
    assert registry.put(first, "other").version == 1
    again = registry.put(first, "topics", info={"ignored": True})
    assert (again.version, again.info) == (1, {})
    assert [version.version for version in registry.versions("topics")] == [1, 2]


def test_equal_files_are_stored_once(registry, artifact):
    registry.put(artifact("first"), "topics")
    registry.put(artifact("second"), "topics")
    # two manifests and two weights; configuration and card are shared
    assert len(blob_files(registry)) == 6


def test_every_form_of_reference_resolves(registry, artifact):
    first = registry.put(artifact("first"), "topics")
    second = registry.put(artifact("second"), "topics")
    assert registry.resolve("topics") == second
    assert registry.resolve("topics@latest") == second
    assert registry.resolve("topics@1") == first
    assert registry.resolve(f"topics@{first.digest}") == first
    assert registry.resolve(f"topics@{first.digest[:15]}") == first
    assert registry.resolve(AdapterRef("topics", version=2)) == second


def test_a_short_digest_that_fits_two_versions_is_refused(registry, artifact):
    # two digests with eight equal digits are not found by chance, so the rows are changed
    for weights in ("first", "second"):
        registry.put(artifact(weights), "topics")
    with sqlite3.connect(registry.folder / "index.sqlite3") as db:
        for number in (1, 2):
            digest = "sha256:" + "ab" * 31 + f"0{number}"
            db.execute(
                "UPDATE artifacts SET digest = ? WHERE digest = "
                "(SELECT digest FROM versions WHERE version = ?)",
                (digest, number),
            )
            db.execute("UPDATE versions SET digest = ? WHERE version = ?", (digest, number))
    db.close()
    with pytest.raises(RegistryError, match=r"2 versions have a digest.*topics@2"):
        registry.resolve("topics@sha256:abababab")
    assert registry.resolve("topics@sha256:" + "ab" * 31 + "02").version == 2


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("topisc", "no adapter with this name. Did you mean 'topics'?"),
        ("topics@7", "no such version. It has 1, 2"),
        ("topics@prod", "no alias 'prod'. It has no alias"),
        ("topics@sha256:00000000", "no version has this digest. It has 1, 2"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(registry, artifact, ref, message):
    registry.put(artifact("first"), "topics")
    registry.put(artifact("second"), "topics")
    with pytest.raises(NotFoundError) as caught:
        registry.resolve(ref)
    assert message in str(caught.value)
    assert str(caught.value).startswith(ref)


def test_an_empty_registry_says_so(registry):
    with pytest.raises(NotFoundError, match="The registry is empty"):
        registry.resolve("topics")
    assert registry.list() == ()
    assert registry.versions("topics") == ()
    assert registry.verify() == ()


def test_a_malformed_reference_or_name_is_refused(registry, artifact):
    with pytest.raises(RefError):
        registry.resolve("../topics")
    with pytest.raises(RefError):
        registry.versions("to pics")
    with pytest.raises(RefError):
        registry.put(artifact(), "topics@3")
    assert blob_files(registry) == set()


def test_removed_numbers_are_not_given_again(registry, artifact):
    registry.put(artifact("first"), "topics")
    second = artifact("second")
    registry.put(second, "topics")
    assert registry.remove("topics@2").version == 2
    assert registry.resolve("topics").version == 1
    with pytest.raises(NotFoundError, match=r"this version was removed\. It has 1"):
        registry.resolve("topics@2")
    assert registry.put(second, "topics").version == 3
    registry.remove("topics@1")
    registry.remove("topics@3")
    with pytest.raises(NotFoundError, match="all its versions were removed"):
        registry.resolve("topics")
    assert registry.put(second, "topics").version == 4


def test_collecting_deletes_only_what_no_version_uses(registry, artifact):
    first, second = artifact("first"), artifact("second")
    registry.put(first, "topics")
    registry.put(first, "copy")
    kept = registry.put(second, "topics")
    all_blobs = blob_files(registry)
    registry.remove("topics@1")
    assert blob_files(registry) == all_blobs
    path = registry.materialize(registry.resolve("copy"))
    registry.remove("copy")
    assert blob_files(registry) == all_blobs
    assert registry.collect(grace=0) > 0
    assert len(all_blobs - blob_files(registry)) == 2
    assert not path.exists()
    assert text_of(registry.materialize(kept) / WEIGHTS) == "second"
    assert registry.verify() == ()
    registry.remove(kept.ref)
    registry.collect(grace=0)
    assert blob_files(registry) == set()


def test_info_must_be_json(registry, artifact):
    for bad, kind in ((float("nan"), ArtifactError), (object(), RegistryError)):
        with pytest.raises(kind, match="info"):
            registry.put(artifact(), "topics", info={"value": bad})
    assert registry.list() == ()


def test_a_second_registry_object_sees_the_same(registry, artifact):
    version = registry.put(artifact(), "topics")
    assert Registry(registry.folder.parent).resolve("topics") == version


def test_home_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "elsewhere"))
    assert Registry().folder == tmp_path / "elsewhere" / "registry"
    monkeypatch.delenv("ADAPTERHUB_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in Registry().folder.parents


def test_the_artifact_folder_is_left_alone(registry, artifact):
    folder = artifact()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    registry.put(folder, "topics")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_registry_does_not_import_torch():
    code = "import sys, adapterhub.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def edit_manifest(folder, change):
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def rename(old, new):
    def harm(folder):
        (folder / old).rename(folder / new)
        edit_manifest(folder, lambda m: m["files"].update({new: m["files"].pop(old)}))

    return harm


def link(folder):
    (folder / "README.md").rename(folder.parent / "moved.md")
    (folder / "README.md").symlink_to(folder.parent / "moved.md")


def list_a_path_outside(folder):
    edit_manifest(folder, lambda m: m["files"].update({"../x": m["files"].pop("README.md")}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "extra.txt").write_text("x"), "'extra.txt' is not listed"),
        (lambda f: (f / "README.md").unlink(), "'README.md' is listed"),
        (lambda f: (f / "manifest.json").unlink(), "has no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{"), "is not valid JSON"),
        (lambda f: edit_manifest(f, lambda m: m.pop("task")), "task: is missing"),
        (lambda f: (f / WEIGHTS).write_text("shorter"), "has 7 bytes, manifest.json says"),
        (lambda f: (f / WEIGHTS).write_bytes(weights_file("firsT")), "has the sha256"),
        (lambda f: (f / "sub").mkdir(), "'sub' is not a regular file"),
        (lambda f: (f / "adapter_model.bin").write_text("x"), "'adapter_model.bin' is a pickle"),
        (rename("README.md", "weights.pt"), "is a pickle"),
        (rename("README.md", "weights.PKL"), "is a pickle"),
        (rename("README.md", "weights.ckpt"), "is a pickle"),
        (rename("README.md", "weights.pth"), "is a pickle"),
        (list_a_path_outside, "cannot be a file of an artifact"),
        (link, "'README.md' is a link"),
    ],
)
def test_a_folder_that_is_not_what_its_manifest_says_is_refused(registry, artifact, harm, message):
    folder = artifact()
    harm(folder)
    with pytest.raises(ArtifactError) as caught:
        registry.put(folder, "topics")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert registry.list() == ()
    assert blob_files(registry) == set()
    assert list((registry.folder / "staging").iterdir()) == []


def test_a_folder_that_is_not_there_is_named(registry, tmp_path):
    with pytest.raises(ArtifactError, match=r"absent: cannot be read"):
        registry.put(tmp_path / "absent", "topics")


def test_a_file_swapped_for_a_pipe_is_not_waited_on(tmp_path, registry, artifact):
    folder = artifact()

    def swap(step):
        if step == "checked":
            (folder / WEIGHTS).unlink()
            os.mkfifo(folder / WEIGHTS)

    with pytest.raises(ArtifactError, match="is not a regular file"):
        Registry(tmp_path / "home", on_step=swap).put(folder, "topics")


def test_the_last_number_of_a_name_outlives_its_versions(registry, artifact):
    assert registry.last_numbers() == {}
    registry.put(artifact("first"), "team/desk")
    registry.put(artifact("second"), "team/desk")
    registry.put(artifact("first"), "alone")
    registry.remove("team/desk@2")
    registry.remove("alone@1")
    assert registry.last_numbers() == {"alone": 1, "team/desk": 2}
