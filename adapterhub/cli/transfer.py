"""``push``, ``pull``, ``import-peft`` and ``import``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import (
    megabytes,
    output,
    print_json,
    short_digest,
    silence_libraries,
    table,
    version_document,
)
from adapterhub.cli.options import PIPE, Force, Json, Ref, open_registry

if TYPE_CHECKING:
    from adapterhub.adapters.manifest import Conversion
    from adapterhub.hub.client.pushing import PushPlan
    from adapterhub.hub.import_peft import ImportOptions
    from adapterhub.registry import Registry
    from adapterhub.registry.version import Version

STDIN = "standard input"

BackboneOption = Annotated[str | None, typer.Option(help="Backbone, where the adapter names none.")]
Quantization = Annotated[
    str, typer.Option(help="Quantization of the backbone: nf4, fp4, int8 or none.")
]
Task = Annotated[str | None, typer.Option(help="Task, where peft's task type is ambiguous.")]
Labels = Annotated[
    str | None, typer.Option(help="Comma-separated labels, in the order of the head's outputs.")
]
MaxError = Annotated[float, typer.Option(help="Largest relative error of a conversion to LoRA.")]
MaxRank = Annotated[int, typer.Option(help="Largest rank of a conversion to LoRA.")]
Name = Annotated[str | None, typer.Option(help="Name in the registry; its own by default.")]


def push(
    ref: Ref,
    address: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name")],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Visibility of a new repository.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Tag of the commit; v3 for version 3.")] = None,
    commit_message: Annotated[str, typer.Option(help="Title of the commit.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the upload without sending it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a version to the Hugging Face Hub."""
    silence_libraries()
    from adapterhub.hub.client import pushing
    from adapterhub.hub.client.address import parse_repo_id

    registry = open_registry()
    where = parse_repo_id(address)
    plan = pushing.plan_push(registry, ref, where, private=private, tag=tag)
    if not as_json:
        _show_plan(plan)
    commit = None if dry_run else pushing.push(registry, plan, message=commit_message)
    if as_json:
        print_json(_plan_document(plan, commit))
    elif dry_run:
        output().print("nothing was sent (--dry-run)")
    else:
        output().print(
            f"pushed {plan.version.ref} to {where}@{plan.tag} (commit {str(commit)[:12]})"
        )
        output().print(f"download: adapterhub pull {where}@{plan.tag}")


def clean(ref: Ref, as_json: Json = False) -> None:
    """Remove local paths from a version, as its next version."""
    silence_libraries()
    from adapterhub.workflows.clean import clean as store_clean

    registry = open_registry()
    given, version = registry.resolve(ref), store_clean(registry, ref)
    if as_json:
        print_json(version_document(version))
    elif version.digest == given.digest:
        output().print(f"{given.ref} has no local paths")
    else:
        output().print(f"stored {given.ref} without local paths as {version.ref}")


def pull(
    address: Annotated[
        str, typer.Argument(metavar="REPO_ID", help="owner/name or owner/name@revision")
    ],
    name: Name = None,
    backbone: BackboneOption = None,
    quantization: Quantization = "nf4",
    task: Task = None,
    labels: Labels = None,
    max_error: MaxError = 0.01,
    max_rank: MaxRank = 256,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Download an adapter from the Hugging Face Hub."""
    silence_libraries()
    from adapterhub.hub.client import pulling
    from adapterhub.hub.client.address import parse_repo_id

    pulled = pulling.pull(
        open_registry(),
        parse_repo_id(address),
        name=name,
        options=_import_options(
            backbone, quantization, task, labels, max_error=max_error, max_rank=max_rank
        ),
        force=force,
    )
    version = pulled.version
    if as_json:
        print_json({**asdict(pulled), "ref": str(version.ref)})
        return
    known = "" if pulled.new else ", already stored"
    output().print(
        f"{version.ref}  {short_digest(version.digest)}  {megabytes(version.size)}{known}"
    )
    for key in pulled.signatures:
        output().print(f"signed by {short_digest(key)}")
    _show_conversion(pulled.conversion)
    _show_unknown(pulled.unknown)


def import_peft(
    folder: Annotated[Path, typer.Argument(help="Folder that peft saved.")],
    name: Annotated[str, typer.Option(help="Name in the registry.")],
    backbone: BackboneOption = None,
    quantization: Quantization = "nf4",
    task: Task = None,
    labels: Labels = None,
    max_error: MaxError = 0.01,
    max_rank: MaxRank = 256,
    as_json: Json = False,
) -> None:
    """Import an adapter that peft saved in a folder."""
    silence_libraries()
    from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
    from adapterhub.hub.import_peft import import_peft as write_artifact
    from adapterhub.refs import check_name

    check_name(name)
    registry = open_registry()
    with registry.staging() as staging:
        target = staging / "imported"
        write_artifact(
            folder,
            target,
            name=name,
            origin=folder.name,
            options=_import_options(
                backbone, quantization, task, labels, max_error=max_error, max_rank=max_rank
            ),
        )
        version = registry.put(target, name)
        manifest = Manifest.from_json((target / MANIFEST_NAME).read_bytes())
    conversion = manifest.conversion
    if as_json:
        facts = {"unknown": manifest.unknown, "conversion": conversion and asdict(conversion)}
        print_json({**version_document(version), **facts})
        return
    output().print(f"{version.ref}  {short_digest(version.digest)}  {megabytes(version.size)}")
    _show_conversion(conversion)
    _show_unknown(manifest.unknown)


def import_file(
    file: Annotated[Path, typer.Argument(help="Exported file, tar or zip; - for a pipe.")],
    name: Name = None,
    backbone: Annotated[
        str | None, typer.Option(help="Folder of the backbone, where it has no name.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Import a version from a file."""
    from adapterhub.registry.archive.intake import import_version, read_export

    registry = open_registry()
    if file == PIPE:
        version = read_export(registry, sys.stdin.buffer, STDIN, name=name)
    else:
        version = import_version(registry, file, name=name)
    if backbone:
        _use_backbone(registry, version, backbone, force=force)
    keys = [stored.key for stored in registry.stored_signatures(version.digest)]
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
    output().print(f"stored as {version.ref} ({short_digest(version.digest)}), {signed}")


def _use_backbone(registry: Registry, version: Version, backbone: str, *, force: bool) -> None:
    from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
    from adapterhub.backbones.resolve import use_backbone

    content = (registry.materialize(version) / MANIFEST_NAME).read_bytes()
    use_backbone(Manifest.from_json(content), backbone, place=str(version.ref), force=force)


def _import_options(
    backbone: str | None,
    quantization: str,
    task: str | None,
    labels: str | None,
    *,
    max_error: float,
    max_rank: int,
) -> ImportOptions:
    from typing import get_args

    from adapterhub.hub.import_peft import ImportOptions
    from adapterhub.specs import QuantizationScheme, QuantizationSpec

    if quantization not in get_args(QuantizationScheme):
        known = ", ".join(get_args(QuantizationScheme))
        raise typer.BadParameter(f"{quantization!r} is not one of {known}")
    scheme: Any = quantization
    names = tuple(name.strip() for name in labels.split(",")) if labels else ()
    return ImportOptions(
        backbone, QuantizationSpec(scheme), task, names, max_error=max_error, max_rank=max_rank
    )


def _show_conversion(conversion: Conversion | None) -> None:
    if conversion is not None:
        output().print(f"converted {conversion}")


def _show_unknown(unknown: tuple[str, ...]) -> None:
    if unknown:
        output().print(f"trained by other tools; not recorded: {', '.join(unknown)}")


def _show_plan(plan: PushPlan) -> None:
    console = output()
    if plan.create:
        console.print(f"new {'private' if plan.private else 'public'} repository {plan.address}")
    if plan.done:
        console.print("the repository is up to date")
        return
    shown = table("", "file", ">size")
    for name, size in plan.send:
        shown.add_row("send", name, megabytes(size))
    for name in plan.keep:
        shown.add_row("keep", name, "")
    for name in plan.delete:
        shown.add_row("delete", name, "")
    console.print(shown)


def _plan_document(plan: PushPlan, commit: str | None) -> dict[str, Any]:
    return {
        "ref": str(plan.version.ref),
        "digest": plan.version.digest,
        "repository": plan.address.repo_id,
        "tag": plan.tag,
        "create": plan.create,
        "private": plan.private,
        "send": dict(plan.send),
        "keep": list(plan.keep),
        "delete": list(plan.delete),
        "commit": commit,
    }
