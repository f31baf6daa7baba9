"""Content that is refused under any name: pickles, which can run code, and archives."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from adapterhub.adapters.peft_format import CONFIG_NAME
from adapterhub.adapters.safetensors_header import read_header
from adapterhub.adapters.strict_json import read_object
from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

#: First bytes of archives.
_ARCHIVES = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b\x08",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
)
#: First bytes of pickles of protocol 2 to 5, and of numpy's arrays, which may hold pickles.
_PICKLES = (*(b"\x80" + bytes([protocol]) for protocol in range(2, 6)), b"\x93NUMPY")
_TAR, _TAR_AT = b"ustar", 257
_HEAD = 512


def check_content(name: str, file: Path, place: str = "") -> None:
    """Refuse a pickle or an archive, whatever its name, and an adapter file that cannot be parsed.

    Args:
        name: Name that the file has, or will have.
        file: File with its content.
        place: Name of the file in error messages; ``name`` by default.

    Raises:
        ArtifactError: When the file is refused.
    """
    place, base = place or name, PurePosixPath(name).name
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    tensors = base.endswith(".safetensors")
    # it begins with the length of its header, whose bytes may look like any other format
    if not (tensors and head[8:9] == b"{"):
        _check_head(head, place)
    if tensors:
        read_header(file, place)
    elif base == CONFIG_NAME:
        read_object(file, place)


def _check_head(head: bytes, place: str) -> None:
    if head.startswith(_PICKLES):
        raise ArtifactError(
            "holds a pickle, which can run code when it is read",
            place=place,
            hint="Convert its tensors with safetensors.torch.save_file and remove it",
        )
    if head.startswith(_ARCHIVES) or head[_TAR_AT:].startswith(_TAR):
        raise ArtifactError(
            "is an archive, and archives are not accepted",
            place=place,
            hint="Unpack it and add the files",
        )
