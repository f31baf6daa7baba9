"""A finished artifact with more files and a longer card, so that what is told travels along."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import CARD_NAME, REQUIRED_FILES, read_artifact, write_artifact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_annotated(
    source: Path,
    target: Path,
    *,
    files: Mapping[str, bytes],
    section: str,
    parent: str | None = None,
) -> str:
    """Write a copy of an artifact that tells more, and return the copy's digest.

    Equal arguments give equal bytes.

    Args:
        source: the artifact.
        target: of the copy; what is there is replaced.
        files: name to content, beside those that it has.
        section: put at the end of the card, Markdown.
        parent: digest of the adapter that it was made from; as in ``source`` where ``None``.

    Raises:
        ArtifactError: when ``source`` is damaged.
    """
    artifact = read_artifact(source)
    manifest = artifact.manifest
    kept = {
        name: (source / name).read_bytes() for name in manifest.files if name not in REQUIRED_FILES
    }
    card = (source / CARD_NAME).read_text(encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    return write_artifact(
        target,
        tensors=artifact.weights.tensors,
        adapter_config=artifact.adapter_config,
        manifest=replace(manifest, files={}, parent=parent or manifest.parent),
        card=f"{card}\n{section}",
        extra_files={**kept, **files},
    )
