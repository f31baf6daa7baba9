"""``list``, ``show``, ``rm`` and ``verify``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import megabytes, output, print_json, share, table
from adapterhub.errors import RegistryError

if TYPE_CHECKING:
    from adapterhub.registry.version import Version


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("list")(list_versions)
    app.command()(show)
    app.command()(rm)
    app.command()(verify)


def list_versions(
    prefix: Annotated[str | None, typer.Argument(help="What the name begins with.")] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Only this backbone.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """List the stored adapters."""
    from adapterhub.registry.registry import Registry

    versions = Registry().list(prefix, task=task, backbone=backbone)
    if as_json:
        print_json([_document(version) for version in versions])
        return
    if not versions:
        output().print("no adapters; train one with: adapterhub train RECIPE")
        return
    rows = table("adapter", "task", "backbone", "method", "metrics", ">size", "created")
    for version in versions:
        after = list(version.metrics.get("after", {}).items())
        rows.add_row(
            str(version.ref),
            version.task,
            version.backbone,
            version.method,
            ", ".join(f"{name} {value:.3f}" for name, value in after[:3]),
            megabytes(version.size),
            version.created[:16].replace("T", " "),
        )
    output().print(rows)


def show(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@3, NAME@latest or NAME@sha256:…")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show what is known of one adapter."""
    from adapterhub.manifest import MANIFEST_NAME, Manifest
    from adapterhub.registry.registry import Registry

    registry = Registry()
    version = registry.resolve(ref)
    folder = registry.materialize(version)
    manifest = Manifest.from_json((folder / MANIFEST_NAME).read_bytes())
    if as_json:
        print_json({**_document(version), "recipe": manifest.recipe, "folder": str(folder)})
        return
    console = output()
    facts = table("", "")
    facts.show_header = False
    trained = manifest.trained_parameters / manifest.backbone_parameters
    for name, value in (
        ("adapter", f"{version.ref}  {version.digest}"),
        ("task", manifest.task),
        ("labels", ", ".join(manifest.labels[:12]) + (" …" if len(manifest.labels) > 12 else "")),
        ("backbone", f"{manifest.backbone.name}  {manifest.backbone.fingerprint}"),
        ("quantization", str(manifest.quantization)),
        ("method", str(manifest.adapter)),
        ("trained", f"{manifest.trained_parameters} parameters, {share(trained)} of the backbone"),
        ("data", ", ".join(f"{k}: {v.origin}, {v.rows} rows" for k, v in manifest.data.items())),
        ("libraries", ", ".join(f"{k} {v}" for k, v in manifest.libraries.items())),
        ("parent", manifest.parent or ""),
        ("created", version.created),
        ("size", megabytes(version.size)),
        ("folder", str(folder)),
    ):
        if value:
            facts.add_row(name, value)
    console.print(facts)
    console.print()
    metrics = table("metric (validation)", ">before", ">after")
    for name, after in manifest.metrics.after.items():
        before = manifest.metrics.before.get(name)
        metrics.add_row(name, "" if before is None else f"{before:.4f}", f"{after:.4f}")
    console.print(metrics)


def rm(
    ref: Annotated[str, typer.Argument(help="NAME@3 or NAME@sha256:…; NAME is its latest.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove one version of an adapter; its number is not given again."""
    from adapterhub.registry.registry import Registry

    registry = Registry()
    version = registry.resolve(ref)
    if not yes:
        if not sys.stdin.isatty():
            raise RegistryError(
                "nothing was removed", place=str(version.ref), hint="Confirm with --yes"
            )
        typer.confirm(f"Remove {version.ref} ({version.digest[:19]}…)?", abort=True)
    registry.remove(version.ref)
    output().print(f"removed {version.ref}")


def verify() -> None:
    """Read every stored byte and report what is damaged."""
    from adapterhub.registry.registry import Registry

    registry = Registry()
    problems = registry.verify()
    for problem in problems:
        output().print(str(problem))
    if problems:
        raise typer.Exit(5)
    output().print(f"{len(registry.list())} versions, all whole")


def _document(version: Version) -> dict[str, Any]:
    return {**asdict(version), "ref": str(version.ref)}
