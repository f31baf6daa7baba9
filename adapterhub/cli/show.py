"""``show``: all that is known of one version, and what is not."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import megabytes, output, print_json, share, table
from adapterhub.cli.registry import version_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.table import Table

    from adapterhub.adapters.manifest import Manifest
    from adapterhub.registry.rules import StoredEvaluation
    from adapterhub.registry.version import Version

#: Most labels that are named.
SHOWN_LABELS = 12


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(show)


def show(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@3, NAME@latest or NAME@sha256:…")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show what is known of one adapter."""
    from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
    from adapterhub.registry.registry import Registry

    registry = Registry()
    version = registry.resolve(ref)
    folder = registry.materialize(version)
    manifest = Manifest.from_json((folder / MANIFEST_NAME).read_bytes())
    evaluations = registry.evaluations(version)
    signed_by = [stored.key for stored in registry.signed_by(version)]
    if as_json:
        print_json(
            {
                **version_document(version),
                "recipe": manifest.recipe,
                "folder": str(folder),
                "unknown": list(manifest.unknown),
                "evaluations": [asdict(each) for each in evaluations],
                "signed_by": signed_by,
            }
        )
        return
    console = output()
    console.print(_facts(version, manifest, folder, signed_by))
    if manifest.metrics.after:
        console.print()
        console.print(_metrics(manifest))
    if evaluations:
        console.print()
        console.print(_evaluations(evaluations))


def _facts(version: Version, manifest: Manifest, folder: Path, signed_by: Sequence[str]) -> Table:
    facts = table("", "")
    facts.show_header = False
    for name, value in (
        *_what_it_is(version, manifest),
        ("aliases", ", ".join(version.aliases)),
        ("tags", ", ".join(version.tags)),
        ("signed by", ", ".join(f"{key[:16]}…" for key in signed_by)),
        ("parent", manifest.parent or ""),
        ("found by", _study(version.info)),
        ("pulled from", _origin(version.info)),
        ("not recorded", ", ".join(manifest.unknown)),
        ("created", version.created),
        ("size", megabytes(version.size)),
        ("folder", str(folder)),
    ):
        if value:
            facts.add_row(name, value)
    return facts


def _what_it_is(version: Version, manifest: Manifest) -> Iterator[tuple[str, str]]:
    labels, more = manifest.labels[:SHOWN_LABELS], len(manifest.labels) > SHOWN_LABELS
    trained = manifest.trained_parameters / manifest.backbone_parameters
    yield "adapter", f"{version.ref}  {version.digest}"
    yield "task", manifest.task
    yield "labels", ", ".join(labels) + (" …" if more else "")
    yield "backbone", f"{manifest.backbone.name}  {manifest.backbone.fingerprint}"
    yield "quantization", str(manifest.quantization)
    yield "method", str(manifest.adapter)
    yield "trained", f"{manifest.trained_parameters} parameters, {share(trained)} of the backbone"
    yield "data", ", ".join(f"{k}: {v.origin}, {v.rows} rows" for k, v in manifest.data.items())
    yield "libraries", ", ".join(f"{k} {v}" for k, v in manifest.libraries.items())


def _origin(info: Any) -> str:
    """Return where a version was pulled from, as the pull noted it."""
    hub = info.get("hub")
    if not isinstance(hub, dict):
        return ""
    return f"hf://{hub.get('repository')}@{hub.get('revision')} of {hub.get('endpoint')}"


def _study(info: Any) -> str:
    """Return which study a version is the best trial of, as the sweep noted it."""
    study = info.get("study")
    if not isinstance(study, dict):
        return ""
    return f"study {study.get('name')}, trial {study.get('trial')} of {study.get('trials')}"


def _metrics(manifest: Manifest) -> Table:
    rows = table("metric (validation)", ">before", ">after")
    for name, after in manifest.metrics.after.items():
        before = manifest.metrics.before.get(name)
        rows.add_row(name, "" if before is None else f"{before:.4f}", f"{after:.4f}")
    return rows


def _evaluations(evaluations: Sequence[StoredEvaluation]) -> Table:
    rows = table("evaluated on", "metrics", "when", "by")
    for each in evaluations:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in each.metrics.items())
        rows.add_row(each.data, metrics, each.time[:16].replace("T", " "), each.who)
    return rows
