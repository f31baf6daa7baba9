"""``sign``, ``verify`` and ``trust``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.cli.console import minute, output, print_json, print_result, short_digest, table
from adapterhub.cli.options import Json, Ref, complete_ref, open_registry
from adapterhub.errors import RegistryError, SignatureError

if TYPE_CHECKING:
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version

KeyName = Annotated[str, typer.Argument(help="Name of the key.")]


def sign(
    ref: Ref,
    key: Annotated[
        Path,
        typer.Option(help="Private key (PEM); its password may be in ADAPTERHUB_KEY_PASSWORD."),
    ],
    as_json: Json = False,
) -> None:
    """Sign a version with a private key."""
    from adapterhub.registry import sigstore

    registry = open_registry()
    version = registry.resolve(ref)
    password = _password(key) if sigstore.needs_password(key) else None
    content = sigstore.sign(registry.materialize(version), key, password)
    made = registry.add_signature(version.ref, content)
    document = {"ref": str(version.ref), "digest": version.digest, "key": made.key}
    digest, signer = short_digest(version.digest), short_digest(made.key)
    print_result(document, f"signed {version.ref} ({digest}) with key {signer}", as_json=as_json)


def verify(
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="ADAPTER", help="Version; all by default.", autocompletion=complete_ref
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Required signer's public key (PEM).")] = None,
    as_json: Json = False,
) -> None:
    """Check stored files and signatures."""
    registry = open_registry()
    if ref is not None:
        _verify_one(registry, registry.resolve(ref), key, as_json=as_json)
        return
    if key is not None:
        raise typer.BadParameter("--key needs an ADAPTER")
    problems = registry.verify()
    if as_json:
        print_json([asdict(problem) for problem in problems])
        raise typer.Exit(5 if problems else 0)
    for problem in problems:
        output().print(str(problem))
    if problems:
        raise typer.Exit(5)
    output().print(f"{len(registry.list())} versions, no damage found")


def new_key(
    name: KeyName,
    private: Annotated[
        Path,
        typer.Option(help="File for the private key, encrypted with ADAPTERHUB_KEY_PASSWORD."),
    ],
    public: Annotated[Path, typer.Option(help="File for the public key.")],
    as_json: Json = False,
) -> None:
    """Create a key pair and trust it."""
    from adapterhub.registry.signatures import check_key_name
    from adapterhub.registry.sigstore import make_key_pair, read_key_file

    registry = open_registry()
    check_key_name(name)
    if any(held.name == name for held in registry.trusted_keys()):
        raise RegistryError("is the name of another key", place=name, hint="Choose another name")
    password = _new_password()
    make_key_pair(private, public, password)
    added = registry.trust(name, read_key_file(public))
    kept = "encrypted" if password else "not encrypted"
    print_result(
        {**asdict(added), "private": str(private), "public": str(public)},
        f"trusts {name}, {short_digest(added.key)}; public key in {public}",
        f"private key in {private}, {kept}; keep it secret",
        as_json=as_json,
    )


def add_key(
    name: KeyName,
    public: Annotated[Path, typer.Argument(help="File of the public key (PEM).")],
    as_json: Json = False,
) -> None:
    """Trust signatures by a key."""
    from adapterhub.registry.sigstore import read_key_file

    added = open_registry().trust(name, read_key_file(public))
    line = f"trusts {added.name}, {short_digest(added.key)}"
    print_result(asdict(added), line, as_json=as_json)


def list_keys(as_json: Json = False) -> None:
    """List trusted keys and the rule on unsigned adapters."""
    registry = open_registry()
    keys, required = registry.trusted_keys(), registry.requires_signed()
    if as_json:
        print_json({"require": required, "keys": [asdict(key) for key in keys]})
        return
    if keys:
        shown = table("name", "key", "added")
        for key in keys:
            shown.add_row(key.name, key.key, minute(key.added))
        output().print(shown)
    else:
        output().print("no key is trusted; add one with: adapterhub trust add NAME FILE")
    output().print(_rule(required))


def remove_key(name: KeyName, as_json: Json = False) -> None:
    """Stop trusting a key."""
    removed = open_registry().distrust(name)
    print_result(asdict(removed), f"no longer trusts {name}", as_json=as_json)


def require(
    switch: Annotated[str, typer.Argument(help="Whether to refuse unsigned.", metavar="on|off")],
    as_json: Json = False,
) -> None:
    """Require trusted signatures to load adapters."""
    if switch not in ("on", "off"):
        raise typer.BadParameter(f"{switch!r} is neither on nor off")
    registry = open_registry()
    registry.set_requires_signed(switch == "on")
    required = registry.requires_signed()
    print_result({"require": required}, _rule(required), as_json=as_json)


def _verify_one(registry: Registry, version: Version, key: Path | None, *, as_json: bool) -> None:
    """Check the files of a version, then its signature by one key or by all trusted keys."""
    from adapterhub.registry.policy import require_signature, signature_fault
    from adapterhub.registry.sigstore import check_signature, read_key_file, read_public_key

    folder = registry.materialize(version)
    signers: list[tuple[str, str]] = []
    if key is not None:
        pem = read_key_file(key)
        signature = registry.signature(version, read_public_key(pem)[0])
        check_signature(folder, signature.content, pem)
        signers.append((str(key), signature.key))
    else:
        by = {stored.key for stored in registry.stored_signatures(version.digest)}
        for trusted in (held for held in registry.trusted_keys() if held.key in by):
            fault = signature_fault(registry, version, folder, trusted)
            if fault is not None:
                raise SignatureError(f"by {trusted.name}: {fault}", place=str(version.ref))
            signers.append((trusted.name, trusted.key))
        if registry.requires_signed():
            require_signature(registry, version, folder)
    signed_by = [{"name": name, "key": each} for name, each in signers]
    listed = ", ".join(f"{name} ({short_digest(each)})" for name, each in signers)
    print_result(
        {"ref": str(version.ref), "digest": version.digest, "signed_by": signed_by},
        f"{version.ref}: no damage found; signed by {listed or 'no trusted key'}",
        as_json=as_json,
    )


def _password(key: Path) -> str:
    from adapterhub.registry.sigstore import PASSWORD_VARIABLE

    given = os.environ.get(PASSWORD_VARIABLE)
    if given:
        return given
    if not sys.stdin.isatty():
        raise SignatureError(
            "is encrypted", place=str(key), hint=f"Set {PASSWORD_VARIABLE} to its password"
        )
    return str(typer.prompt(f"password of {key}", hide_input=True, err=True))


def _new_password() -> str | None:
    from adapterhub.registry.sigstore import PASSWORD_VARIABLE

    given = os.environ.get(PASSWORD_VARIABLE)
    if given or not sys.stdin.isatty():
        return given or None
    typed = typer.prompt(
        "password for the new key (empty for none)",
        default="",
        show_default=False,
        hide_input=True,
        confirmation_prompt=True,
        err=True,
    )
    return str(typed) or None


def _rule(required: bool) -> str:
    if required:
        return "adapters load only with a signature by a trusted key"
    return "adapters load without a signature too"
