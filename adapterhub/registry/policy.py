"""What stands between a stored adapter and loading it: whole bytes and, if asked, a signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.errors import IntegrityError, SignatureError
from adapterhub.registry.signing import check_signature
from adapterhub.registry.trust import REQUIRE_VARIABLE, required_by_environment

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.registry.registry import Registry
    from adapterhub.registry.trust import TrustedKey
    from adapterhub.registry.version import Version


def trusted_folder(registry: Registry, version: Version) -> Path:
    """Return the read-only folder of a version that may be loaded.

    Everything that loads an adapter gets its files from here. Where the registry or the
    environment asks for signatures, one by a trusted key must hold over these very files.

    Raises:
        NotFoundError: when the version was removed and its files collected meanwhile.
        IntegrityError: naming the file whose bytes are not those that were stored.
        SignatureError: when a signature is asked for and none by a trusted key holds.
        MissingExtraError: when one has to be checked, without the extra ``sign``.
    """
    folder = registry.materialize(version)
    if registry.requires_signed():
        require_signature(registry, version, folder)
    return folder


def require_unsigned_loads(registry: Registry, place: str) -> None:
    """Require that adapters may be loaded before anybody could sign them.

    Args:
        registry: that would hold them.
        place: what errors call that which makes and loads them.

    Raises:
        SignatureError: when only signed adapters are loaded.
    """
    if registry.requires_signed():
        raise SignatureError(
            "uses the adapters that it trains, and only signed adapters are loaded",
            place=place,
            hint=f"Switch the rule off with: {_off()}; or train, sign and ask by hand",
        )


def require_signature(registry: Registry, version: Version, folder: Path) -> TrustedKey:
    """Return the first trusted key whose signature holds over a version's folder.

    Raises:
        SignatureError: saying why there is none, and what to do.
        MissingExtraError: when one has to be checked, without the extra ``sign``.
    """
    by = {stored.key for stored in registry.signed_by(version)}
    faults = []
    for trusted in registry.trusted_keys():
        if trusted.key in by:
            fault = signature_fault(registry, version, folder, trusted)
            if fault is None:
                return trusted
            faults.append(f"the signature by {trusted.name} {fault}")
    if faults:
        problem = "; ".join(faults)
    elif by:
        problem = f"is signed by no trusted key, only by {', '.join(k[:16] + '…' for k in by)}"
    else:
        problem = "is not signed, and only signed adapters are loaded"
    raise SignatureError(problem, place=str(version.ref), hint=_hint(version))


def signature_fault(
    registry: Registry, version: Version, folder: Path, trusted: TrustedKey
) -> str | None:
    """Return why the stored signature by a key does not hold over a folder, if it does not.

    Raises:
        MissingExtraError: without the extra ``sign``.
    """
    try:
        signature = registry.signature(version, trusted.key)
        check_signature(folder, signature.content, trusted.pem.encode())
    except (SignatureError, IntegrityError) as error:
        return error.problem
    return None


def _off() -> str:
    if required_by_environment():
        return f"unset {REQUIRE_VARIABLE}"
    return "adapterhub trust require off"


def _hint(version: Version) -> str:
    return (
        f"Sign it with: adapterhub sign {version.ref} --key FILE; trust a signer with: "
        f"adapterhub trust add NAME FILE; or switch the rule off with: {_off()}"
    )
