"""``backbones``: list, fetch and show."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from adapterhub.cli.console import megabytes, output, print_json, silence_libraries, table
from adapterhub.cli.options import Device, Json


def list_backbones(as_json: Json = False) -> None:
    """List the backbones of the catalog."""
    from adapterhub.backbones.catalog import load_catalog

    entries = load_catalog().values()
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    shown = table("name", "kind", "Hub", "license", "description")
    for entry in entries:
        shown.add_row(entry.name, entry.kind, entry.hub_id, entry.license, entry.description)
    output().print(shown)


def fetch_backbones(
    names: Annotated[list[str], typer.Argument(help="Catalog names or Hub ids.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")] = None,
) -> None:
    """Download backbones into the cache and convert them."""
    silence_libraries()
    from adapterhub.backbones.sources import fetch_backbone

    for name in names:
        output().print(f"{name}: {fetch_backbone(name, revision=revision)}")


def show_backbone(
    name: Annotated[str, typer.Argument(help="Catalog name, Hub id or local folder.")],
    quantization: Annotated[
        Literal["nf4", "fp4", "int8", "none"], typer.Option(help="Storage of the linear layers.")
    ] = "nf4",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Show a backbone and the forward paths that it takes."""
    silence_libraries()
    from adapterhub.backbones.backbone import choose_device, load_backbone
    from adapterhub.backbones.forward_paths import forward_paths
    from adapterhub.backbones.quantize import default_compute_dtype
    from adapterhub.specs import QuantizationSpec

    spec = QuantizationSpec(quantization, default_compute_dtype(choose_device(device)))
    backbone = load_backbone(name, spec, revision=revision, device=device)
    paths = forward_paths(backbone)
    if as_json:
        facts: dict[str, Any] = {
            "name": backbone.name,
            "kind": backbone.kind,
            "folder": str(backbone.path),
        }
        facts |= {"fingerprint": backbone.fingerprint, "license": backbone.license}
        sizes = {"parameters": backbone.parameters, "memory_bytes": backbone.memory_bytes}
        print_json({**facts, **sizes, "forward_paths": asdict(paths)})
        return
    shown = table("", "")
    shown.show_header = False
    for title, value in (
        ("backbone", f"{backbone.name}  {backbone.fingerprint}"),
        ("kind", backbone.kind),
        ("architecture", backbone.config.model_type),
        ("license", backbone.license or ""),
        ("parameters", f"{backbone.parameters:,}"),
        ("memory", megabytes(backbone.memory_bytes)),
        ("quantization", str(backbone.quantization)),
        ("forward path", paths.summary),
        ("batches", paths.batches),
        ("folder", str(backbone.path)),
    ):
        if value:
            shown.add_row(title, value)
    output().print(shown)
