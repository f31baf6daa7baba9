"""The policy that only adapters signed by a trusted key are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.errors import IntegrityError, SignatureError
from adapterhub.registry.signatures import REQUIRE_VARIABLE, required_by_environment
from adapterhub.registry.sigstore import check_signature

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.registry.registry import Registry
    from adapterhub.registry.signatures import TrustedKey
    from adapterhub.registry.version import Version


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
    signers = {stored.key for stored in registry.stored_signatures(version.digest)}
    faults = []
    for trusted in registry.trusted_keys():
        if trusted.key in signers:
            fault = signature_fault(registry, version, folder, trusted)
            if fault is None:
                return trusted
            faults.append(f"the signature by {trusted.name} {fault}")
    if faults:
        problem = "; ".join(faults)
    elif signers:
        keys = ", ".join(f"{key[:16]}…" for key in signers)
        problem = f"is signed by no trusted key, only by {keys}"
    else:
        problem = "is not signed, and only signed adapters are loaded"
    raise SignatureError(
        problem,
        place=str(version.ref),
        hint=f"Sign it with: adapterhub sign {version.ref} --key FILE; trust a signer with: "
        f"adapterhub trust add NAME FILE; or switch the policy off with: {_how_to_switch_off()}",
    )


def signature_fault(
    registry: Registry, version: Version, folder: Path, trusted: TrustedKey
) -> str | None:
    """Return why the stored signature by a key is invalid for a folder, or ``None``.

    Raises:
        MissingExtraError: Without the extra ``sign``.
    """
    try:
        signature = registry.signature(version, trusted.key)
        check_signature(folder, signature.content, trusted.pem.encode())
    except (SignatureError, IntegrityError) as error:
        return error.problem
    return None


def _how_to_switch_off() -> str:
    if required_by_environment():
        return f"unset {REQUIRE_VARIABLE}"
    return "adapterhub trust require off"
