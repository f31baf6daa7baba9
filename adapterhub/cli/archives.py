"""``export`` and ``import``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from adapterhub.cli.console import megabytes, output, print_json
from adapterhub.errors import RegistryError

Json = Annotated[bool, typer.Option("--json")]
#: In place of a file: standard output, or input.
PIPE = Path("-")
STDOUT, STDIN = "standard output", "standard input"


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("export")(export_file)
    app.command("import")(import_file)


def export_file(
    ref: Annotated[str, typer.Argument(help="A version.")],
    file: Annotated[Path, typer.Argument(help="Where to, e.g. topics.tar; - for a pipe.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a version with its signatures and tags into one file, to be moved anywhere."""
    from adapterhub.registry.exporting import export_version, write_export
    from adapterhub.registry.registry import Registry

    if file == PIPE:
        if as_json:
            raise typer.BadParameter("--json and - exclude each other: both are standard output")
        try:
            write_export(Registry(), ref, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise RegistryError(f"cannot be written: {error.strerror}", place=STDOUT) from error
        return
    made = export_version(Registry(), ref, file, overwrite=force)
    if as_json:
        print_json(
            {
                "ref": str(made.version.ref),
                "digest": made.version.digest,
                "signatures": list(made.signatures),
                "file": str(file),
                "size": made.size,
                "sha256": made.sha256,
            }
        )
        return
    output().print(
        f"exported {made.version.ref} ({made.version.digest[:19]}…) to {file}, "
        f"{megabytes(made.size)}, {len(made.signatures)} signatures"
    )
    output().print(f"sha256 {made.sha256}")


def import_file(
    file: Annotated[Path, typer.Argument(help="What export wrote, or a tar or zip; - for a pipe.")],
    name: Annotated[
        str | None, typer.Option("--name", help="To store it under; its own if none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Store the version that a file holds; one that is stored already stays as it is."""
    from adapterhub.registry.importing import import_version, read_export
    from adapterhub.registry.registry import Registry

    registry = Registry()
    if file == PIPE:
        version = read_export(registry, sys.stdin.buffer, STDIN, name=name)
    else:
        version = import_version(registry, file, name=name)
    keys = [stored.key for stored in registry.signed_by(version)]
    if as_json:
        print_json(
            {
                "ref": str(version.ref),
                "digest": version.digest,
                "signatures": keys,
                "tags": list(version.tags),
                "size": version.size,
            }
        )
        return
    signed = f"{len(keys)} signatures" if keys else "not signed"
    output().print(f"stored as {version.ref} ({version.digest[:19]}…), {signed}")
