"""``manifest.json``: what an adapter is, what it was trained on, and the digest of each file.

The bytes are canonical and hold no time or duration, so that the same training run gives the
same bytes, and a digest over them names the whole artifact.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from adapterhub.adapters import strict_json as strict
from adapterhub.adapters.migrations import MANIFEST_MIGRATIONS, upgrade
from adapterhub.errors import ArtifactError
from adapterhub.specs import (
    AdapterSpec,
    ComputeDtype,
    LoraSpec,
    PrefixSpec,
    QuantizationScheme,
    QuantizationSpec,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = len(MANIFEST_MIGRATIONS) + 1
#: Suffixes under which Python pickles travel; they can run code when read.
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneRef:
    """The backbone that an adapter was trained on.

    Args:
        name: name in the catalog, or the one given in the recipe.
        fingerprint: digest over configuration, tokenizer and weights, with the quantization.
        hub_id: ``owner/name`` on the Hub, where known.
        revision: commit or tag on the Hub, where known.
    """

    name: str
    fingerprint: str
    hub_id: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """The rows of one split.

    Args:
        fingerprint: digest over the rows as used.
        rows: number of rows.
        origin: file name or ``hub:owner/name`` for a data set of the Hub.
    """

    fingerprint: str
    rows: int
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Metric name to value on the validation split, without and with the adapter."""

    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the artifact.

    Args:
        sha256: of its bytes, in lower-case hex.
        size: in bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything known about an adapter but its tensors.

    Args:
        task: name of the task, e.g. ``text-classification``.
        labels: in the order of the head's outputs; empty where there is no head.
        backbone: what it was trained on.
        quantization: how that backbone's weights were held in training.
        adapter: method and hyper-parameters.
        trained_parameters: number of parameters that were trained, heads included.
        backbone_parameters: number of parameters of the frozen backbone.
        recipe: the recipe with every default filled in, as plain JSON.
        data: split name to its rows.
        metrics: on the validation split.
        seed: of the training run; ``None`` where it is not known.
        libraries: package name to version.
        parent: digest of the adapter that this one was made from, or ``None``.
        unknown: keys of this document that nobody recorded, sorted; of an adapter that was
            trained elsewhere. What they hold then is empty, or what was assumed.
        files: name to digest and size; filled in when the artifact is written.
        schema_version: of this document.
    """

    task: str
    labels: tuple[str, ...]
    backbone: BackboneRef
    quantization: QuantizationSpec
    adapter: AdapterSpec
    trained_parameters: int
    backbone_parameters: int
    recipe: Mapping[str, Any]
    data: Mapping[str, DataSource]
    metrics: Metrics
    seed: int | None
    libraries: Mapping[str, str]
    parent: str | None = None
    unknown: tuple[str, ...] = ()
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Read a manifest of this schema or an older one.

        Raises:
            ArtifactError: naming the key that is unknown, missing or of a wrong type.
        """
        stored = strict.parse_object(content, MANIFEST_NAME)
        return _MANIFEST(upgrade(stored, MANIFEST_MIGRATIONS, place=MANIFEST_NAME), MANIFEST_NAME)

    def to_json(self) -> bytes:
        """Return the canonical bytes: sorted keys, two spaces, one newline at the end.

        Raises:
            ArtifactError: naming the value that a manifest can't hold.
        """
        read = Manifest.from_json(_dump(self))
        if read != self:
            raise ArtifactError(
                "holds values that JSON does not keep (tuples, keys that are not text)",
                place=MANIFEST_NAME,
            )
        return _dump(read)


def check_file_name(name: str, place: str) -> None:
    """Refuse names that leave the artifact's folder, and pickles.

    Raises:
        ArtifactError: saying what is wrong with ``name``.
    """
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
        raise ArtifactError(
            f"{name!r} cannot be a file of an artifact",
            place=place,
            hint="Files lie in the folder itself; names have letters, digits, '.', '_' and '-'",
        )
    reject_pickle(name, place)


def reject_pickle(name: str, place: str) -> None:
    """Refuse the names under which pickles travel.

    Raises:
        ArtifactError: saying what to do instead.
    """
    if _suffix(name) in PICKLE_SUFFIXES:
        raise ArtifactError(
            f"{name!r} is a pickle, which can run code when it is read",
            place=place,
            hint="Convert its tensors with safetensors.torch.save_file and remove it",
        )


def _dump(manifest: Manifest) -> bytes:
    document = asdict(manifest)
    document["adapter"] = {"method": manifest.adapter.method, "spec": asdict(manifest.adapter)}
    try:
        text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode("utf-8")
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"cannot be written: {error}", place=MANIFEST_NAME) from error


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def _labels(value: Any, place: str) -> tuple[str, ...]:
    labels = strict.texts(value, place)
    if len(set(labels)) != len(labels):
        raise ArtifactError("has the same label twice", place=place)
    return labels


def _files(value: Any, place: str) -> dict[str, FileEntry]:
    for name in strict.mapping(value, place):
        check_file_name(name, place)
    files: dict[str, FileEntry] = strict.map_of(_FILE)(value, place)
    return files


def _adapter(value: Any, place: str) -> AdapterSpec:
    method = strict.mapping(value, place).get("method")
    spec = _SPECS.get(str(method), strict.mapping)
    readers = {"method": strict.one_of(tuple(_SPECS)), "spec": spec}
    envelope: dict[str, Any] = strict.record(dict, readers)(value, place)
    found: AdapterSpec = envelope["spec"]
    return found


_LORA = strict.record(
    LoraSpec,
    {
        "rank": strict.count,
        "alpha": strict.number,
        "dropout": strict.number,
        "target_modules": strict.texts,
        "rslora": strict.flag,
        "dora": strict.flag,
        "init": strict.text,
    },
)
_PREFIX = strict.record(PrefixSpec, {"num_virtual_tokens": strict.count, "projection": strict.flag})
_SPECS: Mapping[str, strict.Reader] = {"lora": _LORA, "prefix": _PREFIX}
_BACKBONE = strict.record(
    BackboneRef,
    {
        "name": strict.text,
        "fingerprint": strict.text,
        "hub_id": strict.optional(strict.text),
        "revision": strict.optional(strict.text),
    },
)
_QUANTIZATION = strict.record(
    QuantizationSpec,
    {
        "scheme": strict.one_of(get_args(QuantizationScheme)),
        "compute_dtype": strict.one_of(get_args(ComputeDtype)),
    },
)
_DATA = strict.record(
    DataSource, {"fingerprint": strict.text, "rows": strict.count, "origin": strict.text}
)
_METRICS = strict.record(
    Metrics, {"before": strict.map_of(strict.number), "after": strict.map_of(strict.number)}
)
_FILE = strict.record(
    FileEntry, {"sha256": strict.matching(_SHA256, "64 hex digits"), "size": strict.count}
)
_MANIFEST = strict.record(
    Manifest,
    {
        "schema_version": strict.integer,
        "task": strict.text,
        "labels": _labels,
        "backbone": _BACKBONE,
        "quantization": _QUANTIZATION,
        "adapter": _adapter,
        "trained_parameters": strict.count,
        "backbone_parameters": strict.count,
        "recipe": strict.mapping,
        "data": strict.map_of(_DATA),
        "metrics": _METRICS,
        "seed": strict.optional(strict.integer),
        "libraries": strict.map_of(strict.text),
        "parent": strict.optional(strict.matching(_DIGEST, "'sha256:' and 64 hex digits")),
        "unknown": strict.texts,
        "files": _files,
    },
)
