"""``manifest.json``: what an adapter is, what it was trained on, and the digest of each file.

The bytes are canonical and hold no time or duration, so the same training run gives the same
bytes, and a digest over them names the whole artifact.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import Field, GetPydanticSchema
from pydantic_core import core_schema

from adapterhub.adapters.migrations import MANIFEST_MIGRATIONS, upgrade
from adapterhub.adapters.strict_json import (
    STRICT,
    Count,
    Digest,
    Schema,
    Sha256,
    canonical_json,
    parse_object,
)
from adapterhub.errors import ArtifactError
from adapterhub.specs import (
    AdapterSpec,
    Ia3Spec,
    LoraSpec,
    PrefixSpec,
    PromptSpec,
    QuantizationSpec,
)

MANIFEST_NAME = "manifest.json"
#: Largest size of ``manifest.json``, in bytes.
MAX_MANIFEST = 8 * 1024 * 1024
SCHEMA_VERSION = len(MANIFEST_MIGRATIONS) + 1
#: Suffixes of Python pickles, which can run code when read.
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class _StoredLora:
    method: Literal["lora"]
    spec: LoraSpec


@dataclass(frozen=True, slots=True)
class _StoredPrefix:
    method: Literal["prefix"]
    spec: PrefixSpec


@dataclass(frozen=True, slots=True)
class _StoredPrompt:
    method: Literal["prompt"]
    spec: PromptSpec


@dataclass(frozen=True, slots=True)
class _StoredIa3:
    method: Literal["ia3"]
    spec: Ia3Spec


_StoredSpec = _StoredLora | _StoredPrefix | _StoredPrompt | _StoredIa3


def _stored_spec(_source: Any, build: Any) -> core_schema.CoreSchema:
    """Store a spec as ``{"method": …, "spec": …}``."""
    envelope = build(Annotated[_StoredSpec, Field(discriminator="method")])
    return core_schema.no_info_after_validator_function(
        lambda stored: stored.spec,
        envelope,
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda spec: {"method": spec.method, "spec": asdict(spec)}
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneRef:
    """The backbone that an adapter was trained on.

    Args:
        name: Name in the catalog, or the one given in the recipe.
        fingerprint: Digest over configuration, tokenizer and weights, with the quantization.
        hub_id: ``owner/name`` on the Hub, where known.
        revision: Commit or tag on the Hub, where known.
    """

    name: str
    fingerprint: str
    hub_id: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """The examples of one split.

    Args:
        fingerprint: Digest over the examples as used.
        num_examples: Number of examples; ``rows`` in the stored document.
        origin: File name, or ``hub:owner/name`` for a data set of the Hub.
    """

    fingerprint: str
    num_examples: Annotated[Count, Field(alias="rows")]
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Metrics by name on the validation split, without and with the adapter."""

    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """How an adapter of another method became this one when it was imported.

    Args:
        method: peft's name of the original method.
        rank: Largest rank of a layer.
        relative_error: Largest relative error of the change of a layer's weights, in the
            Frobenius norm; 0 where the conversion is exact.
        max_error: Largest absolute error of a weight.
    """

    method: str
    rank: Count
    relative_error: float
    max_error: float

    def __str__(self) -> str:
        if self.rank == 0:
            return f"from {self.method}, exactly"
        return (
            f"from {self.method} to LoRA of rank {self.rank}, "
            f"relative error {self.relative_error:.1e}, at most {self.max_error:.1e} in a weight"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the artifact.

    Args:
        sha256: Digest of its bytes, 64 lower-case hex digits.
        size: Size in bytes.
    """

    sha256: Sha256
    size: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything known about an adapter but its tensors.

    Args:
        task: Name of the task, e.g. ``text-classification``.
        labels: Labels in the order of the head's outputs; empty without a head.
        backbone: Backbone that the adapter was trained on.
        quantization: Quantization of that backbone in training.
        adapter: Method and hyper-parameters.
        trained_parameters: Number of trained parameters, heads included.
        backbone_parameters: Number of parameters of the frozen backbone.
        recipe: Recipe with every default filled in, as plain JSON.
        data: Split name to its examples.
        metrics: Metrics on the validation split.
        seed: Seed of the training run; ``None`` where it is not known.
        libraries: Package name to version.
        parent: Digest of the adapter that this one was made from, or ``None``.
        conversion: How the adapter was converted when it was imported; ``None`` if it was not.
        unknown: Keys of this document that were not recorded, sorted, for an adapter that was
            trained elsewhere; they hold an empty or an assumed value.
        files: Name to digest and size; filled in when the artifact is written.
        schema_version: Schema version of the document.
    """

    task: str
    labels: tuple[str, ...]
    backbone: BackboneRef
    quantization: QuantizationSpec
    adapter: Annotated[AdapterSpec, GetPydanticSchema(_stored_spec)]
    trained_parameters: Count
    backbone_parameters: Count
    recipe: Mapping[str, Any]
    data: Mapping[str, DataSource]
    metrics: Metrics
    seed: int | None
    libraries: Mapping[str, str]
    parent: Digest | None = None
    conversion: Conversion | None = None
    unknown: tuple[str, ...] = ()
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    __pydantic_config__ = STRICT

    @classmethod
    def from_json(cls, content: bytes) -> "Manifest":
        """Read a manifest of this schema or an older one."""
        stored = parse_object(content, MANIFEST_NAME, limit=MAX_MANIFEST)
        document = upgrade(stored, MANIFEST_MIGRATIONS, place=MANIFEST_NAME)
        manifest = _SCHEMA.read(document, MANIFEST_NAME)
        if len(set(manifest.labels)) != len(manifest.labels):
            raise ArtifactError("has the same label twice", place=f"{MANIFEST_NAME}: labels")
        for name in manifest.files:
            check_file_name(name, f"{MANIFEST_NAME}: files")
        return manifest

    def to_json(self) -> bytes:
        """Return the canonical bytes."""
        read = Manifest.from_json(_dump(self))
        if read != self:
            raise ArtifactError(
                "holds values that JSON does not keep (tuples, keys that are not text)",
                place=MANIFEST_NAME,
            )
        return _dump(read)


_SCHEMA = Schema(Manifest)


def digest_of(manifest_bytes: bytes) -> str:
    """Return the digest of the artifact with this ``manifest.json``."""
    return f"sha256:{sha256(manifest_bytes).hexdigest()}"


def check_file_name(name: str, place: str) -> None:
    """Refuse names that leave the artifact's folder, and pickles."""
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
        raise ArtifactError(
            f"{name!r} cannot be a file of an artifact",
            place=place,
            hint="Files lie in the folder itself; names have letters, digits, '.', '_' and '-'",
        )
    reject_pickle(name, place)


def reject_pickle(name: str, place: str) -> None:
    """Refuse the names under which pickles travel."""
    if _suffix(name) in PICKLE_SUFFIXES:
        raise ArtifactError(
            f"{name!r} is a pickle, which can run code when it is read",
            place=place,
            hint="Convert its tensors with safetensors.torch.save_file and remove it",
        )


def _dump(manifest: Manifest) -> bytes:
    try:
        document = _SCHEMA.dump(manifest)
    except ValueError as error:
        raise ArtifactError(f"cannot be written: {error}", place=MANIFEST_NAME) from error
    return canonical_json(document, MANIFEST_NAME)


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""
