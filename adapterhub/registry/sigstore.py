"""Signatures over artifact folders: format, signing and verification, all offline.

A signature is the Sigstore bundle that OpenSSF's model-signing writes for a folder and an elliptic
key, so ``model_signing verify key`` reads it too. It is independent of the path of the folder.
"""

import base64
import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.strict_json import FOREIGN, Schema, Sha256, parse_object
from adapterhub.errors import ArtifactError, MissingExtraError, SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

_LOG = logging.getLogger(__name__)
#: File name suffix of signatures beside the files of an artifact.
SIGNATURE_SUFFIX = ".sig"
#: Largest size of a signature in bytes; one over ten files has about 4 KB.
MAX_SIGNATURE = 64 * 1024
#: Environment variable with the password of a private key.
PASSWORD_VARIABLE = "ADAPTERHUB_KEY_PASSWORD"
#: Largest size of a key file in bytes.
MAX_KEY = 16 * 1024

_NAME = re.compile(r"[0-9a-f]{16}" + re.escape(SIGNATURE_SUFFIX))
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_STATEMENT = "https://model_signing/signature/v1.0"
_ENCRYPTED = (b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature over all files of an artifact, not yet verified.

    Args:
        key: Id of the public key that it claims, the sha256 of its PEM as 64 hex digits.
        content: Sigstore bundle.
    """

    key: str
    content: bytes


@dataclass(frozen=True, slots=True)
class _PublicKey:
    hint: Sha256


@dataclass(frozen=True, slots=True)
class _Material:
    publicKey: _PublicKey


@dataclass(frozen=True, slots=True)
class _Bundle:
    mediaType: str
    dsseEnvelope: Mapping[str, Any]
    verificationMaterial: _Material

    __pydantic_config__ = FOREIGN


_SCHEMA = Schema(_Bundle)


def signature_name(key: str) -> str:
    """Return the file name of the signature by a key."""
    return key[:16] + SIGNATURE_SUFFIX


def is_signature_name(name: str) -> bool:
    """Return whether a file beside the files of an artifact is a signature by its name."""
    return _NAME.fullmatch(name) is not None


def parse_signature(content: bytes, place: str = "signature") -> Signature:
    """Parse a signature without verifying it.

    Raises:
        SignatureError: When it is too large, malformed, or names no key.
    """
    if len(content) > MAX_SIGNATURE:
        raise SignatureError(f"is larger than {MAX_SIGNATURE} bytes", place=place)
    try:
        bundle = _SCHEMA.read(parse_object(content, place), place)
    except ArtifactError as error:
        raise SignatureError(
            f"is not a signature: {error.problem}",
            place=error.place,
            hint="It must be a Sigstore bundle made with a key pair, such as by adapterhub sign",
        ) from error
    return Signature(bundle.verificationMaterial.publicKey.hint, content)


def make_key_pair(private: Path, public: Path, password: str | None = None) -> None:
    """Create a key pair in PEM files, the private key readable by its owner only.

    Args:
        private: Path of the private key; must not exist.
        public: Path of the public key; must not exist.
        password: Password that encrypts the private key.

    Raises:
        SignatureError: When a file exists or cannot be written; neither is left.
        MissingExtraError: Without the extra ``sign``.
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
        SignatureError: When the file cannot be read.
    """
    content = read_key_file(private_key)
    return any(mark in content for mark in _ENCRYPTED)


def sign(folder: Path, private_key: Path, password: str | None = None) -> bytes:
    """Sign all files of a folder.

    Args:
        folder: Artifact folder.
        private_key: PEM file with an elliptic private key.
        password: Password of the key if it is encrypted.

    Returns:
        The signature, a Sigstore bundle.

    Raises:
        SignatureError: When the key cannot be used.
        MissingExtraError: Without the extra ``sign``.
    """
    with _library():
        from cryptography.exceptions import UnsupportedAlgorithm
        from model_signing import signing

    encrypted = needs_password(private_key)
    if encrypted and not password:
        raise SignatureError(
            "is encrypted", place=str(private_key), hint=f"Set {PASSWORD_VARIABLE} to its password"
        )
    _warn_if_readable(private_key)
    # the library passes the password on unchanged to a function that takes bytes only
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
                hint="Give an elliptic private key in PEM (P-256, P-384 or P-521) and its password",
            ) from error
        config.sign(folder, target)
        return target.read_bytes()


def check_signature(folder: Path, signature: bytes, public_key: bytes) -> None:
    """Verify that a signature is by a key and covers all files of a folder.

    Args:
        folder: Artifact folder without any other files.
        signature: Sigstore bundle.
        public_key: Public key in PEM.

    Raises:
        SignatureError: When the signature is invalid.
        MissingExtraError: Without the extra ``sign``.
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
            # the content of a signature is read only after it was verified
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=key_file)
            verifier.verify(folder, bundle)
            _require_all_files(folder, signature)
        except InvalidSignature as error:
            raise _invalid("the key has not signed this", key) from error
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
            raise _invalid(_one_line(error), key) from error


def read_public_key(content: bytes, place: str = "public key") -> tuple[str, bytes]:
    """Return the id of a public key and its PEM in the canonical form.

    Raises:
        SignatureError: When it is not a supported public key.
        MissingExtraError: Without the extra ``sign``.
    """
    with _library():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

    if b"PRIVATE KEY" in content:
        raise SignatureError(
            "is a private key", place=place, hint="Give the public key; keep this one secret"
        )
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError("is not a public key in PEM", place=place) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise SignatureError(
            "is not a supported type of key",
            place=place,
            hint="Use an elliptic key on P-256, P-384 or P-521; adapterhub trust new creates one",
        )
    pem = _public_pem(key)
    return sha256(pem).hexdigest(), pem


def read_key_file(path: Path) -> bytes:
    """Read a key file.

    Raises:
        SignatureError: When it cannot be read, or is too large.
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
    """Check that a verified signature covers every file.

    A bundle may declare files that it ignores; none are allowed here.
    """
    bundle = parse_object(signature, "signature")
    if bundle.keys() != {"mediaType", "verificationMaterial", "dsseEnvelope"}:
        raise ValueError("it has unknown parts")
    envelope = bundle["dsseEnvelope"]
    if envelope.keys() != {"payload", "payloadType", "signatures"}:
        raise ValueError("its envelope has unknown parts")
    statement = parse_object(base64.b64decode(envelope["payload"], validate=True), "signature")
    if statement["predicateType"] != _STATEMENT:
        raise ValueError(f"its predicate type is not {_STATEMENT}")
    signed = {resource["name"] for resource in statement["predicate"]["resources"]}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if signed != found:
        raise ValueError(f"it does not cover exactly these files: {sorted(signed ^ found)[:3]}")


def _public_pem(key: "EllipticCurvePublicKey") -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    except FileExistsError as error:
        raise SignatureError(
            "exists", place=str(path), hint="Choose another file; keys are not overwritten"
        ) from error
    except OSError as error:
        raise SignatureError(f"cannot be written: {error.strerror}", place=str(path)) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            # independent of the umask
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SignatureError(f"cannot be written: {error.strerror}", place=str(path)) from error


def _warn_if_readable(private_key: Path) -> None:
    if private_key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        _LOG.warning("%s is readable by other users; run: chmod 600 %s", private_key, private_key)


def _invalid(reason: str, key: str) -> SignatureError:
    return SignatureError(
        f"is invalid: {reason}",
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
