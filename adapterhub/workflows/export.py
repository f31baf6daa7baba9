"""Export an adapter, or its merged model, for another system."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact_folder import require_free
from adapterhub.backbones.plain_model import load_plain_model
from adapterhub.errors import ArtifactError
from adapterhub.integrations.llama_cpp import (
    check_generates,
    write_gguf_adapter,
    write_gguf_model,
)
from adapterhub.integrations.mlflow_models import check_loggable, log_adapter, log_model
from adapterhub.integrations.ollama import MODELFILE, write_modelfile
from adapterhub.integrations.onnx import MODEL as ONNX_MODEL
from adapterhub.integrations.onnx import check_exportable, write_onnx
from adapterhub.workflows.merge import copy_tokenizer, describe_change, open_to_export

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.registry.registry import Registry
    from adapterhub.workflows.merge import OpenedAdapter

BASE, ADAPTER, MODEL = "base.gguf", "adapter.gguf", "model.gguf"


@dataclass(frozen=True, slots=True)
class Exported:
    """A file or folder for another system.

    Args:
        ref: Reference of the exported version.
        digest: Its digest.
        format: Format of the export.
        path: File or folder.
        merged: Whether it is the whole model with the adapter in its weights.
        size: Size in bytes.
        note: What to know of it, as a sentence.
    """

    ref: str
    digest: str
    format: str
    path: Path
    merged: bool
    size: int
    note: str


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A model in MLflow.

    Args:
        ref: Reference of the version.
        digest: Its digest, which the registered version has as a tag.
        model_uri: Address of the model.
        name: Name of the registered model.
        version: Number of the registered version.
        merged: Whether it is the whole model with the adapter in its weights.
        note: What to know of it, as a sentence.
    """

    ref: str
    digest: str
    model_uri: str
    name: str
    version: str
    merged: bool
    note: str


def log_to_mlflow(registry: Registry, ref: str, *, merged: bool = False) -> LoggedModel:
    """Log an adapter as a model of MLflow and register it, at ``MLFLOW_TRACKING_URI``.

    Text generation is logged as an adapter of peft beside the folder of its backbone, other tasks
    as a merged model.

    Args:
        registry: Registry of the adapter.
        ref: Reference of the adapter.
        merged: Whether to merge text generation too.

    Raises:
        NotFoundError: If there is no such version.
        ArtifactError: If it can't be merged, or MLflow can't log it.
        MissingExtraError: Without mlflow.
    """
    opened = open_to_export(registry, ref)
    head, backbone = opened.task.head, opened.backbone
    own = str(opened.version.ref)
    check_loggable(head, own)
    whole = merged or head != "causal_lm"
    named: dict[str, Any] = {
        "head": head,
        "name": opened.version.name.replace("/", "-"),
        "ref": own,
    }
    if whole:
        address, number = log_model(
            opened.merged(), backbone.preprocessor, digest=opened.version.digest, **named
        )
    else:
        base, _ = load_plain_model(backbone.path, head, ())
        address, number = log_adapter(
            opened.artifact, base, backbone.preprocessor, backbone=backbone.path, **named
        )
    return LoggedModel(
        ref=own,
        digest=opened.version.digest,
        model_uri=address,
        name=named["name"],
        version=number,
        merged=whole,
        note=describe_change(backbone, "float32" if whole else "its own type"),
    )


def export_adapter(
    registry: Registry,
    ref: str,
    path: Path | None = None,
    *,
    format: str,
    suffix: str = "",
    merged: bool = False,
    force: bool = False,
) -> Exported:
    """Export an adapter for llama.cpp, Ollama or ONNX Runtime.

    Args:
        registry: Registry of the adapter.
        ref: Reference of the adapter.
        path: File or folder to write; name and version by default.
        format: ``gguf``, ``ollama`` or ``onnx``.
        suffix: Suffix of the default path.
        merged: Whether to write the whole model with the adapter merged in.
        force: Replace the file or folder.

    Raises:
        NotFoundError: If there is no such version.
        ArtifactError: If the other system can't compute the adapter, or the path exists.
    """
    version = registry.resolve(ref)
    target = path or Path(f"{version.name}-{version.version}{suffix}")
    _require_free(target, force=force)
    opened = open_to_export(registry, ref)
    write, dtype = _WRITERS[format]
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".export-") as work:
        made = Path(work) / target.name
        measured = write(opened, made, merged)
        _replace(made, target)
    return Exported(
        ref=str(version.ref),
        digest=version.digest,
        format=format,
        path=target,
        merged=merged or format == "onnx",
        size=_size(target),
        note=" ".join(filter(None, (describe_change(opened.backbone, dtype), measured))),
    )


def _write_gguf(opened: OpenedAdapter, path: Path, merged: bool) -> str:
    check_generates(opened.task.head, opened.artifact.manifest.task, str(opened.version.ref))
    if merged:
        return _write_model(opened, opened.merged(), path)
    config: Any = opened.backbone.config
    write_gguf_adapter(
        path,
        opened.artifact,
        config,
        name=str(opened.version.ref),
        tied=bool(getattr(config, "tie_word_embeddings", False)),
    )
    return ""


def _write_ollama(opened: OpenedAdapter, folder: Path, merged: bool) -> str:
    check_generates(opened.task.head, opened.artifact.manifest.task, str(opened.version.ref))
    generation = opened.task.generation
    if generation is None:
        raise ArtifactError("generates no text", place=str(opened.version.ref))
    folder.mkdir()
    write_modelfile(
        folder,
        base=MODEL if merged else BASE,
        adapter=None if merged else ADAPTER,
        tokenizer=opened.backbone.tokenizer,
        generation=generation,
        place=str(opened.version.ref),
    )
    if merged:
        return _write_gguf(opened, folder / MODEL, merged)
    # the adapter first: it may be refused, and the base takes longer
    _write_gguf(opened, folder / ADAPTER, merged)
    base: Any = load_plain_model(opened.backbone.path, opened.task.head, ())[0]
    return _write_model(opened, base.float(), folder / BASE)


def _write_model(opened: OpenedAdapter, model: Any, path: Path) -> str:
    backbone = opened.backbone
    write_gguf_model(path, model, backbone.tokenizer, backbone.path, name=str(opened.version.ref))
    return ""


def _write_onnx(opened: OpenedAdapter, folder: Path, _merged: bool) -> str:
    place = str(opened.version.ref)
    check_exportable(opened.backbone, place)
    folder.mkdir()
    difference = write_onnx(folder, opened.merged(), opened.backbone, place)
    copy_tokenizer(opened.backbone.path, folder)
    return f"ONNX Runtime's outputs differ from transformers' by at most {difference:.1e}."


#: Format to what writes it, and the type of the weights that it is used with.
_WRITERS: dict[str, tuple[Callable[[OpenedAdapter, Path, bool], str], str]] = {
    "gguf": (_write_gguf, "float16"),
    "ollama": (_write_ollama, "float16"),
    "onnx": (_write_onnx, "float32"),
}


def _require_free(path: Path, *, force: bool) -> None:
    """Require a path that can be written; ``force`` replaces a file or an earlier export.

    Raises:
        ArtifactError: If something is there that may not be replaced.
    """
    if path.is_file() and not force:
        raise ArtifactError("exists already", place=str(path), hint="Overwrite it with --force")
    if path.is_dir() and not (
        force and any((path / name).is_file() for name in (MODELFILE, ONNX_MODEL))
    ):
        require_free(path)


def _replace(made: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    made.replace(target)


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files)
