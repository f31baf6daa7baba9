"""``list``, ``diff``, ``tag``, ``rm`` and ``gc``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import megabytes, output, print_json, table
from adapterhub.errors import RegistryError
from adapterhub.refs import parse_ref

if TYPE_CHECKING:
    from adapterhub.registry.version import Version

#: File of the registry's folder that is there once the registry was served as a Hub.
HUB_INDEX = "hub.sqlite3"
#: Most changed tensors that ``diff`` names.
SHOWN_TENSORS = 8


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("list")(list_versions)
    app.command()(diff)
    app.command()(tag)
    app.command()(rm)
    app.command()(gc)


def list_versions(
    prefix: Annotated[str | None, typer.Argument(help="What the name begins with.")] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Only this backbone.")] = None,
    method: Annotated[str | None, typer.Option(help="lora or prefix.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only where it is at least this: accuracy=0.9")
    ] = None,
    tagged: Annotated[str | None, typer.Option("--tag", help="Only with this tag.")] = None,
    alias: Annotated[str | None, typer.Option(help="Only where this alias points to.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Words of name, task, labels or description.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Versions on a page.")] = 100,
    after: Annotated[
        str | None, typer.Option(help="Begin after NAME@3, the last one of the page before.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """List the stored adapters, a page at a time."""
    from adapterhub.registry.query import Query
    from adapterhub.registry.registry import Registry

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
    found = Registry().list(query)
    versions = found[:limit]
    if as_json:
        print_json([version_document(version) for version in versions])
        return
    if not versions:
        filtered = query != Query(limit=limit + 1)
        output().print(
            "no adapter passes all filters"
            if filtered
            else "no adapters; train one with: adapterhub train RECIPE"
        )
        return
    rows = table("adapter", "aliases", "task", "backbone", "metrics", ">size", "created", "tags")
    for version in versions:
        scores = list(version.metrics.get("after", {}).items())
        rows.add_row(
            str(version.ref),
            ", ".join(version.aliases),
            version.task,
            version.backbone,
            ", ".join(f"{name} {value:.3f}" for name, value in scores[:3]),
            megabytes(version.size),
            version.created[:16].replace("T", " "),
            ", ".join(version.tags),
        )
    output().print(rows)
    if len(found) > limit:
        output().print(f"more: --after {versions[-1].ref}")


def diff(
    first: Annotated[str, typer.Argument(help="A version.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show what differs between two versions: recipe, data, metrics and tensors."""
    from adapterhub.registry.diff import compare
    from adapterhub.registry.registry import Registry

    registry = Registry()
    versions = [registry.resolve(ref) for ref in (first, second)]
    old, new = (registry.materialize(version) for version in versions)
    found = compare(old, new)
    if as_json:
        print_json({"from": str(versions[0].ref), "to": str(versions[1].ref), **asdict(found)})
        return
    console = output()
    if versions[0].digest == versions[1].digest:
        console.print("the same bytes")
        return
    changes = table("what", str(versions[0].ref), str(versions[1].ref))
    for change in found.changes:
        changes.add_row(change.what, _shown(change.old), _shown(change.new))
    console.print(changes)
    tensors = table("tensors", ">count", ">largest relative change")
    for kind, names in (("only in the first", found.missing), ("only in the second", found.added)):
        if names:
            tensors.add_row(kind, str(len(names)), "")
    largest = max((change.relative for change in found.tensors), default=0.0)
    tensors.add_row("changed", str(len(found.tensors)), f"{largest:.3f}")
    tensors.add_row("equal", str(found.equal), "")
    console.print()
    console.print(tensors)
    for each in sorted(found.tensors, key=lambda change: -change.relative)[:SHOWN_TENSORS]:
        console.print(f"   {each.relative:8.3f}  {each.name}")


def tag(
    ref: Annotated[str, typer.Argument(help="A version.")],
    words: Annotated[list[str], typer.Argument(help="Tags to add.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take them away instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Give a version words to find it by."""
    from adapterhub.registry.registry import Registry

    add, drop = ((), words) if remove else (words, ())
    version = Registry().tag(ref, add=add, remove=drop)
    if as_json:
        print_json(version_document(version))
    else:
        output().print(f"{version.ref}: {', '.join(version.tags) or 'no tags'}")


def rm(
    ref: Annotated[str, typer.Argument(help="NAME@3 or NAME@sha256:…; NAME is its latest.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Needs --yes.")] = False,
) -> None:
    """Remove one version of an adapter; its number is not given again."""
    from adapterhub.registry.registry import Registry

    registry = Registry()
    version = registry.resolve(ref)
    if not yes:
        # a question would stand in the way of the document
        if as_json or not sys.stdin.isatty():
            raise RegistryError(
                "nothing was removed", place=str(version.ref), hint="Confirm with --yes"
            )
        typer.confirm(f"Remove {version.ref} ({version.digest[:19]}…)?", abort=True)
    removed = registry.remove(version.ref)
    if as_json:
        print_json(version_document(removed))
        return
    output().print(f"removed {version.ref}; its files stay until: adapterhub gc")


def gc(
    grace_hours: Annotated[
        float | None,
        typer.Option("--grace-hours", min=0.0, help="Spare files used within so many hours."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Delete files that no version has any more."""
    from adapterhub.registry.registry import GRACE_SECONDS, Registry

    grace = GRACE_SECONDS if grace_hours is None else grace_hours * 3600.0
    registry = Registry()
    if (registry.folder / HUB_INDEX).exists():
        # repositories that were pushed to this registry's endpoint hold blobs of their own
        from adapterhub.hub.server.store import RepoStore

        freed = registry.collect(grace=grace, spare=RepoStore().uses_blob)
    else:
        freed = registry.collect(grace=grace)
    if as_json:
        print_json({"freed_bytes": freed})
    else:
        output().print(f"freed {megabytes(freed)}")


def version_document(version: Version) -> dict[str, Any]:
    """Return a version as programs read it."""
    return {**asdict(version), "ref": str(version.ref)}


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
