"""``sign``, ``verify`` and ``trust``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import output, print_json, table
from adapterhub.errors import RegistryError, SignatureError

if TYPE_CHECKING:
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.trust import TrustedKey
    from adapterhub.registry.version import Version

Json = Annotated[bool, typer.Option("--json")]


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(sign)
    app.command()(verify)
    trust = typer.Typer(help="Whose signatures count.", no_args_is_help=True)
    trust.command("new")(new_key)
    trust.command("add")(add_key)
    trust.command("list")(list_keys)
    trust.command("rm")(remove_key)
    trust.command("require")(require)
    app.add_typer(trust, name="trust")


def sign(
    ref: Annotated[str, typer.Argument(help="A version.")],
    key: Annotated[Path, typer.Option("--key", help="File with the private key, PEM.")],
    as_json: Json = False,
) -> None:
    """Sign all files of a version; the signature is kept beside it and travels with it.

    The password of an encrypted key is asked for, or taken from ADAPTERHUB_KEY_PASSWORD.
    """
    from adapterhub.registry import signing
    from adapterhub.registry.registry import Registry

    registry = Registry()
    version = registry.resolve(ref)
    password = _password(key) if signing.needs_password(key) else None
    content = signing.sign(registry.materialize(version), key, password)
    made = registry.add_signature(version.ref, content)
    if as_json:
        print_json({"ref": str(version.ref), "digest": version.digest, "key": made.key})
    else:
        output().print(f"signed {version.ref} ({version.digest[:19]}…) by the key {made.key[:16]}…")


def verify(
    ref: Annotated[str | None, typer.Argument(help="A version; everything if none.")] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="A public key, PEM, that must have signed it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every stored byte and report what is damaged; or check one version and who signed it."""
    from adapterhub.registry.registry import Registry

    registry = Registry()
    if ref is not None:
        _verify_one(registry, registry.resolve(ref), key, as_json=as_json)
        return
    if key is not None:
        raise typer.BadParameter("--key needs the version whose signature is checked")
    problems = registry.verify()
    if as_json:
        print_json([asdict(problem) for problem in problems])
        raise typer.Exit(5 if problems else 0)
    for problem in problems:
        output().print(str(problem))
    if problems:
        raise typer.Exit(5)
    output().print(f"{len(registry.list())} versions, all whole")


def new_key(
    name: Annotated[str, typer.Argument(help="To call the key by here.")],
    private: Annotated[Path, typer.Option("--private", help="Where the private key goes.")],
    public: Annotated[Path, typer.Option("--public", help="Where the public key goes.")],
    as_json: Json = False,
) -> None:
    """Make a key pair and trust it; the private key is written to its file and nowhere else.

    It is encrypted with the password that is asked for, or with ADAPTERHUB_KEY_PASSWORD.
    """
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.signing import make_key_pair, read_key_file
    from adapterhub.registry.trust import check_key_name

    registry = Registry()
    check_key_name(name)
    if any(held.name == name for held in registry.trusted_keys()):
        raise RegistryError("is the name of another key", place=name, hint="Choose another name")
    password = _new_password()
    make_key_pair(private, public, password)
    added = registry.trust(name, read_key_file(public))
    if as_json:
        print_json({**_document(added), "private": str(private), "public": str(public)})
        return
    kept = "encrypted" if password else "not encrypted"
    output().print(f"trusts {name}, {added.key[:16]}…; public key in {public}")
    output().print(f"private key in {private}, {kept}, for you alone")


def add_key(
    name: Annotated[str, typer.Argument(help="To call the key by here.")],
    public: Annotated[Path, typer.Argument(help="File with the public key, PEM.")],
    as_json: Json = False,
) -> None:
    """Let the signatures by a key count."""
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.signing import read_key_file

    added = Registry().trust(name, read_key_file(public))
    if as_json:
        print_json(_document(added))
    else:
        output().print(f"trusts {added.name}, {added.key[:16]}…")


def list_keys(as_json: Json = False) -> None:
    """List the trusted keys, and say whether unsigned adapters are loaded."""
    from adapterhub.registry.registry import Registry

    registry = Registry()
    keys, required = registry.trusted_keys(), registry.requires_signed()
    if as_json:
        print_json({"require": required, "keys": [_document(key) for key in keys]})
        return
    if keys:
        rows = table("name", "key", "added")
        for key in keys:
            rows.add_row(key.name, key.key, key.added[:16].replace("T", " "))
        output().print(rows)
    else:
        output().print("no key is trusted; add one with: adapterhub trust add NAME FILE")
    output().print(_rule(required))


def remove_key(
    name: Annotated[str, typer.Argument(help="Of a trusted key.")], as_json: Json = False
) -> None:
    """Trust a key no longer; its signatures are kept and no longer count."""
    from adapterhub.registry.registry import Registry

    removed = Registry().distrust(name)
    if as_json:
        print_json(_document(removed))
    else:
        output().print(f"trusts {name} no longer")


def require(
    switch: Annotated[str, typer.Argument(help="on or off", metavar="on|off")],
    as_json: Json = False,
) -> None:
    """Switch on or off that adapters are loaded only if a trusted key has signed them."""
    from adapterhub.registry.registry import Registry

    if switch not in ("on", "off"):
        raise typer.BadParameter(f"{switch!r} is neither on nor off")
    registry = Registry()
    registry.set_requires_signed(switch == "on")
    required = registry.requires_signed()
    if as_json:
        print_json({"require": required})
    else:
        output().print(_rule(required))


def _verify_one(registry: Registry, version: Version, key: Path | None, *, as_json: bool) -> None:
    """Check a version's bytes, then the signature by one key, or those by all trusted keys."""
    from adapterhub.registry.policy import require_signature, signature_fault
    from adapterhub.registry.signing import check_signature, key_id, read_key_file

    folder = registry.materialize(version)
    signers: list[tuple[str, str]] = []
    if key is not None:
        pem = read_key_file(key)
        signature = registry.signature(version, key_id(pem))
        check_signature(folder, signature.content, pem)
        signers.append((str(key), signature.key))
    else:
        by = {stored.key for stored in registry.signed_by(version)}
        for trusted in (held for held in registry.trusted_keys() if held.key in by):
            fault = signature_fault(registry, version, folder, trusted)
            if fault is not None:
                raise SignatureError(f"by {trusted.name}: {fault}", place=str(version.ref))
            signers.append((trusted.name, trusted.key))
        if registry.requires_signed():
            require_signature(registry, version, folder)
    if as_json:
        signed_by = [{"name": name, "key": each} for name, each in signers]
        print_json({"ref": str(version.ref), "digest": version.digest, "signed_by": signed_by})
        return
    listed = ", ".join(f"{name} ({each[:16]}…)" for name, each in signers)
    output().print(f"{version.ref}: whole; signed by {listed or 'no trusted key'}")


def _password(key: Path) -> str:
    from adapterhub.registry.signing import PASSWORD_VARIABLE

    given = os.environ.get(PASSWORD_VARIABLE)
    if given:
        return given
    if not sys.stdin.isatty():
        raise SignatureError(
            "is encrypted", place=str(key), hint=f"Set {PASSWORD_VARIABLE} to its password"
        )
    return str(typer.prompt(f"password of {key}", hide_input=True, err=True))


def _new_password() -> str | None:
    from adapterhub.registry.signing import PASSWORD_VARIABLE

    given = os.environ.get(PASSWORD_VARIABLE)
    if given or not sys.stdin.isatty():
        return given or None
    asked = typer.prompt(
        "password for the new key (empty for none)",
        default="",
        show_default=False,
        hide_input=True,
        confirmation_prompt=True,
        err=True,
    )
    return str(asked) or None


def _rule(required: bool) -> str:
    if required:
        return "adapters are loaded only if a trusted key has signed them"
    return "unsigned adapters are loaded too"


def _document(key: TrustedKey) -> dict[str, Any]:
    return asdict(key)
