"""How signatures are kept: one a key, for as long as their artifact, whatever is killed."""

import errno
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from hashlib import sha256

import pytest
import registry_helpers
from signature_fixtures import (
    SIGN_STEPS,
    ada,
    blobs,
    copy,
    eve,
    plain_environment,
    put_signed,
    signature,
    version,
)
from signing_helpers import changed, snapshot

from adapterhub.errors import IntegrityError, NotFoundError, RefError, RegistryError, SignatureError
from adapterhub.registry import Registry
from adapterhub.registry.database import Database
from adapterhub.registry.policy import trusted_folder
from adapterhub.registry.schema import SCHEMA_CHANGES
from adapterhub.registry.sigstore import MAX_SIGNATURE, is_signature_name, sign, signature_name

__all__ = ["ada", "copy", "eve", "plain_environment", "signature", "version"]


def test_the_name_of_a_signature():
    assert signature_name("0123456789abcdef" * 4) == "0123456789abcdef.sig"
    assert is_signature_name("0123456789abcdef.sig")
    for other in ("README.md", "0123456789ABCDEF.sig", "123.sig", "0123456789abcdef.sig\n"):
        assert not is_signature_name(other)


def test_signatures_are_kept_one_a_key(registry, version, signature, ada, eve):
    assert registry.signatures(version) == ()
    added = registry.add_signature(version.ref, signature)
    assert (added.key, added.content) == (ada.key, signature)
    other = sign(registry.materialize(version), eve.private)
    registry.add_signature("topics", other)
    expected = sorted([(ada.key, signature), (eve.key, other)])
    assert [(s.key, s.content) for s in registry.signatures(version)] == expected
    assert registry.add_signature("topics@1", signature).content == signature
    assert len(registry.signatures(version)) == 2
    assert registry.verify() == ()


def test_they_belong_to_the_artifact_whatever_its_name(registry, artifact, ada):
    folder = artifact()
    put_signed(registry, folder, ada)
    copy = registry.put(folder, "copy")
    assert [s.key for s in registry.signatures(copy)] == [ada.key]
    registry.remove("topics")
    assert [s.key for s in registry.signatures(copy)] == [ada.key]


def test_a_newer_signature_takes_the_place_of_an_older_one(registry, version, signature, ada):
    registry.add_signature("topics", signature)
    before = blobs(registry)
    newer = sign(registry.materialize(version), ada.private)
    assert newer != signature
    registry.add_signature("topics", newer)
    assert [s.content for s in registry.signatures(version)] == [newer]
    assert len(blobs(registry)) == len(before) + 1
    assert registry.collect() == 0
    assert registry.collect(grace=0) == len(signature)
    assert [s.content for s in registry.signatures(version)] == [newer]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a signature"),
        (b"\x00\xff", "is not a signature"),
        (b"[]", "is not a signature"),
        (b"{}", "dsseEnvelope"),
        (b'{"mediaType": "x", "mediaType": "y"}', "a key occurs twice"),
        (b"{" * 50_000, "is not a signature"),
        (b" " * (MAX_SIGNATURE + 1), "larger than"),
    ],
)
def test_what_is_no_signature_is_refused(registry, version, content, said):
    before = snapshot(registry)
    with pytest.raises(SignatureError) as caught:
        registry.add_signature("topics", content)
    assert said in str(caught.value)
    assert snapshot(registry) == before


@pytest.mark.parametrize("hint", ["", "ab" * 31, "AB" * 32, "../" + "a" * 61, None, 7, ["a"]])
def test_a_signature_that_names_no_key_is_refused(registry, version, signature, hint):
    before = snapshot(registry)
    with pytest.raises(SignatureError, match="hint"):
        registry.add_signature("topics", changed(signature, hint=hint))
    assert snapshot(registry) == before


def test_a_signature_of_what_is_not_held_is_refused(registry, version, signature):
    before = snapshot(registry)
    for ref in ("absent", "topics@7"):
        with pytest.raises(NotFoundError):
            registry.add_signature(ref, signature)
    assert snapshot(registry) == before


def test_a_right_signature_is_not_lost_to_a_wrong_one(registry, artifact, ada, eve):
    version = put_signed(registry, artifact("first"), ada)
    registry.trust("ada", ada.pem)
    other = put_signed(registry, artifact("second"), ada, "other")
    before = snapshot(registry)
    (elsewhere,) = registry.signatures(other)
    forged = changed(sign(registry.materialize(version), eve.private), hint=ada.key)
    for wrong in (elsewhere.content, forged):
        with pytest.raises(SignatureError, match="is invalid"):
            registry.add_signature(version.ref, wrong)
    assert snapshot(registry) == before


def test_a_version_comes_with_its_tags_and_signatures_or_not_at_all(
    registry, artifact, signature, ada
):
    before = snapshot(registry)
    for wrong, kind in (
        ({"signatures": [signature], "tags": ["fine", "No Tag"]}, RefError),
        ({"signatures": [signature, b"{}"]}, SignatureError),
    ):
        with pytest.raises(kind):
            registry.put(artifact("second"), "topics", **wrong)
        assert snapshot(registry) == before
    put = registry.put(artifact("second"), "topics", tags=["fine"], signatures=[signature])
    assert put.tags == ("fine",)
    assert [s.key for s in registry.signatures(put)] == [ada.key]


def test_the_last_removal_frees_its_signatures(registry, artifact, ada, eve):
    kept = put_signed(registry, artifact("kept"), eve, "kept")
    before = blobs(registry)
    folder = artifact("first")
    version = put_signed(registry, folder, ada)
    registry.put(folder, "copy")
    registry.remove("topics")
    registry.collect(grace=0)
    assert [s.key for s in registry.signatures(version)] == [ada.key]
    registry.remove("copy")
    assert registry.collect() == 0
    assert registry.collect(grace=0) > 0
    assert blobs(registry) == before
    assert [s.key for s in registry.signatures(kept)] == [eve.key]
    # put again, it comes unsigned
    assert registry.signatures(registry.put(folder, "topics")) == ()


def make_old(registry):
    """Make blobs look as if they had been written long ago."""
    for path in (registry.folder / "blobs").rglob("*"):
        os.utime(path, (0, 0))


def test_what_was_removed_a_moment_ago_is_spared(registry, version, signature, ada):
    registry.add_signature("topics", signature)
    newer = sign(registry.materialize(version), ada.private)
    registry.add_signature("topics", newer)
    registry.remove("topics")
    make_old(registry)
    before = blobs(registry)
    assert registry.collect() == 0
    assert blobs(registry) == before
    assert registry.collect(grace=0) > 0
    assert blobs(registry) == []


def test_one_that_came_back_is_in_use_again(registry, version, signature, ada):
    newer = sign(registry.materialize(version), ada.private)
    for content in (signature, newer, signature):
        registry.add_signature("topics", content)
    (waiting,) = snapshot(registry)[0]["removed_blobs"]
    assert sha256(newer).hexdigest() in waiting
    registry.collect(grace=0)
    assert [s.content for s in registry.signatures(version)] == [signature]


@pytest.mark.parametrize("harm", ["flip", "lose"])
def test_a_damaged_signature_is_named_and_restored(registry, version, signature, ada, harm):
    registry.add_signature("topics", signature)
    (stored,) = registry.stored_signatures(version.digest)
    blob = next((registry.folder / "blobs").rglob(stored.sha256))
    blob.chmod(0o644)
    if harm == "flip":
        blob.write_bytes(signature[:-1] + b" ")
    else:
        blob.unlink()
    (problem,) = registry.verify()
    assert str(problem).startswith(f"topics@1: {signature_name(ada.key)} is ")
    with pytest.raises(IntegrityError, match=signature_name(ada.key)):
        registry.signatures(version)
    registry.trust("ada", ada.pem)
    registry.set_requires_signed(True)
    with pytest.raises(SignatureError, match="the signature by ada"):
        trusted_folder(registry, version)
    registry.add_signature("topics", signature)
    assert registry.verify() == ()
    assert trusted_folder(registry, version) == registry.materialize(version)


def run_and_kill(action, root, step, argument):
    words = [sys.executable, registry_helpers.__file__, action, root, step, argument]
    return subprocess.run([str(word) for word in words], check=False).returncode


def test_the_steps_are_those_that_are_tested(tmp_path, version, signature):
    steps = []
    Registry(tmp_path / "home", on_step=steps.append).add_signature("topics", signature)
    assert steps == SIGN_STEPS


@pytest.mark.parametrize("step", SIGN_STEPS)
def test_killed_while_signing(registry, version, signature, tmp_path, step):
    before = blobs(registry)
    file = tmp_path / "bundle.json"
    file.write_bytes(signature)
    assert run_and_kill("sign", tmp_path / "home", step, file) == 77
    after = Registry(tmp_path / "home")
    expected = [signature] if step == "committed signature" else []
    assert [s.content for s in after.signatures(version)] == expected
    assert after.verify() == ()
    if not expected:
        after.collect(grace=0)
        assert blobs(after) == before
    assert after.add_signature("topics", signature).content == signature
    assert len(after.signatures(version)) == 1


@pytest.mark.parametrize("step", ["unlisted", "removed"])
def test_killed_while_a_signed_version_is_removed(registry, artifact, ada, tmp_path, step):
    version = put_signed(registry, artifact(), ada)
    before = blobs(registry)
    assert run_and_kill("remove", tmp_path / "home", step, "topics") == 77
    registry.collect(grace=0)
    assert registry.verify() == ()
    if step == "unlisted":
        assert blobs(registry) == before
        assert [s.key for s in registry.signatures(version)] == [ada.key]
    else:
        assert blobs(registry) == []


def test_killed_while_signatures_are_collected(registry, artifact, ada, eve, tmp_path):
    kept = put_signed(registry, artifact("kept"), eve, "kept")
    before = blobs(registry)
    put_signed(registry, artifact(), ada)
    registry.remove("topics")
    for _ in range(6):
        run_and_kill("collect", tmp_path / "home", "deleted blob", "0")
        assert registry.verify() == ()
        assert [s.key for s in registry.signatures(kept)] == [eve.key]
    assert blobs(registry) == before


@pytest.mark.parametrize("step", SIGN_STEPS[:-1])
def test_a_full_disk_while_signing_changes_nothing(registry, version, signature, tmp_path, step):
    before = snapshot(registry)

    def hook(name):
        if name == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RegistryError, match=r"No space left.*Free some space"):
        Registry(tmp_path / "home", on_step=hook).add_signature("topics", signature)
    assert snapshot(registry) == before


def test_an_index_from_before_signatures_is_upgraded(registry, version, signature, tmp_path):
    path = registry.folder / "index.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        for table in ("signatures", "trusted_keys", "settings", "journal"):
            db.execute(f"DROP TABLE {table}")
        db.execute("PRAGMA user_version = 2")
    (registry.folder / "journal.log").unlink()
    Database(path, SCHEMA_CHANGES[:2]).prepare()
    upgraded = Registry(tmp_path / "home")
    assert upgraded.resolve("topics") == version
    assert not upgraded.requires_signed()
    upgraded.add_signature("topics", signature)
    assert len(upgraded.signatures(version)) == 1
