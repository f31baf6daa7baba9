"""Signatures: what they hold for, how they are kept, and the rule that unsigned is not loaded."""

import errno
import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
import registry_helpers
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from model_signing import hashing, verifying
from model_signing import signing as stock
from registry_helpers import WEIGHTS
from signing_helpers import changed, key_pair, payload, snapshot
from toy_fixtures import command

import adapterhub
from adapterhub.errors import (
    ArtifactError,
    IntegrityError,
    MissingExtraError,
    NotFoundError,
    RefError,
    RegistryError,
    SignatureError,
)
from adapterhub.gate import promote
from adapterhub.opening import open_adapter
from adapterhub.registry import Registry
from adapterhub.registry.database import Database
from adapterhub.registry.policy import trusted_folder
from adapterhub.registry.schema import SCHEMA_CHANGES
from adapterhub.registry.signature_file import (
    MAX_SIGNATURE,
    is_signature_name,
    parse_signature,
    signature_name,
)
from adapterhub.registry.signing import check_signature, key_id, make_key_pair, sign

__all__ = ["command"]

SIGN_STEPS = [
    "staged signature",
    "placed signature",
    "listed signature",
    "committed signature",
]


@pytest.fixture(scope="module")
def ada(tmp_path_factory):
    return key_pair(tmp_path_factory.mktemp("ada"), "ada")


@pytest.fixture(scope="module")
def eve(tmp_path_factory):
    return key_pair(tmp_path_factory.mktemp("eve"), "eve")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("ADAPTERHUB_REQUIRE_SIGNED", "ADAPTERHUB_KEY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def version(registry, artifact):
    return registry.put(artifact(), "topics")


@pytest.fixture
def signature(registry, version, ada):
    return sign(registry.materialize(version), ada.private)


@pytest.fixture
def copy(registry, version, tmp_path):
    """Return a copy of the artifact that can be changed."""
    folder = tmp_path / "a copy of it"
    shutil.copytree(registry.materialize(version), folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder


def put_signed(registry, folder, pair, name="topics"):
    version = registry.put(folder, name)
    registry.add_signature(version.ref, sign(registry.materialize(version), pair.private))
    return version


def blobs(registry):
    return sorted(path.name for path in (registry.folder / "blobs").rglob("*") if path.is_file())


# --- what a signature holds for ---


def test_it_holds_wherever_the_folder_lies_and_for_the_stock_library(copy, signature, ada):
    check_signature(copy, signature, ada.pem)
    bundle = copy.parent / "bundle.json"
    bundle.write_bytes(signature)
    verifying.Config().use_elliptic_key_verifier(public_key=ada.public).verify(copy, bundle)
    words = ["verify", "key", str(copy), "--signature", str(bundle)]
    command = [sys.executable, "-m", "model_signing", *words, "--public_key", str(ada.public)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert parse_signature(signature).key == ada.key


def test_one_made_by_the_stock_library_holds_here(copy, ada):
    bundle = copy.parent / "bundle.json"
    stock.Config().use_elliptic_key_signer(private_key=ada.private).sign(copy, bundle)
    check_signature(copy, bundle.read_bytes(), ada.pem)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_every_curve_of_the_library_can_be_used(copy, tmp_path, curve):
    key = ec.generate_private_key(curve)
    path = tmp_path / "key.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    check_signature(copy, sign(copy, path), public_pem(key.public_key()))


def public_pem(key):
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / WEIGHTS).write_text("firsT"), WEIGHTS),
        (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json"),
        (lambda f: (f / "README.md").unlink(), "README.md"),
        (lambda f: (f / "extra.txt").write_text("x"), "extra.txt"),
        (lambda f: (f / ".gitattributes").write_text("x"), "not over all files"),
        (lambda f: (f / "README.md").rename(f / "readme.md"), "README.md"),
    ],
)
def test_it_does_not_hold_for_other_files(copy, signature, ada, harm, said):
    harm(copy)
    with pytest.raises(SignatureError, match="does not hold") as caught:
        check_signature(copy, signature, ada.pem)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_another_key_is_named(copy, signature, ada, eve):
    with pytest.raises(SignatureError, match=f"by the key {ada.key[:16]}…, not by {eve.key[:16]}"):
        check_signature(copy, signature, eve.pem)


def test_a_hint_that_lies_does_not_help(copy, ada, eve):
    forged = changed(sign(copy, eve.private), hint=ada.key)
    with pytest.raises(SignatureError, match="the key has not signed this"):
        check_signature(copy, forged, ada.pem)


def test_a_payload_that_was_exchanged_does_not_help(copy, signature, ada, eve):
    (copy / WEIGHTS).write_text("other")
    fresh = sign(copy, eve.private)
    forged = changed(signature, payload=payload(fresh))
    with pytest.raises(SignatureError, match="the key has not signed this"):
        check_signature(copy, forged, ada.pem)


@pytest.mark.parametrize("left_out", [WEIGHTS, "manifest.json"])
def test_one_that_leaves_out_a_file_is_none(copy, ada, left_out):
    bundle = copy.parent / "bundle.json"
    config = stock.Config().use_elliptic_key_signer(private_key=ada.private)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[left_out]))
    config.sign(copy, bundle)
    (copy / left_out).write_text("anything")
    # the stock library takes the signature's word for what it covers
    verifying.Config().use_elliptic_key_verifier(public_key=ada.public).verify(copy, bundle)
    with pytest.raises(SignatureError, match="not over all files"):
        check_signature(copy, bundle.read_bytes(), ada.pem)


def test_no_flipped_bit_makes_another_signature(copy, signature, ada):
    def meant(content):
        bundle = json.loads(content)
        envelope = bundle["dsseEnvelope"]
        key = bundle["verificationMaterial"]["publicKey"]["hint"]
        return key, envelope["payload"], envelope["signatures"][0]["sig"]

    accepted = 0
    for offset in range(0, len(signature), 5):
        flipped = bytearray(signature)
        flipped[offset] ^= 1 << offset % 7
        try:
            check_signature(copy, bytes(flipped), ada.pem)
        except SignatureError:
            continue
        accepted += 1
        assert meant(flipped) == meant(signature), offset
    # what is left can only be the name of a part that says nothing, such as keyid
    assert accepted <= 3


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b["dsseEnvelope"].update(signatures=[]),
        lambda b: b["dsseEnvelope"].update(signatures=None),
        lambda b: b["dsseEnvelope"].update(payload="!!!"),
        lambda b: b["dsseEnvelope"].update(payload=7),
        lambda b: b.update(mediaType="text/plain"),
        lambda b: b.update(dsseEnvelope={}),
        lambda b: b.update(dsse_envelope=b["dsseEnvelope"]),
        lambda b: b["verificationMaterial"].update(tlogEntries=[{"logIndex": "x"}]),
        lambda b: b["verificationMaterial"].update(certificate={"rawBytes": "AAAA"}),
    ],
)
def test_a_bundle_of_another_shape_is_one_clear_error(copy, signature, ada, change):
    bundle = json.loads(signature)
    change(bundle)
    with pytest.raises(SignatureError):
        check_signature(copy, json.dumps(bundle).encode(), ada.pem)


# --- keys ---


def test_a_private_key_is_for_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        make_key_pair(tmp_path / "private.pem", tmp_path / "public.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private.pem").stat().st_mode) == 0o600
    assert b"PRIVATE" not in (tmp_path / "public.pem").read_bytes()


@pytest.mark.parametrize("held", ["private.pem", "public.pem"])
def test_keys_are_not_overwritten_and_no_half_pair_is_left(tmp_path, held):
    (tmp_path / held).write_text("precious")
    with pytest.raises(SignatureError, match="exists"):
        make_key_pair(tmp_path / "private.pem", tmp_path / "public.pem")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [held]
    assert (tmp_path / held).read_text() == "precious"


def test_an_encrypted_key_needs_its_password(copy, tmp_path):
    pair = key_pair(tmp_path, "locked", "open sesame ü")
    assert b"ENCRYPTED" in pair.private.read_bytes()
    check_signature(copy, sign(copy, pair.private, "open sesame ü"), pair.pem)
    with pytest.raises(SignatureError, match=r"is encrypted.*ADAPTERHUB_KEY_PASSWORD"):
        sign(copy, pair.private)
    with pytest.raises(SignatureError, match="its password right"):
        sign(copy, pair.private, "wrong")


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate,
        lambda: ec.generate_private_key(ec.SECP256K1()),
    ],
)
def test_keys_of_another_kind_are_refused(copy, tmp_path, make):
    key = make()
    with pytest.raises(SignatureError, match="no key that signatures are made with"):
        key_id(public_pem(key.public_key()))
    path = tmp_path / "key.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(SignatureError, match="cannot be used to sign"):
        sign(copy, path)


def test_files_that_hold_no_key_are_refused(copy, tmp_path, ada):
    path = tmp_path / "key.pem"
    with pytest.raises(SignatureError, match="cannot be read: No such file"):
        sign(copy, path)
    path.write_text("no key")
    with pytest.raises(SignatureError, match="cannot be used to sign"):
        sign(copy, path)
    with pytest.raises(SignatureError, match="is no public key"):
        key_id(b"no key")
    with pytest.raises(SignatureError, match="is a private key"):
        key_id(ada.private.read_bytes())
    path.write_bytes(b"x" * 20_000)
    with pytest.raises(SignatureError, match="too large"):
        sign(copy, path)


def test_a_key_that_others_can_read_is_warned_of(copy, tmp_path, caplog):
    pair = key_pair(tmp_path, "open")
    sign(copy, pair.private)
    assert caplog.text == ""
    pair.private.chmod(0o644)
    sign(copy, pair.private)
    assert "chmod 600" in caplog.text


def test_the_id_does_not_depend_on_how_the_key_is_written(ada):
    assert key_id(b"a comment\n" + ada.pem.replace(b"\n", b"\r\n")) == ada.key


# --- how signatures are kept ---


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
        (b"", "is no signature"),
        (b"\x00\xff", "is no signature"),
        (b"[]", "is no signature"),
        (b"{}", "mediaType"),
        (b'{"mediaType": "x", "mediaType": "y"}', "a key occurs twice"),
        (b"{" * 50_000, "is no signature"),
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
        with pytest.raises(SignatureError, match="does not hold"):
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
    (stored,) = registry.signed_by(version)
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
    registry.require_signed(True)
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
        for table in ("signatures", "trusted_keys", "settings"):
            db.execute(f"DROP TABLE {table}")
        db.execute("PRAGMA user_version = 2")
    Database(path).prepare(SCHEMA_CHANGES[:2])
    upgraded = Registry(tmp_path / "home")
    assert upgraded.resolve("topics") == version
    assert not upgraded.requires_signed()
    upgraded.add_signature("topics", signature)
    assert len(upgraded.signatures(version)) == 1


# --- the policy ---


def test_unsigned_is_loaded_until_the_rule_is_on(registry, version, signature, ada):
    assert trusted_folder(registry, version) == registry.materialize(version)
    registry.require_signed(True)
    with pytest.raises(SignatureError, match=r"is not signed.*adapterhub sign topics@1"):
        trusted_folder(registry, version)
    registry.add_signature("topics", signature)
    with pytest.raises(SignatureError, match=f"no trusted key, only by {ada.key[:16]}"):
        trusted_folder(registry, version)
    registry.trust("ada", ada.pem)
    assert trusted_folder(registry, version) == registry.materialize(version)
    registry.distrust("ada")
    with pytest.raises(SignatureError, match="no trusted key"):
        trusted_folder(registry, version)
    registry.require_signed(False)
    assert trusted_folder(registry, version) == registry.materialize(version)


def test_a_wrong_signature_that_came_before_its_key_does_not_count(registry, artifact, ada, eve):
    version = registry.put(artifact("first"), "topics")
    other = put_signed(registry, artifact("second"), ada, "other")
    (elsewhere,) = registry.signatures(other)
    registry.add_signature("topics", elsewhere.content)
    registry.trust("ada", ada.pem)
    registry.require_signed(True)
    with pytest.raises(SignatureError, match="the signature by ada does not hold"):
        trusted_folder(registry, version)
    # one that holds is enough
    registry.trust("eve", eve.pem)
    registry.add_signature("topics", sign(registry.materialize(version), eve.private))
    assert trusted_folder(registry, version)


@pytest.mark.parametrize(
    ("value", "required"),
    [("1", True), ("true", True), ("yes", True), ("nonsense", True), ("0", False), ("off", False)],
)
def test_the_environment_switches_it_on(registry, version, monkeypatch, value, required):
    monkeypatch.setenv("ADAPTERHUB_REQUIRE_SIGNED", value)
    assert registry.requires_signed() is required
    if required:
        with pytest.raises(SignatureError, match="unset ADAPTERHUB_REQUIRE_SIGNED"):
            trusted_folder(registry, version)
    registry.require_signed(True)
    assert registry.requires_signed()


def test_nothing_unsigned_passes_where_adapters_are_loaded(registry, version, signature, ada):
    registry.require_signed(True)
    with pytest.raises(SignatureError, match="is not signed"):
        open_adapter(registry, "topics")
    verdict = promote(registry, "topics", "prod")
    assert (verdict.passed, verdict.move) == (False, None)
    assert "is not signed" in verdict.checks[0].found
    registry.add_signature("topics", signature)
    registry.trust("ada", ada.pem)
    # past the rule, the next check finds that these weights are made up
    with pytest.raises(ArtifactError, match=WEIGHTS):
        open_adapter(registry, "topics")
    assert WEIGHTS in promote(registry, "topics", "prod").checks[0].found


def test_no_module_reads_an_artifact_past_the_rule():
    root = Path(adapterhub.__file__).parent
    past = re.compile(r"read_artifact\([^)]*materialize")
    assert [path for path in root.rglob("*.py") if past.search(path.read_text())] == []


@pytest.mark.parametrize("package", ["model_signing", "cryptography"])
def test_without_the_extra_nothing_passes_silently(registry, artifact, ada, monkeypatch, package):
    version = put_signed(registry, artifact(), ada)
    registry.trust("ada", ada.pem)
    registry.require_signed(True)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"adapterhub\[sign\]"):
        trusted_folder(registry, version)


# --- trusted keys ---


def test_a_name_means_one_key_and_a_key_has_one_name(registry, ada, eve):
    assert registry.trust("ada", ada.pem) == registry.trust("ada", ada.pem)
    with pytest.raises(RegistryError, match="the name of another key"):
        registry.trust("ada", eve.pem)
    with pytest.raises(RegistryError, match="trusted already, as ada"):
        registry.trust("lovelace", ada.pem)
    with pytest.raises(RefError, match="no name of a key"):
        registry.trust("../x\n", eve.pem)
    with pytest.raises(SignatureError, match="is a private key"):
        registry.trust("eve", eve.private.read_bytes())
    with pytest.raises(NotFoundError, match="Did you mean 'ada'"):
        registry.distrust("adda")
    assert [key.name for key in registry.trusted_keys()] == ["ada"]


# --- the command line ---


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def secrets_of(path):
    lines = path.read_text().splitlines()
    return [line.encode() for line in lines if line and "-----" not in line]


@pytest.mark.parametrize("password", ["", "correct horse"])
def test_from_a_new_key_to_a_signed_adapter(
    command, home, registry, version, monkeypatch, password
):
    if password:
        monkeypatch.setenv("ADAPTERHUB_KEY_PASSWORD", password)
    told = [command("trust", "new", "ada", "--private", "ada.key", "--public", "ada.pem")]
    assert stat.S_IMODE(Path("ada.key").stat().st_mode) == 0o600
    assert ("not encrypted" in told[0].stdout) is not bool(password)
    told += [command("trust", "require", "on"), command("predict", "topics", "text")]
    assert told[-1].exit_code == 9
    assert b"is not signed" in told[-1].stderr_bytes
    assert command("verify", "topics").exit_code == 9
    told += [command("sign", "topics", "--key", "ada.key")]
    assert "signed topics@1" in told[-1].stdout
    told += [command("verify", "topics", "--key", "ada.pem"), command("verify", "topics")]
    assert all("whole; signed by ada" in result.stdout for result in told[-2:])
    told += [command("verify"), command("trust", "list"), command("trust", "list", "--json")]
    assert "1 versions, all whole" in told[-3].stdout
    listed = json.loads(told[-1].stdout)
    assert (listed["require"], [key["name"] for key in listed["keys"]]) == (True, ["ada"])
    told += [command("trust", "require", "off"), command("trust", "rm", "ada")]
    assert "no trusted key" in command("verify", "topics").stdout
    # the private key is in its file and nowhere else
    stored = b"".join(p.read_bytes() for p in (home / "home").rglob("*") if p.is_file())
    shown = b"".join(r.stdout.encode() + (r.stderr_bytes or b"") for r in told)
    for secret in [*secrets_of(Path("ada.key")), *filter(None, [password.encode()])]:
        assert secret not in stored
        assert secret not in shown


def test_programs_get_one_document(command, home, registry, version, ada, eve):
    def document(*words):
        result = command(*words, "--json")
        assert result.exit_code == 0
        return json.loads(result.stdout)

    made = document("trust", "new", "new", "--private", "n.key", "--public", "n.pem")
    assert (made["name"], made["private"], made["public"]) == ("new", "n.key", "n.pem")
    assert document("trust", "add", "ada", str(ada.public))["key"] == ada.key
    signed = document("sign", "topics", "--key", str(ada.private))
    assert signed == {"ref": "topics@1", "digest": version.digest, "key": ada.key}
    expected = {"ref": "topics@1", "digest": version.digest}
    assert document("verify", "topics") == {
        **expected,
        "signed_by": [{"name": "ada", "key": ada.key}],
    }
    checked = document("verify", "topics", "--key", str(ada.public))
    assert checked["signed_by"] == [{"name": str(ada.public), "key": ada.key}]
    assert document("verify") == []
    assert document("trust", "require", "on") == {"require": True}
    assert document("trust", "require", "off") == {"require": False}
    assert document("trust", "rm", "ada")["key"] == ada.key
    refused = command("verify", "topics", "--key", str(eve.public), "--json")
    assert (refused.exit_code, refused.stdout) == (9, "")


def test_faults_of_signing_say_what_to_do(command, home, registry, version, ada, eve, tmp_path):
    key_pair(tmp_path, "locked", "password")
    command("trust", "add", "ada", str(ada.public))
    for words, code, said in (
        (("verify", "topics", "--key", str(ada.public)), 9, b"has no signature by the key"),
        (("verify", "topics", "--key", "absent.pem"), 9, b"cannot be read"),
        (("sign", "topics", "--key", str(ada.public)), 9, b"cannot be used to sign"),
        (("sign", "topics", "--key", "locked.pem"), 9, b"Set ADAPTERHUB_KEY_PASSWORD"),
        (("sign", "absent", "--key", str(ada.private)), 4, b"no adapter of this name"),
        (("trust", "add", "eve", str(eve.private)), 9, b"is a private key"),
        (("trust", "add", "no name", str(eve.public)), 2, b"no name of a key"),
        (("trust", "rm", "eve"), 4, b"no trusted key has this name"),
        (("trust", "new", "ada", "--private", "a", "--public", "b"), 1, b"name of another key"),
        (("trust", "new", "x", "--private", str(ada.private), "--public", "b"), 9, b"exists"),
    ):
        result = command(*words)
        assert said in result.stderr_bytes, words
        assert result.exit_code == code, words
    assert not Path("a").exists()
    assert not Path("b").exists()
    assert command("verify", "--key", str(ada.public)).exit_code == 2
    assert command("trust", "require", "maybe").exit_code == 2


def test_damage_of_a_signed_version_is_damage_first(command, home, registry, artifact, ada):
    version = put_signed(registry, artifact(), ada)
    folder = registry.materialize(version)
    (folder / WEIGHTS).chmod(0o644)
    (folder / WEIGHTS).write_text("firsT")
    result = command("verify", "topics", "--key", str(ada.public))
    assert result.exit_code == 5
    assert WEIGHTS.encode() in result.stderr_bytes


@pytest.mark.parametrize("by", ["registry", "environment"])
def test_the_quick_start_is_refused_before_it_trains(command, tmp_path, monkeypatch, by):
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("adapterhub.cli.quickstart.load_backbone", None)
    folder = tmp_path / "earlier"
    folder.mkdir()
    (folder / "kept.txt").write_text("precious")
    if by == "registry":
        Registry().require_signed(True)
    else:
        monkeypatch.setenv("ADAPTERHUB_REQUIRE_SIGNED", "1")
    refused = command("quickstart", "--folder", str(folder))
    off = {"registry": b"adapterhub trust require off", "environment": b"unset ADAPTERHUB_REQUIRE"}
    assert (refused.exit_code, off[by] in refused.stderr_bytes) == (9, True)
    assert b"only signed adapters are loaded" in refused.stderr_bytes
    assert [path.name for path in folder.iterdir()] == ["kept.txt"]


def test_signatures_of_an_artifact_are_told_with_their_size(registry, version, signature):
    assert registry.signatures_of(version.digest) == ()
    registry.add_signature(version.ref, signature)
    (stored,) = registry.signatures_of(version.digest)
    assert (stored.sha256, stored.size) == (sha256(signature).hexdigest(), len(signature))
    assert registry.signed_by(version) == (stored,)
    assert registry.signatures_of("sha256:" + "0" * 64) == ()
