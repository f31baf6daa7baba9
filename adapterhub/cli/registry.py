"""``list``, ``show``, ``diff``, ``tag``, ``rm``, ``gc`` and ``registry rebuild``."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import (
    megabytes,
    minute,
    output,
    percent,
    print_json,
    print_result,
    short_digest,
    table,
    version_document,
)
from adapterhub.cli.options import Json, Ref, open_registry
from adapterhub.errors import RegistryError
from adapterhub.refs import parse_ref
from adapterhub.specs import describe_spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.table import Table

    from adapterhub.adapters.manifest import Manifest
    from adapterhub.registry.aliases import StoredEvaluation
    from adapterhub.registry.version import Version

#: File in the registry's folder once it has been served as a Hub.
HUB_INDEX = "hub.sqlite3"
#: As ``GRACE_SECONDS`` of the registry, whose module is too slow to import for ``--help``.
GRACE_HOURS = 24.0
#: Most changed tensors in ``diff``, and most labels in ``show``.
SHOWN_TENSORS, SHOWN_LABELS = 8, 12


def list_versions(
    prefix: Annotated[str | None, typer.Argument(help="Beginning of the name.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of the adapter.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Backbone of the adapter.")] = None,
    method: Annotated[str | None, typer.Option(help="Adapter type: lora or prefix.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Smallest value of a metric, e.g. accuracy=0.9")
    ] = None,
    tagged: Annotated[str | None, typer.Option("--tag", help="Tag of the version.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias of the version.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Words of name, task, labels or description.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of versions to list.")] = 100,
    after: Annotated[
        str | None, typer.Option(metavar="NAME@N", help="Last version of the previous page.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List stored adapters."""
    from adapterhub.registry.query import Query

    query = Query(
        prefix=prefix,
        task=task,
        backbone=backbone,
        method=method,
        metric_at_least=dict(_bound(each) for each in metric or ()),
        tag=tagged,
        alias=alias,
        text=text,
        limit=limit + 1,
        after=_position(after) if after else None,
    )
    found = open_registry().list(query)
    versions = found[:limit]
    if as_json:
        print_json([version_document(version) for version in versions])
        return
    if not versions:
        filtered = query != Query(limit=limit + 1)
        output().print(
            "no adapter matches all filters"
            if filtered
            else "no adapters; train one with: adapterhub train RECIPE"
        )
        return
    shown = table("adapter", "aliases", "task", "backbone", "metrics", ">size", "created", "tags")
    for version in versions:
        scores = list(version.metrics.get("after", {}).items())
        shown.add_row(
            str(version.ref),
            ", ".join(version.aliases),
            version.task,
            short_digest(version.backbone)
            if version.backbone.startswith("sha256:")
            else version.backbone,
            ", ".join(f"{name} {value:.3f}" for name, value in scores[:3]),
            megabytes(version.size),
            minute(version.created),
            ", ".join(version.tags),
        )
    output().print(shown)
    if len(found) > limit:
        output().print(f"more: --after {versions[-1].ref}")


def show(ref: Ref, as_json: Json = False) -> None:
    """Show the details of an adapter."""
    from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest

    registry = open_registry()
    version = registry.resolve(ref)
    folder = registry.materialize(version)
    manifest = Manifest.from_json((folder / MANIFEST_NAME).read_bytes())
    evaluations = registry.evaluations(version)
    signed_by = [stored.key for stored in registry.stored_signatures(version.digest)]
    if as_json:
        print_json(
            {
                **version_document(version),
                "recipe": manifest.recipe,
                "folder": str(folder),
                "unknown": list(manifest.unknown),
                "conversion": manifest.conversion and asdict(manifest.conversion),
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


def diff(
    first: Ref,
    second: Annotated[str, typer.Argument(metavar="ADAPTER", help="Version to compare with.")],
    as_json: Json = False,
) -> None:
    """Show what changed between two versions."""
    from adapterhub.registry.diff import compare

    registry = open_registry()
    versions = [registry.resolve(ref) for ref in (first, second)]
    old, new = (registry.materialize(version) for version in versions)
    found = compare(old, new)
    if as_json:
        print_json({"from": str(versions[0].ref), "to": str(versions[1].ref), **asdict(found)})
        return
    console = output()
    if versions[0].digest == versions[1].digest:
        console.print("no difference")
        return
    changes = table("what", str(versions[0].ref), str(versions[1].ref))
    for change in found.changes:
        changes.add_row(change.what, _shown(change.old), _shown(change.new))
    console.print(changes)
    tensors = table("tensors", ">count", ">largest relative change")
    for kind, names in (("only in the first", found.missing), ("only in the second", found.added)):
        if names:
            tensors.add_row(kind, str(len(names)), "")
    known = {each.name: each.relative for each in found.tensors if each.relative is not None}
    tensors.add_row("changed", str(len(found.tensors)), f"{max(known.values(), default=0.0):.3f}")
    if zero := len(found.tensors) - len(known):
        tensors.add_row("  of these zero in the first", str(zero), "")
    for (before, after), count in Counter((each.old, each.new) for each in found.reshaped).items():
        tensors.add_row(f"shape {list(before)} to {list(after)}", str(count), "")
    tensors.add_row("equal", str(found.equal), "")
    console.print()
    console.print(tensors, markup=False)
    for name, relative in sorted(known.items(), key=lambda item: -item[1])[:SHOWN_TENSORS]:
        console.print(f"   {relative:8.3f}  {name}")


def tag(
    ref: Ref,
    tags: Annotated[list[str], typer.Argument(help="Tags, e.g. lang:en")],
    remove: Annotated[bool, typer.Option("--remove", help="Remove the tags.")] = False,
    as_json: Json = False,
) -> None:
    """Add tags to a version, or remove them."""
    add, drop = ((), tags) if remove else (tags, ())
    version = open_registry().tag(ref, add=add, remove=drop)
    line = f"{version.ref}: {', '.join(version.tags) or 'no tags'}"
    print_result(version_document(version), line, as_json=as_json)


def rm(
    ref: Ref,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a version of an adapter."""
    registry = open_registry()
    version = registry.resolve(ref)
    if not yes:
        # a prompt would break the JSON document
        if as_json or not sys.stdin.isatty():
            raise RegistryError(
                "nothing was removed", place=str(version.ref), hint="Confirm with --yes"
            )
        typer.confirm(f"Remove {version.ref} ({short_digest(version.digest)})?", abort=True)
    removed = registry.remove(version.ref)
    line = f"removed {version.ref}; its files stay until: adapterhub gc"
    print_result(version_document(removed), line, as_json=as_json)


def gc(
    grace_hours: Annotated[
        float, typer.Option(min=0.0, help="Age below which unused files are kept, in hours.")
    ] = GRACE_HOURS,
    as_json: Json = False,
) -> None:
    """Delete files that no version uses."""
    registry, grace = open_registry(), grace_hours * 3600
    if (registry.folder / HUB_INDEX).exists():
        # repositories pushed to this registry's Hub endpoint have blobs of their own
        from adapterhub.hub.server.store import RepoStore

        freed = registry.collect(grace=grace, in_use=RepoStore().uses_blob)
    else:
        freed = registry.collect(grace=grace)
    print_result({"freed_bytes": freed}, f"freed {megabytes(freed)}", as_json=as_json)


def rebuild_index(as_json: Json = False) -> None:
    """Make a lost or damaged index again."""
    from adapterhub.registry.rebuild import rebuild

    made = rebuild()
    if as_json:
        print_json({**asdict(made), "replaced": made.replaced and str(made.replaced)})
        return
    console = output()
    console.print(f"made the index again: {made.versions} versions, {made.aliases} aliases")
    for said, refs in (
        ("not in the journal, so tagged 'recovered'", made.recovered),
        ("lost, since files are missing or damaged", made.missing),
    ):
        if refs:
            console.print(f"{said}: {', '.join(refs)}")
    if made.damaged_lines:
        console.print(f"{made.damaged_lines} lines of the journal could not be read")
    if made.replaced:
        console.print(f"the former index is kept as {made.replaced}")


def _bound(text: str) -> tuple[str, float]:
    """Read ``accuracy=0.9``."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not of the form accuracy=0.9") from None


def _position(text: str) -> tuple[str, int]:
    ref = parse_ref(text)
    if ref.version is None:
        raise typer.BadParameter(f"{text!r} is not of the form NAME@3")
    return ref.name, ref.version


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)


def _facts(version: Version, manifest: Manifest, folder: Path, signed_by: Sequence[str]) -> Table:
    facts = table("", "")
    facts.show_header = False
    for name, value in (
        *_what_it_is(version, manifest),
        ("aliases", ", ".join(version.aliases)),
        ("tags", ", ".join(version.tags)),
        ("signed by", ", ".join(short_digest(key) for key in signed_by)),
        ("parent", manifest.parent or ""),
        ("converted", str(manifest.conversion or "")),
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
    backbone = manifest.backbone
    named = "" if backbone.name == backbone.fingerprint else f"{backbone.name}  "
    yield "backbone", f"{named}{backbone.fingerprint}"
    yield "quantization", str(manifest.quantization)
    yield "forward path", _paths_of(manifest.backbone.fingerprint)
    yield "method", describe_spec(manifest.adapter)
    yield "trained", f"{manifest.trained_parameters} parameters, {percent(trained)} of the backbone"
    sources = (f"{k}: {v.origin}, {v.num_examples} examples" for k, v in manifest.data.items())
    yield "data", ", ".join(sources)
    yield "libraries", ", ".join(f"{k} {v}" for k, v in manifest.libraries.items())


def _paths_of(fingerprint: str) -> str:
    """Return how the backbone of an adapter runs on this machine, if it was loaded here before."""
    from adapterhub.backbones.path_cache import stored_paths

    return "\n".join(sorted({paths.summary for paths in stored_paths(fingerprint)}))


def _origin(info: Any) -> str:
    """Return the Hub revision that a version was pulled from."""
    hub = info.get("hub")
    if not isinstance(hub, dict):
        return ""
    return f"hf://{hub.get('repository')}@{hub.get('revision')} of {hub.get('endpoint')}"


def _study(info: Any) -> str:
    """Return the sweep that found a version."""
    study = info.get("study")
    if not isinstance(study, dict):
        return ""
    return f"study {study.get('name')}, trial {study.get('trial')} of {study.get('trials')}"


def _metrics(manifest: Manifest) -> Table:
    shown = table("metric (validation)", ">before", ">after")
    for name, after in manifest.metrics.after.items():
        before = manifest.metrics.before.get(name)
        shown.add_row(name, "" if before is None else f"{before:.4f}", f"{after:.4f}")
    return shown


def _evaluations(evaluations: Sequence[StoredEvaluation]) -> Table:
    shown = table("evaluated on", "metrics", "when", "by")
    for each in evaluations:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in each.metrics.items())
        shown.add_row(each.data, metrics, minute(each.time), each.who)
    return shown
