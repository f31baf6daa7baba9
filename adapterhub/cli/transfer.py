"""Commands ``push``, ``pull`` and ``import-peft``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import hush_libraries, megabytes, output, print_json, table

if TYPE_CHECKING:
    from adapterhub.hub.client.pushing import PushPlan
    from adapterhub.hub.import_peft import ImportOptions

Json = Annotated[bool, typer.Option("--json")]
Address = Annotated[str, typer.Argument(help="hf://owner/repository")]
BackboneOption = Annotated[
    str | None,
    typer.Option(help="Where the adapter does not name it: of the catalog, a Hub id, a folder."),
]
Quantization = Annotated[
    str, typer.Option(help="nf4, fp4, int8 or none: how the backbone's weights are held.")
]
Task = Annotated[str | None, typer.Option(help="Where peft's task type does not tell it.")]
Labels = Annotated[
    str | None, typer.Option(help="With commas between, in the order of the head's outputs.")
]


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(push)
    app.command()(pull)
    app.command("import-peft")(import_peft)


def push(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@3, NAME@prod or NAME@sha256:…")],
    address: Address,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repository.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="v3 for version 3 where not given.")] = None,
    message: Annotated[str, typer.Option(help="Title of the commit.")] = "",
    dry_run: Annotated[bool, typer.Option(help="Show what would be sent; send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Publish a version on a Hub: one commit, its card, and a tag."""
    hush_libraries()
    from adapterhub.hub.client import pushing
    from adapterhub.hub.client.address import parse_address
    from adapterhub.registry.registry import Registry

    registry = Registry()
    where = parse_address(address)
    plan = pushing.plan_push(registry, ref, where, private=private, tag=tag)
    if not as_json:
        _show_plan(plan)
    commit = None if dry_run else pushing.push(registry, plan, message=message)
    if as_json:
        print_json(_plan_document(plan, commit))
    elif dry_run:
        output().print("nothing was sent (--dry-run)")
    else:
        output().print(f"{plan.version.ref} is {where} at {plan.tag} (commit {str(commit)[:12]})")
        output().print(f"others: adapterhub pull {where}@{plan.tag}")


def pull(
    address: Annotated[str, typer.Argument(help="hf://owner/repository, or with @revision")],
    name: Annotated[
        str | None, typer.Option(help="In the registry; owner/repository where not given.")
    ] = None,
    backbone: BackboneOption = None,
    quantization: Quantization = "nf4",
    task: Task = None,
    labels: Labels = None,
    force: Annotated[
        bool, typer.Option(help="Take it although its backbone is another one here.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring an adapter of a Hub into the registry; also one that plain peft published."""
    hush_libraries()
    from adapterhub.hub.client import pulling
    from adapterhub.hub.client.address import parse_address
    from adapterhub.registry.registry import Registry

    pulled = pulling.pull(
        Registry(),
        parse_address(address),
        name=name,
        options=_import_options(backbone, quantization, task, labels),
        force=force,
    )
    version = pulled.version
    if as_json:
        print_json({**asdict(pulled), "ref": str(version.ref)})
        return
    known = "" if pulled.new else ", which was here before"
    output().print(f"{version.ref}  {version.digest[:19]}…  {megabytes(version.size)}{known}")
    for key in pulled.signatures:
        output().print(f"signed by the key {key[:16]}")
    _say_unknown(pulled.unknown)


def import_peft(
    folder: Annotated[Path, typer.Argument(help="Where peft saved the adapter.")],
    name: Annotated[str, typer.Option(help="In the registry.")],
    backbone: BackboneOption = None,
    quantization: Quantization = "nf4",
    task: Task = None,
    labels: Labels = None,
    as_json: Json = False,
) -> None:
    """Register an adapter that peft saved in a folder."""
    hush_libraries()
    from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
    from adapterhub.hub.import_peft import import_peft as write_artifact
    from adapterhub.refs import check_name
    from adapterhub.registry.registry import Registry

    check_name(name)
    registry = Registry()
    with registry.staging() as staging:
        target = staging / "imported"
        write_artifact(
            folder,
            target,
            name=name,
            origin=folder.name,
            options=_import_options(backbone, quantization, task, labels),
        )
        version = registry.put(target, name)
        unknown = Manifest.from_json((target / MANIFEST_NAME).read_bytes()).unknown
    if as_json:
        print_json({**asdict(version), "ref": str(version.ref), "unknown": unknown})
        return
    output().print(f"{version.ref}  {version.digest[:19]}…  {megabytes(version.size)}")
    _say_unknown(unknown)


def _import_options(
    backbone: str | None, quantization: str, task: str | None, labels: str | None
) -> ImportOptions:
    from typing import get_args

    from adapterhub.hub.import_peft import ImportOptions
    from adapterhub.specs import QuantizationScheme, QuantizationSpec

    if quantization not in get_args(QuantizationScheme):
        known = ", ".join(get_args(QuantizationScheme))
        raise typer.BadParameter(f"{quantization!r} is not one of {known}")
    scheme: Any = quantization
    names = tuple(name.strip() for name in labels.split(",")) if labels else ()
    return ImportOptions(backbone, QuantizationSpec(scheme), task, names)


def _say_unknown(unknown: tuple[str, ...]) -> None:
    if unknown:
        output().print(f"trained elsewhere; not recorded: {', '.join(unknown)}")


def _show_plan(plan: PushPlan) -> None:
    console = output()
    if plan.create:
        console.print(f"new {'private' if plan.private else 'public'} repository {plan.address}")
    if plan.done:
        console.print("all of it is there already")
        return
    rows = table("", "file", ">size")
    for name, size in plan.send:
        rows.add_row("send", name, megabytes(size))
    for name in plan.keep:
        rows.add_row("there already", name, "")
    for name in plan.delete:
        rows.add_row("delete", name, "")
    console.print(rows)


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
