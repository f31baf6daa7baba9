"""Signing the files of an artifact with a key pair, and checking signatures; nothing is fetched.

A signature is what OpenSSF's model-signing makes of a folder with an elliptic key, so its own
``model_signing verify key`` reads it. It does not depend on where the folder lies or on how it
is named.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import stat
import tempfile
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.strict_json import parse_object
from adapterhub.errors import ArtifactError, MissingExtraError, SignatureError
from adapterhub.registry.signature_file import parse_signature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

_LOG = logging.getLogger(__name__)
#: The password of a private key, where nobody can be asked.
PASSWORD_VARIABLE = "ADAPTERHUB_KEY_PASSWORD"
#: Largest file that is read as a key, in bytes.
MAX_KEY = 16 * 1024

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_STATEMENT = "https://model_signing/signature/v1.0"
_ENCRYPTED = (b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")


def make_key_pair(private: Path, public: Path, password: str | None = None) -> None:
    """Write a new key pair in PEM, the private key readable by its owner only.

    Args:
        private: must not exist.
        public: must not exist.
        password: encrypts the private key.

    Raises:
        SignatureError: when a file exists or can't be written; neither is left.
        MissingExtraError: without the extra ``sign``.
    """
    with _library():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    _write_new(public, _public_pem(key.public_key()), 0o644)
    try:
        _write_new(private, secret, 0o600)
    except BaseException:
        public.unlink(missing_ok=True)
        raise


def needs_password(private_key: Path) -> bool:
    """Return whether a private key is encrypted.

    Raises:
        SignatureError: when the file can't be read.
    """
    content = read_key_file(private_key)
    return any(mark in content for mark in _ENCRYPTED)


def sign(folder: Path, private_key: Path, password: str | None = None) -> bytes:
    """Return a signature over all files of a folder.

    Args:
        folder: an artifact's, checked out.
        private_key: file with an elliptic key in PEM.
        password: of the key, where it is encrypted.

    Raises:
        SignatureError: when the key can't be used.
        MissingExtraError: without the extra ``sign``.
    """
    with _library():
        from cryptography.exceptions import UnsupportedAlgorithm
        from model_signing import signing

    encrypted = needs_password(private_key)
    if encrypted and not password:
        raise SignatureError(
            "is encrypted", place=str(private_key), hint=f"Set {PASSWORD_VARIABLE} to its password"
        )
    _warn_if_open(private_key)
    # the library hands the password on as it is, and what is below takes bytes only
    secret: Any = password.encode() if password and encrypted else None
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "signature"
        try:
            config = signing.Config().use_elliptic_key_signer(
                private_key=private_key, password=secret
            )
        except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
            raise SignatureError(
                "cannot be used to sign",
                place=str(private_key),
                hint="It must be an elliptic private key in PEM (P-256, P-384 or P-521), "
                "and its password right",
            ) from error
        config.sign(folder, target)
        return target.read_bytes()


def check_signature(folder: Path, signature: bytes, public_key: bytes) -> None:
    """Require that a signature is by a key and over all files of a folder as they are.

    Args:
        folder: an artifact's, with its files only.
        signature: a Sigstore bundle.
        public_key: in PEM.

    Raises:
        SignatureError: when it is not.
        MissingExtraError: without the extra ``sign``.
    """
    with _library():
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from model_signing import verifying

    key, pem = read_public_key(public_key)
    named = parse_signature(signature).key
    if named != key:
        raise SignatureError(f"is by the key {named[:16]}…, not by {key[:16]}…", place="signature")
    with tempfile.TemporaryDirectory() as name:
        bundle, key_file = Path(name) / "signature", Path(name) / "key"
        bundle.write_bytes(signature)
        key_file.write_bytes(pem)
        try:
            # what a signature claims is not read before the key has vouched for it
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=key_file)
            verifier.verify(folder, bundle)
            _require_all_files(folder, signature)
        except InvalidSignature as error:
            raise _does_not_hold("the key has not signed this", key) from error
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
            OSError,
            ArtifactError,
            UnsupportedAlgorithm,
        ) as error:
            raise _does_not_hold(_one_line(error), key) from error


def key_id(public_key: bytes) -> str:
    """Return how signatures name a public key: the sha256 of its PEM, 64 hex digits.

    Raises:
        SignatureError: when it is no public key that can be used.
        MissingExtraError: without the extra ``sign``.
    """
    return read_public_key(public_key)[0]


def read_public_key(content: bytes, place: str = "public key") -> tuple[str, bytes]:
    """Return the id of a public key and its PEM, as every tool writes it.

    Raises:
        SignatureError: when it is no public key that can be used.
        MissingExtraError: without the extra ``sign``.
    """
    with _library():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

    if b"PRIVATE KEY" in content:
        raise SignatureError(
            "is a private key", place=place, hint="Give the public one, and keep this one to you"
        )
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError("is no public key in PEM", place=place) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise SignatureError(
            "is no key that signatures are made with here",
            place=place,
            hint="Use an elliptic key on P-256, P-384 or P-521; adapterhub trust new makes one",
        )
    pem = _public_pem(key)
    return sha256(pem).hexdigest(), pem


def read_key_file(path: Path) -> bytes:
    """Read a file that holds a key.

    Raises:
        SignatureError: when it can't be read, or is far too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY + 1)
    except OSError as error:
        raise SignatureError(f"cannot be read: {error.strerror}", place=str(path)) from error
    if len(content) > MAX_KEY:
        raise SignatureError("is too large for a key", place=str(path))
    return content


def _require_all_files(folder: Path, signature: bytes) -> None:
    """Require that what the key has signed names every file.

    A signature says itself which files it leaves out; here it may leave out none.
    """
    bundle = parse_object(signature, "signature")
    if bundle.keys() != {"mediaType", "verificationMaterial", "dsseEnvelope"}:
        raise ValueError("it has parts that are not known")
    envelope = bundle["dsseEnvelope"]
    if envelope.keys() != {"payload", "payloadType", "signatures"}:
        raise ValueError("its envelope has parts that are not known")
    statement = json.loads(base64.b64decode(envelope["payload"], validate=True))
    if statement["predicateType"] != _STATEMENT:
        raise ValueError(f"it is not of the kind {_STATEMENT}")
    signed = {resource["name"] for resource in statement["predicate"]["resources"]}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if signed != found:
        raise ValueError(f"it is not over all files: {sorted(signed ^ found)[:3]}")


def _public_pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    except FileExistsError as error:
        raise SignatureError(
            "exists", place=str(path), hint="Keys are not overwritten; choose another file"
        ) from error
    except OSError as error:
        raise SignatureError(f"cannot be written: {error.strerror}", place=str(path)) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            # whatever the umask
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SignatureError(f"cannot be written: {error.strerror}", place=str(path)) from error


def _warn_if_open(private_key: Path) -> None:
    if private_key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        _LOG.warning("%s can be read by others; run: chmod 600 %s", private_key, private_key)


def _does_not_hold(why: str, key: str) -> SignatureError:
    return SignatureError(
        f"does not hold: {why}",
        place=f"signature by {key[:16]}…",
        hint="The files or the signature were changed after signing",
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}…"


@contextmanager
def _library() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(error.name or "model-signing", "sign") from error
