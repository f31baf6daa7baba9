"""Header of a safetensors file: names, types and shapes of its tensors, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from adapterhub.adapters.strict_json import parse_object
from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

#: Largest size of a header in bytes; a tensor takes about 150.
MAX_HEADER = 16 * 1024 * 1024
_METADATA = "__metadata__"
#: safetensors' names of floating-point types to torch's name, type of as many bits, and the bits
#: of the exponent, which are all set in NaN and infinity.
_FLOATS = {
    "F32": ("float32", "<u4", 0x7F80_0000),
    "F16": ("float16", "<u2", 0x7C00),
    "BF16": ("bfloat16", "<u2", 0x7F80),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as the header describes it.

    Args:
        dtype: Name of its type, torch's where adapters may have it.
        shape: Its shape.
        start: Offset of its first byte in the file.
        stop: Offset after its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)


def read_header(path: Path, place: str = "") -> dict[str, StoredTensor]:
    """Read the tensors that a safetensors file holds, without their values.

    Args:
        path: File.
        place: Name of the file in error messages.

    Raises:
        ArtifactError: When it is not a safetensors file, cut off, or has a header over
            ``MAX_HEADER`` bytes.
    """
    place = place or str(path)
    document, start = read_document(path, place)
    try:
        # checks types, and that the tensors fill the file without holes
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
        return {name: _stored(document[name], start) for name in names}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"is not a safetensors file: {error}", place=place) from error


def check_values(path: Path, tensors: dict[str, StoredTensor], place: str) -> None:
    """Require that no value is NaN or infinite.

    Args:
        path: File.
        tensors: Result of ``read_header``.
        place: Name of the file in error messages.
    """
    with path.open("rb") as file:
        for name, tensor in tensors.items():
            _, bits, exponent = next(each for each in _FLOATS.values() if each[0] == tensor.dtype)
            file.seek(tensor.start)
            values = np.frombuffer(file.read(tensor.stop - tensor.start), bits)
            if bad := int(np.count_nonzero((values & exponent) == exponent)):
                raise ArtifactError(
                    f"{bad} of {values.size} values are NaN or infinite",
                    place=f"{place}: {name}",
                    hint="The training run diverged or the file is damaged",
                )


def parse_header(content: bytes, place: str) -> tuple[dict[str, Any], int]:
    """Return the header as JSON, and the offset of the tensors' bytes.

    Args:
        content: The file, or its first ``MAX_HEADER + 9`` bytes.
        place: Name of the file in error messages.
    """
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + min(length, MAX_HEADER + 1)]
    if not header.startswith(b"{") or len(header) < min(length, MAX_HEADER):
        raise ArtifactError("is not a safetensors file: it has no header", place=place)
    document = parse_object(header, place, limit=MAX_HEADER)
    metadata = document.get(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise ArtifactError("must hold texts", place=f"{place}: {_METADATA}")
    return document, 8 + length


def read_document(path: Path, place: str) -> tuple[dict[str, Any], int]:
    """Return ``parse_header`` of a file, of which no more is read."""
    try:
        with path.open("rb") as file:
            length = file.read(8)
            return parse_header(length + file.read(_bounded(length)), place)
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", place=place) from error


def _bounded(length: bytes) -> int:
    return min(int.from_bytes(length, "little"), MAX_HEADER + 1)


def _stored(entry: dict[str, Any], start: int) -> StoredTensor:
    first, last = entry["data_offsets"]
    dtype = entry["dtype"]
    name = _FLOATS[dtype][0] if dtype in _FLOATS else str(dtype).lower()
    return StoredTensor(name, tuple(entry["shape"]), start + first, start + last)
