"""``export`` and ``merge``."""

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
    print_result,
    short_digest,
    silence_libraries,
    table,
)
from adapterhub.cli.options import (
    PIPE,
    Device,
    Fields,
    Force,
    Json,
    Limit,
    Ref,
    check_adapters,
    field_columns,
    open_registry,
)
from adapterhub.errors import RecipeError, RegistryError, did_you_mean

if TYPE_CHECKING:
    from adapterhub.workflows.merge import Merged
    from adapterhub.workflows.merge_check import MergeCheck


#: Format of an export to the suffix of its file; a folder has none.
FORMATS = {"tar": ".tar", "gguf": ".gguf", "ollama": "", "onnx": "", "mlflow": ""}


def export(
    ref: Ref,
    file: Annotated[
        Path | None,
        typer.Argument(help="File or folder; NAME-VERSION by default, - for a pipe."),
    ] = None,
    format: Annotated[
        str, typer.Option(help="tar, or gguf (llama.cpp), ollama, onnx or mlflow.")
    ] = "tar",
    merged: Annotated[
        bool, typer.Option("--merged", help="Write the whole model with the adapter merged in.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: Json = False,
) -> None:
    """Export a version for a registry or another system."""
    if format not in FORMATS:
        raise RecipeError(
            f"there is no format {format!r}", place="--format", hint=did_you_mean(format, FORMATS)
        )
    if merged and format in ("tar", "onnx"):
        raise RecipeError("is an option of gguf, ollama and mlflow", place="--merged")
    if format == "tar":
        _export_tar(ref, file, force=force, as_json=as_json)
        return
    silence_libraries(compiler=False)
    if format == "mlflow":
        _log_to_mlflow(ref, file, merged=merged, as_json=as_json)
        return
    from adapterhub.workflows.export import export_adapter

    found = export_adapter(
        open_registry(),
        ref,
        file,
        format=format,
        suffix=FORMATS[format],
        merged=merged,
        force=force,
    )
    print_result(
        {**asdict(found), "path": str(found.path)},
        f"exported {found.ref} to {found.path}, {megabytes(found.size)}",
        found.note,
        as_json=as_json,
    )


def merge(
    ref: Ref,
    folder: Annotated[Path, typer.Option("--output", help="Folder of the checkpoint.")],
    dtype: Annotated[
        str, typer.Option(help="Type of the weights: bfloat16 or float32.")
    ] = "bfloat16",
    data: Annotated[
        Path | None, typer.Option(help="File of labelled examples to measure the change on.")
    ] = None,
    fields: Fields = None,
    limit: Limit = None,
    as_json: Json = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Merge an adapter into a plain transformers checkpoint."""
    silence_libraries(compiler=False)
    columns = field_columns(fields)
    kept = _dtype(dtype)
    check_adapters(ref, data=data, fields=columns, limit=limit)
    from adapterhub.workflows.merge import merge as write_merged

    found = write_merged(
        open_registry(),
        ref,
        folder,
        dtype=kept,
        data=data,
        fields=columns,
        limit=limit,
        device=device,
        force=force,
    )
    if as_json:
        print_json(_merge_document(found))
    else:
        _show_merged(found)


def _export_tar(ref: str, file: Path | None, *, force: bool, as_json: bool) -> None:
    from adapterhub.registry.archive.export import export_version, write_export

    if file is None:
        version = open_registry().resolve(ref)
        file = Path(f"{version.name}-{version.version}.tar")
    if file == PIPE:
        if as_json:
            raise typer.BadParameter("--json cannot be used with -: both write standard output")
        try:
            write_export(open_registry(), ref, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise RegistryError(
                f"cannot be written: {error.strerror}", place="standard output"
            ) from error
        return
    made = export_version(open_registry(), ref, file, overwrite=force)
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
        f"exported {made.version.ref} ({short_digest(made.version.digest)}) to {file}, "
        f"{megabytes(made.size)}, {len(made.signatures)} signatures"
    )
    output().print(f"sha256 {made.sha256}")


def _log_to_mlflow(ref: str, file: Path | None, *, merged: bool, as_json: bool) -> None:
    if file is not None:
        raise RecipeError(
            "mlflow writes no file; the store is that of MLFLOW_TRACKING_URI", place=str(file)
        )
    from adapterhub.workflows.export import log_to_mlflow

    found = log_to_mlflow(open_registry(), ref, merged=merged)
    print_result(
        asdict(found),
        f"logged {found.ref} as {found.model_uri}, registered as version {found.version} of "
        f"{found.name}",
        found.note,
        as_json=as_json,
    )


def _dtype(name: str) -> Any:
    from typing import get_args

    from adapterhub.specs import ComputeDtype

    if name not in get_args(ComputeDtype):
        raise typer.BadParameter(f"--dtype {name!r} is not one of bfloat16, float32")
    return name


def _merge_document(found: Merged) -> dict[str, Any]:
    return {
        "ref": str(found.version.ref),
        "digest": found.version.digest,
        "folder": str(found.folder),
        "architecture": found.architecture,
        "dtype": found.dtype,
        "size": found.size,
        "change": found.change,
        "check": found.check and asdict(found.check),
    }


def _show_merged(found: Merged) -> None:
    console = output()
    console.print(
        f"merged {found.version.ref} into {found.folder}: {found.architecture}, {found.dtype}, "
        f"{megabytes(found.size)}",
        markup=False,
    )
    console.print(found.change, markup=False)
    if found.check is None:
        console.print("Measure the difference with --data FILE.", markup=False)
    else:
        _show_check(found.check)


def _show_check(check: MergeCheck) -> None:
    console = output()
    if check.kl is not None:
        console.print(
            f"KL divergence {check.kl:.4g} nats per position, the same choice at "
            f"{check.agreement:.2%} of {check.num_positions} positions",
            markup=False,
        )
    shown = table(f"{check.num_examples} examples", ">adapter", ">merged")
    for name, value in check.after.items():
        shown.add_row(name, f"{check.before[name]:.4f}", f"{value:.4f}")
    console.print(shown)
