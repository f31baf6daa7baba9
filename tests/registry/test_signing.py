"""What a signature holds for, and by which keys it can be made."""

import json
import os
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from model_signing import hashing, verifying
from model_signing import signing as stock
from registry_helpers import WEIGHTS
from signature_fixtures import ada, copy, eve, plain_environment, signature, version
from signing_helpers import changed, key_pair, payload
from toy_fixtures import command

from adapterhub.errors import SignatureError
from adapterhub.registry.sigstore import (
    check_signature,
    make_key_pair,
    parse_signature,
    read_public_key,
    sign,
)

__all__ = ["ada", "command", "copy", "eve", "plain_environment", "signature", "version"]


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
        (lambda f: (f / ".gitattributes").write_text("x"), "does not cover exactly"),
        (lambda f: (f / "README.md").rename(f / "readme.md"), "README.md"),
    ],
)
def test_it_does_not_hold_for_other_files(copy, signature, ada, harm, said):
    harm(copy)
    with pytest.raises(SignatureError, match="is invalid") as caught:
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
    with pytest.raises(SignatureError, match="does not cover exactly"):
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
    with pytest.raises(SignatureError, match="and its password"):
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
    with pytest.raises(SignatureError, match="not a supported type of key"):
        read_public_key(public_pem(key.public_key()))
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
    with pytest.raises(SignatureError, match="is not a public key"):
        read_public_key(b"no key")
    with pytest.raises(SignatureError, match="is a private key"):
        read_public_key(ada.private.read_bytes())
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
    assert read_public_key(b"a comment\n" + ada.pem.replace(b"\n", b"\r\n"))[0] == ada.key
