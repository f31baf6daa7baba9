"""The policy that only adapters signed by a trusted key are loaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from adapterhub.errors import IntegrityError, SignatureError
from adapterhub.registry.signatures import REQUIRE_VARIABLE, required_by_environment
from adapterhub.registry.sigstore import check_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import TypeAlias

    from adapterhub.registry.registry import Registry
    from adapterhub.registry.signatures import TrustedKey
    from adapterhub.registry.sigstore import Signature
    from adapterhub.registry.version import Version

    #: Reads a signature; raises ``IntegrityError`` or ``SignatureError`` if it cannot be read.
    ReadSignature: TypeAlias = Callable[[], Signature]


def trusted_folder(registry: Registry, version: Version) -> Path:
    """Return the read-only folder of a version that may be loaded.

    Everything that loads an adapter gets its files here. If the registry or the environment
    requires signatures, a valid one by a trusted key must cover the files of the folder.

    Raises:
        NotFoundError: When the version was removed and its files were collected.
        IntegrityError: Naming a damaged file.
        SignatureError: When a signature is required and no valid one by a trusted key exists.
        MissingExtraError: When a signature has to be verified, without the extra ``sign``.
    """
    folder = registry.materialize(version)
    if registry.requires_signed():
        require_signature(registry, version, folder)
    return folder


def require_unsigned_loads(registry: Registry, place: str) -> None:
    """Check that adapters may be loaded before they could be signed.

    Raises:
        SignatureError: When only signed adapters are loaded.
    """
    if registry.requires_signed():
        raise SignatureError(
            "uses the adapters that it trains, and only signed adapters are loaded",
            place=place,
            hint=f"Switch the policy off with: {_how_to_switch_off()}; or train, sign and predict "
            "in separate commands",
        )


def require_signature(registry: Registry, version: Version, folder: Path) -> TrustedKey:
    """Return the first trusted key with a valid signature over the folder of a version.

    Raises:
        SignatureError: Saying why there is none, and what to do.
        MissingExtraError: When a signature has to be verified, without the extra ``sign``.
    """
    signatures = {
        stored.key: partial(registry.signature, version, stored.key)
        for stored in registry.stored_signatures(version.digest)
    }
    signer, problem = trusted_signer(folder, signatures, registry.trusted_keys())
    if signer is not None:
        return signer
    raise SignatureError(
        problem,
        place=str(version.ref),
        hint=f"Sign it with: adapterhub sign {version.ref} --key FILE; trust a signer with: "
        f"adapterhub trust add NAME FILE; or switch the policy off with: {_how_to_switch_off()}",
    )


def trusted_signer(
    folder: Path, signatures: Mapping[str, ReadSignature], keys: Iterable[TrustedKey]
) -> tuple[TrustedKey | None, str]:
    """Return the first trusted key with a valid signature over a folder, or why there is none.

    Args:
        folder: Artifact folder without any other files.
        signatures: Id of the key that a signature claims, and the function that reads it.
        keys: Trusted keys.

    Raises:
        MissingExtraError: When a signature has to be verified, without the extra ``sign``.
    """
    faults = []
    for trusted in keys:
        if trusted.key in signatures:
            fault = _fault(folder, signatures[trusted.key], trusted)
            if fault is None:
                return trusted, ""
            faults.append(f"the signature by {trusted.name} {fault}")
    if faults:
        return None, "; ".join(faults)
    if signatures:
        claimed = ", ".join(f"{key[:16]}…" for key in signatures)
        return None, f"is signed by no trusted key, only by {claimed}"
    return None, "is not signed, and only signed adapters are loaded"


def signature_fault(
    registry: Registry, version: Version, folder: Path, trusted: TrustedKey
) -> str | None:
    """Return why the stored signature by a key is invalid for a folder, or ``None``.

    Raises:
        MissingExtraError: Without the extra ``sign``.
    """
    return _fault(folder, partial(registry.signature, version, trusted.key), trusted)


def _fault(folder: Path, read: ReadSignature, trusted: TrustedKey) -> str | None:
    try:
        check_signature(folder, read().content, trusted.pem.encode())
    except (SignatureError, IntegrityError) as error:
        return error.problem
    return None


def _how_to_switch_off() -> str:
    if required_by_environment():
        return f"unset {REQUIRE_VARIABLE}"
    return "adapterhub trust require off"
