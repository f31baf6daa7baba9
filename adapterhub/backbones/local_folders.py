"""Folders of backbones on this machine, found again by fingerprint.

An artifact names a backbone that is neither in the catalog nor on a Hub by its fingerprint, since
the folder means nothing elsewhere. Where the folder is here is kept in the user's data folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

from adapterhub.backbones.folder import default_root
from adapterhub.errors import BackboneError

_LOG = logging.getLogger(__name__)
_FOLDER = "backbones"
_FINGERPRINT = re.compile(r"sha256:(?P<weights>[0-9a-f]{64})(?:\+\w+)?")


def is_fingerprint(name: str) -> bool:
    """Return whether a backbone is named by its fingerprint."""
    return bool(_FINGERPRINT.fullmatch(name))


def remember_folder(fingerprint: str, folder: Path) -> None:
    """Record the folder of a backbone, the latest one if there are several.

    Args:
        fingerprint: Fingerprint, with or without a quantization scheme.
        folder: Folder that has it.
    """
    file = _file(fingerprint)
    if file is None or _read(file) == folder.absolute():
        return
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps({"folder": str(folder.absolute())}), encoding="utf-8")
        fresh.replace(file)
    except OSError as error:
        _LOG.warning("the folder of a backbone can't be recorded: %s", error)


def known_folder(fingerprint: str) -> Path | None:
    """Return the recorded folder of a backbone if it still exists."""
    file = _file(fingerprint)
    folder = _read(file) if file else None
    return folder if folder and folder.is_dir() else None


def require_folder(fingerprint: str) -> Path:
    """Return the recorded folder of a backbone.

    Raises:
        BackboneError: When no folder is recorded, or it is gone.
    """
    folder = known_folder(fingerprint)
    if folder is None:
        raise BackboneError(
            "the backbone with this fingerprint is a folder that is not known on this machine",
            place=fingerprint,
            hint="Name its folder once: adapterhub backbones show FOLDER",
        )
    return folder


def _file(fingerprint: str) -> Path | None:
    match = _FINGERPRINT.fullmatch(fingerprint)
    return default_root() / _FOLDER / f"{match['weights']}.json" if match else None


def _read(file: Path) -> Path | None:
    try:
        return Path(json.loads(file.read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
