"""The file of a signature: how it is called, and which key it says it is by.

Reading it checks its form only; ``adapterhub.registry.signing`` checks that it holds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapterhub.adapters.strict_json import FOREIGN, Schema, Sha256, parse_object
from adapterhub.errors import ArtifactError, SignatureError

#: What the name of a signature ends with, beside an artifact's files.
SIGNATURE_SUFFIX = ".sig"
#: Largest signature that is read, in bytes; one of ten files has about 4 KB.
MAX_SIGNATURE = 64 * 1024

_NAME = re.compile(r"[0-9a-f]{16}" + re.escape(SIGNATURE_SUFFIX))


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature over all files of an artifact.

    Args:
        key: sha256 of the public key that it says it is by, 64 hex digits.
        content: its bytes, a Sigstore bundle.
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
    """Return whether a file of this name, beside an artifact's files, is a signature."""
    return _NAME.fullmatch(name) is not None


def parse_signature(content: bytes, place: str = "signature") -> Signature:
    """Read which key a signature names, and refuse what can be no signature.

    Raises:
        SignatureError: when it is too large, no JSON, or names no key.
    """
    if len(content) > MAX_SIGNATURE:
        raise SignatureError(f"is larger than {MAX_SIGNATURE} bytes", place=place)
    try:
        bundle = _SCHEMA.read(parse_object(content, place), place)
    except ArtifactError as error:
        raise SignatureError(
            f"is no signature: {error.problem}",
            place=error.place,
            hint="It must be a Sigstore bundle made with a key pair, as adapterhub sign makes it",
        ) from error
    return Signature(bundle.verificationMaterial.publicKey.hint, content)
